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
from aigq.errors import ConfigError, EmptyLogError, StageError
from aigq.evaluation import intervals, metrics
from aigq.evaluation.judge import AT_EVERY_K, METRICS, SLICED, SLICES, Judge
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
from aigq.prepared import Prepared
from aigq.progress import note
from aigq.recall.channel import RecallChannel, RowMissing
from aigq.runs import installed
from aigq.systems import NEW, SERVED, steps
from aigq.tables import Split

_NOT_READ: Any = {"replay": True, "data": {"path"}, "history": {"memory_limit"}}
"""Of a config, what no number of a table depends on."""

_PACKAGES = ("aigq", "numpy", "pyarrow", "rapidfuzz", "torch", "transformers", "sentence-transformers")


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
    compare = compared_to(config, list(lists))
    names, values = _user_means(list(lists), judge)
    rows = []
    for system in lists:
        row = _compared(system, _counterpart(system, compare, list(lists)), judge, names, values, config)
        row["validity"] = judge.validity(system)
        row["seconds_per_1k_users"] = seconds_per_1k.get(system)
        if supply and system in supply:
            row["supply"] = shares(supply[system], judge.k)
        rows.append(row)
    header = _header(judge, prepared, config, samples, compare)
    cleaned: dict[str, Any] = clean(header | {"rows": rows, "steps": _steps(names, values, config)})
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

    Raises:
        ConfigError: no rows, or none to compare to.
        StageError: every row is left out.
    """
    from aigq.evaluation.report import write_report

    prepared = Prepared.load(run / "prepared")
    samples = subset(prepared.split(split), config.evaluation.max_users, config.seed)
    compared_to(config, config.evaluation.rows)
    version_of = fingerprint or (lambda _: config_fingerprint(config))
    made, skipped = _lists_of_rows(config, run, prepared, samples, build, version_of)
    if not made:
        raise StageError(
            f"every row is left out: {'; '.join(f'{row}: {why}' for row, why in skipped.items())}"
        )
    if config.evaluation.compare_to in skipped:
        note(f"rows are compared to {list(made)[-1]}, as {config.evaluation.compare_to} is left out")
        rest = config.evaluation.model_copy(update={"compare_to": None})
        config = config.model_copy(update={"evaluation": rest})
    lists = {system: m.lists for system, m in made.items()}
    result = evaluate_rows(
        lists,
        prepared,
        config,
        samples=samples,
        encode=encode,
        # rows of the serving path share what was written for the first of them
        seconds_per_1k={row: m.seconds_per_1k_users for row, m in made.items() if row not in SERVED},
        supply={system: m.supply for system, m in made.items() if m.supply is not None},
    )
    result["skipped"] = skipped
    for row in result["rows"]:
        row["trained"] = trained(row["system"])
    with atomic(run / "metrics.json") as partial:
        text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
        partial.write_text(text + "\n", encoding="utf-8")
    write_report(result, run, prepared=prepared, config=config, samples=samples, lists=lists)
    return result


def _lists_of_rows(
    config: Config,
    run: Path,
    prepared: Prepared,
    samples: pa.Table,
    build: Callable[[str], RecallChannel],
    version_of: Callable[[str], str],
) -> tuple[dict[str, Made], dict[str, str]]:
    """The lists of each row, made unless the run holds them; and of rows that are left out, why."""
    data, ids = prepared_fingerprint(run / "prepared"), samples["sample_id"].to_numpy()
    k = max(config.evaluation.ks)
    made: dict[str, Made] = {}
    skipped: dict[str, str] = {}
    for system in config.evaluation.rows:
        mark = fingerprint_of(system, version_of(system), data, sample_ids=ids, n=k)
        kept = read_lists(run, system, mark)
        if kept is None:
            try:
                with progress(system, samples.num_rows) as advance:
                    kept = make_lists(system, build(system), prepared, samples, k, advance)
            except RowMissing as error:
                note(f"row {system} is left out: {error}")
                skipped[system] = str(error)
                continue
            write_lists(run, kept, mark)
        made[system] = kept
    return made, skipped


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


def _user_means(systems: Sequence[str], judge: Judge) -> tuple[list[str], dict[str, np.ndarray]]:
    """Names of the M columns, and each system's means by user (users, M)."""
    names: list[str] = []
    means = {}
    for system in systems:
        columns = judge.columns(system)
        names = list(columns)
        stacked = np.column_stack(list(columns.values()))
        means[system] = intervals.user_means(stacked, judge.users, len(judge.user_ids))
    return names, means


def _compared(
    system: str,
    against: str,
    judge: Judge,
    names: list[str],
    values: Mapping[str, np.ndarray],
    config: Config,
) -> dict[str, Any]:
    """The row of a system, with its difference from another; both are resampled together."""
    difference = values[system] - values[against]
    both = np.hstack([values[system], difference])
    ci = intervals.bootstrap95(both, config.evaluation.bootstrap, config.seed)
    means, n = intervals.mean_over_users(both), len(names)
    row = _row(system, judge, names, values[system], means[:n], ci[:n])
    if system != against:
        row["compared_to"] = against
        paired = (~np.isnan(difference)).sum(axis=0)
        row["difference"] = _difference(names, means[n:], ci[n:], paired)
    return row


def _steps(names: list[str], values: Mapping[str, np.ndarray], config: Config) -> list[dict[str, Any]]:
    """Paired differences of the paper's steps between rows that are there."""
    found = []
    for row, above in steps(list(values)):
        difference = values[row] - values[above]
        ci = intervals.bootstrap95(difference, config.evaluation.bootstrap, config.seed)
        paired = (~np.isnan(difference)).sum(axis=0)
        means = intervals.mean_over_users(difference)
        found.append({"row": row, "above": above, "difference": _difference(names, means, ci, paired)})
    return found


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


def compared_to(config: Config, systems: Sequence[str]) -> str:
    """The row that others are compared to. Raises ConfigError where there is none."""
    if not systems:
        raise ConfigError("evaluation.rows is empty: name at least one row")
    compare = config.evaluation.compare_to or systems[-1]
    if compare not in systems:
        raise ConfigError(f"evaluation.compare_to: {compare} is not among the rows {', '.join(systems)}")
    return compare
