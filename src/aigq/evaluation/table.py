"""The table: every row on the same users, with intervals and paired differences.

`evaluate_rows` turns lists into the content of metrics.json; `build_table` makes (or reuses) the lists of
every row of the config first, then writes RUN/metrics.json and RUN/report.html.
"""

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aigq.config import Config
from aigq.errors import ConfigError, EmptyLogError
from aigq.evaluation import intervals, metrics
from aigq.evaluation.lists import (
    Made,
    atomic,
    fingerprint_of,
    make_lists,
    prepared_fingerprint,
    progress,
    read_lists,
    write_lists,
)
from aigq.evaluation.supply import shares
from aigq.prepared import CausalCounts, Prepared
from aigq.progress import note
from aigq.recall.channel import BenchMissing, RecallChannel
from aigq.runs import installed
from aigq.systems import NEW
from aigq.tables import Split

METRICS = (
    "query_hr",
    "query_hr_any",
    "cate_hr",
    "sem_sim",
    "unique_cates",
    "novel_query_hr",
    "novel_cate_hr",
    "repeat_query_hr",
    "near_dup",
)
"""Metrics of a row, at the main K."""

AT_EVERY_K = METRICS[:-1]
"""Metrics also given at each cut-off, as `METRIC_at`."""

_NOT_READ: Any = {"replay": True, "data": {"path"}, "history": {"memory_limit"}}
"""Of a config, what no number of a table depends on."""

_PACKAGES = ("aigq", "numpy", "pyarrow", "rapidfuzz", "torch", "transformers", "sentence-transformers")

SLICES = ("cold", "warm")
SLICED = ("query_hr", "cate_hr", "novel_query_hr")

Columns = dict[str, np.ndarray]


class Judge:
    """What is the same for every row: samples, targets, categories, embeddings, resamples."""

    def __init__(
        self,
        lists: Mapping[str, pa.Table],
        prepared: Prepared,
        config: Config,
        samples: pa.Table,
        encode: Any,
    ) -> None:
        self.ks = sorted(config.evaluation.ks)
        self.k = self.ks[-1]
        self.vocabulary = metrics.Vocabulary()
        self.targets = metrics.Targets.of(samples, self.vocabulary)
        sample_ids = samples["sample_id"].to_numpy()
        self.codes = {
            name: metrics.padded(table, sample_ids, self.vocabulary) for name, table in lists.items()
        }
        self.texts = self.vocabulary.texts
        self.vectors = encode(self.texts) if encode is not None and self.texts else None
        self.category = _category_codes(prepared, self.texts)
        self.user_ids, self.users = np.unique(
            samples["user_id"].to_numpy(zero_copy_only=False), return_inverse=True
        )
        self.cold = samples["n_before"].to_numpy() <= metrics.COLD_BEHAVIOURS
        self.days = samples["day"].to_numpy()
        self.counts, self.k_users = CausalCounts(prepared.query_days, None), config.samples.k_users

    def columns(self, system: str) -> Columns:
        """Every metric of one system per sample: name -> (samples,)."""
        codes = metrics.widen(self.codes[system], self.k)
        novel, repeat = self.targets.where(self.targets.novel), self.targets.where(~self.targets.novel)
        at_k = {
            "query_hr": metrics.query_hr(codes, self.targets),
            "query_hr_any": metrics.query_hr_any(codes, self.targets),
            "cate_hr": metrics.cate_hr(codes, self.targets, self.category),
            "unique_cates": metrics.unique_cates(codes, self.category),
            "novel_query_hr": metrics.query_hr(codes, novel),
            "novel_cate_hr": metrics.cate_hr(codes, novel, self.category),
            "repeat_query_hr": metrics.query_hr(codes, repeat),
        }
        columns = {f"{name}@{k}": values[:, k - 1] for name, values in at_k.items() for k in self.ks}
        columns |= {f"curve@{k + 1}": at_k["query_hr"][:, k] for k in range(self.k)}
        columns |= {f"sem_sim@{k}": values for k, values in zip(self.ks, self._sem_sim(codes).T, strict=True)}
        columns |= {name: columns[f"{name}@{self.k}"] for name in AT_EVERY_K}
        columns["near_dup"] = metrics.near_duplicates(codes, self.texts)
        for slice_, mask in zip(SLICES, (self.cold, ~self.cold), strict=True):
            columns |= {f"{slice_}.{name}": np.where(mask, columns[name], np.nan) for name in SLICED}
        return columns

    def validity(self, system: str) -> dict[str, float]:
        """Shares of the system's lists that are valid and that break each rule."""
        codes = self.codes[system]
        servable = metrics.servable_entries(codes, self.days, self.counts, self.k_users, self.vocabulary)
        return metrics.validity(codes, self.k, servable).shares()

    def _sem_sim(self, codes: np.ndarray) -> np.ndarray:
        if self.vectors is None:
            return np.full((len(codes), len(self.ks)), np.nan)
        return metrics.sem_sim(codes, self.targets, self.vectors, self.ks)


