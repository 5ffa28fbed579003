"""Every metric of a row, per sample: what `table.py` makes means and intervals of."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from aigq.config import Config
from aigq.evaluation import metrics
from aigq.prepared import CausalCounts, Prepared

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
        encode: metrics.Encode | None,
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


def _category_codes(prepared: Prepared, texts: Sequence[str]) -> np.ndarray:
    by_text = {metrics.normalise(query): category for query, category in prepared.category_of.items()}
    numbers = {category: i for i, category in enumerate(sorted(set(by_text.values())))}
    return np.array([numbers.get(by_text.get(text, ""), -1) for text in texts], dtype=np.int64)