def evaluate_rows(
    lists: Mapping[str, pa.Table],
    prepared: Prepared,
    config: Config,
    *,
    samples: pa.Table,
    encode: metrics.Encode | None,
    seconds_per_1k: Mapping[str, float],
    supply: Mapping[str, pa.Table] | None = None,
) -> dict[str, Any]:
    """The content of metrics.json.

    Args:
        lists: a LISTS table per system; the order is the order of the rows.
        prepared: the prepared tables.
        config: the run.
        samples: the samples to judge on, all of one split.
        encode: texts -> unit vectors, for SemSim; None leaves it null.
        seconds_per_1k: what 1,000 users cost each system, where known.
        supply: a SUPPLY table for each system that blends others.
    """
    if not samples.num_rows:
        raise EmptyLogError(
            "no samples to evaluate on: the split has no user with enough history and a target"
        )
    judge = Judge(lists, prepared, config, samples, encode)
    compare = _compare_to(config, list(lists))
    values: dict[str, np.ndarray] = {}
    names: list[str] = []
    for system in lists:
        columns = judge.columns(system)
        names = list(columns)
        stacked = np.column_stack(list(columns.values()))
        values[system] = intervals.user_means(stacked, judge.users, len(judge.user_ids))
    resamples, seed = config.evaluation.bootstrap, config.seed
    rows = []
    for system in lists:
        against = _counterpart(system, compare, list(lists))
        difference = values[system] - values[against]
        both = np.hstack([values[system], difference])
        ci = intervals.bootstrap95(both, resamples, seed)
        means = intervals.mean_over_users(both)
        n = len(names)
        row = _row(system, judge, names, values[system], means[:n], ci[:n])
        if system != against:
            row["compared_to"] = against
            paired = (~np.isnan(difference)).sum(axis=0)
            row["difference"] = _difference(names, means[n:], ci[n:], paired)
        row["validity"] = judge.validity(system)
        row["seconds_per_1k_users"] = seconds_per_1k.get(system)
        if supply and system in supply:
            row["supply"] = shares(supply[system], judge.k)
        rows.append(row)
    cleaned: dict[str, Any] = clean(_header(judge, prepared, config, samples, compare) | {"rows": rows})
    return cleaned


def build_table(
    config: Config,
    run: Path,
    *,
    build: Callable[[str], RecallChannel],
    encode: metrics.Encode | None = None,
    fingerprint: Callable[[str], str] | None = None,
    trained: Callable[[str], dict[str, Any] | None] = lambda row: None,
    split: Split = "test",
) -> dict[str, Any]:
    """Make or reuse the lists of every row, judge them, write RUN/metrics.json and RUN/report.html.

    Args:
        config: the run; `config.evaluation.rows` names the rows.
        run: the run folder, which holds `prepared`.
        build: the channel of a row, not fitted yet. Only called when its lists are not there.
        encode: texts -> unit vectors, for SemSim.
        fingerprint: what a row's lists depend on besides the prepared tables and the samples, as text, for
            example a hash of its config section and checkpoint; default: the whole config but `evaluation`.
        trained: what the training behind a row took, for metrics.json; None where there was none.
        split: which samples to judge on.
    """
    from aigq.evaluation.report import write_report

    prepared = Prepared.load(run / "prepared")
    samples = subset(prepared.split(split), config.evaluation.max_users, config.seed)
    _compare_to(config, config.evaluation.rows)
    version_of = fingerprint or (lambda _: config_fingerprint(config))
    data, k, ids = (
        prepared_fingerprint(run / "prepared"),
        max(config.evaluation.ks),
        samples["sample_id"].to_numpy(),
    )
    made: dict[str, Made] = {}
    skipped: dict[str, str] = {}
    for system in config.evaluation.rows:
        mark = fingerprint_of(system, version_of(system), data, sample_ids=ids, n=k)
        kept = read_lists(run, system, mark)
        if kept is None:
            try:
                with progress(system, samples.num_rows) as advance:
                    kept = make_lists(system, build(system), prepared, samples, k, advance)
            except BenchMissing as error:
                note(f"row {system} is left out: {error}")
                skipped[system] = str(error)
                continue
            write_lists(run, kept, mark)
        made[system] = kept
    lists = {system: m.lists for system, m in made.items()}
    seconds = {system: m.seconds_per_1k_users for system, m in made.items()}
    supply = {system: m.supply for system, m in made.items() if m.supply is not None}
    result = evaluate_rows(
        lists,
        prepared,
        config,
        samples=samples,
        encode=encode,
        seconds_per_1k=seconds,
        supply=supply,
    )
    result["skipped"] = skipped
    for row in result["rows"]:
        row["trained"] = trained(row["system"])
    with atomic(run / "metrics.json") as partial:
        text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")
    write_report(result, run, prepared=prepared, config=config, samples=samples, lists=lists)
    return result


def subset(samples: pa.Table, max_users: int | None, seed: int) -> pa.Table:
    """All samples of a seeded draw of users, in sample order."""
    users = sorted(samples["user_id"].unique().to_pylist())
    if max_users is None or len(users) <= max_users:
        return samples
    drawn = np.random.default_rng(seed).choice(len(users), size=max_users, replace=False)
    return samples.filter(pc.is_in(samples["user_id"], pa.array([users[i] for i in drawn])))


def config_fingerprint(config: Config) -> str:
    """Hash of the whole config but its `evaluation` section."""
    content = config.model_dump(mode="json", exclude={"evaluation"})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def clean(value: Any) -> Any:
    """JSON-ready: NaN and infinities become null, numpy scalars plain numbers, floats six decimals."""
    if isinstance(value, Mapping):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [clean(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return round(value, 6) if np.isfinite(value) else None
    return value


def _row(
    system: str, judge: Judge, names: list[str], values: np.ndarray, means: np.ndarray, ci: np.ndarray
) -> dict[str, Any]:
    at = {name: i for i, name in enumerate(names)}
    counted = (~np.isnan(values)).sum(axis=0)
    with_intervals = [*METRICS, *(f"{name}@{k}" for name in AT_EVERY_K for k in judge.ks)]
    row: dict[str, Any] = {"system": system} | {name: means[at[name]] for name in METRICS}
    row["users"] = len(judge.user_ids)
    row |= {f"{name}_users": counted[at[f"{name}_query_hr"]] for name in ("novel", "repeat")}
    row["ci95"] = {name: ci[at[name]] for name in with_intervals}
    for name in AT_EVERY_K:
        row[f"{name}_at"] = {k: means[at[f"{name}@{k}"]] for k in judge.ks}
    row["query_hr_curve"] = [means[at[f"curve@{k + 1}"]] for k in range(judge.k)]
    hinted = (judge.codes[system] >= 0).any(axis=1)
    masks = zip(SLICES, (judge.cold, ~judge.cold), strict=True)
    row["slices"] = {
        slice_: {name: means[at[f"{slice_}.{name}"]] for name in SLICED}
        | {"samples": int(mask.sum()), "with_hints": int((mask & hinted).sum())}
        | {"users": counted[at[f"{slice_}.query_hr"]]}
        | {"ci95": {name: ci[at[f"{slice_}.{name}"]] for name in SLICED}}
        for slice_, mask in masks
    }
    return row


def _difference(names: list[str], means: np.ndarray, ci: np.ndarray, paired: np.ndarray) -> dict[str, Any]:
    """Row minus compared row, on users that both have; `significant`: the interval leaves out zero.

    The interval of a single user has no width, which says nothing about others: never significant.
    """
    result = {}
    for name in METRICS:
        i = names.index(name)
        low, high = ci[i]
        significant = bool(paired[i] > 1 and (low > 0 or high < 0))
        result[name] = {"mean": means[i], "ci95": [low, high], "significant": significant}
    return result


def _header(
    judge: Judge, prepared: Prepared, config: Config, samples: pa.Table, compare: str
) -> dict[str, Any]:
    days = judge.days.astype("datetime64[D]")
    categorised = judge.category[judge.targets.code] >= 0
    return {
        "dataset": config.name,
        "mode": "exposure" if samples["shown"].null_count < samples.num_rows else "bootstrap",
        "queries": _provenance(prepared.queries),
        "clicks": prepared.clicks,
        "k": judge.k,
        "ks": judge.ks,
        "split": ", ".join(sorted(samples["split"].unique().to_pylist())),
        "unit": config.samples.unit,
        "dates": {
            "validation_from": str(config.split.validation_from),
            "test_from": str(config.split.test_from),
            "first_sample": str(days.min()),
            "last_sample": str(days.max()),
        },
        "users": len(judge.user_ids),
        "users_of_split": len(pc.unique(_same_split(prepared, samples)["user_id"])),
        "samples": samples.num_rows,
        "targets": len(judge.targets.code),
        "novel_targets": float(judge.targets.novel.mean()) if len(judge.targets.novel) else None,
        "targets_with_category": float(categorised.mean()) if len(categorised) else None,
        "seed": config.seed,
        "bootstrap": config.evaluation.bootstrap,
        "compare_to": compare,
        "k_users": config.samples.k_users,
        "encoder": config.encoder.name if judge.vectors is not None else None,
        "config": config.model_dump(mode="json", exclude=_NOT_READ),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of what computed the numbers."""
    packages = {name: found for name in _PACKAGES if (found := installed(name))}
    return {"python": platform.python_version(), **packages}


def _same_split(prepared: Prepared, samples: pa.Table) -> pa.Table:
    return prepared.samples.filter(pc.is_in(prepared.samples["split"], samples["split"].unique()))


def _provenance(queries: pa.Table) -> str:
    kinds = sorted(queries["provenance"].unique().to_pylist())
    return kinds[0] if len(kinds) == 1 else "mixed" if kinds else "unknown"


def _counterpart(system: str, compare: str, systems: Sequence[str]) -> str:
    """The row to compare with: `compare`, or for rows `:new` its own row of that kind, if it is there."""
    new = compare + NEW
    return new if system.endswith(NEW) and new in systems else compare


def _compare_to(config: Config, systems: Sequence[str]) -> str:
    if not systems:
        raise ConfigError("evaluation.rows is empty: name at least one row")
    compare = config.evaluation.compare_to or systems[-1]
    if compare not in systems:
        raise ConfigError(f"evaluation.compare_to: {compare} is not among the rows {', '.join(systems)}")
    return compare


def _category_codes(prepared: Prepared, texts: Sequence[str]) -> np.ndarray:
    by_text = {metrics.normalise(query): category for query, category in prepared.category_of.items()}
    numbers = {category: i for i, category in enumerate(sorted(set(by_text.values())))}
    return np.array([numbers.get(by_text.get(text, ""), -1) for text in texts], dtype=np.int64)
