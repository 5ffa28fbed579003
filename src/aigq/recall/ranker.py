"""The ranker of bootstrap mode: gradient-boosted trees over what the log says about a (moment, query) pair.

It orders the labels of IL-SFT (METHOD section 3: without exposures, the ranker is a model of our own, trained
on the next queries against candidates of other channels), and is a row of the table on its own.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aigq.config import RankerConfig
from aigq.errors import StageError
from aigq.prepared import Moment, Prepared
from aigq.recall.channel import Hint
from aigq.recall.features import FEATURES, FeatureMaker
from aigq.recall.histories import batches

_MOMENTS_AT_ONCE = 512


class Ranker:
    """LambdaMART (LightGBM) over `features.FEATURES`.

    It is trained on the latest training samples. For their features, similarities are learned from behaviours
    before the first of them, so that a target never explains itself.

    Args:
        config: size of the model and of its training set.
        k_users: distinct users that must have issued a query before it is shown.
        seed: of bagging.
    """

    name = "ranker"

    def __init__(self, config: RankerConfig, k_users: int, seed: int) -> None:
        self._config, self._k, self._seed = config, k_users, seed
        self._maker: FeatureMaker | None = None
        self._model: Any = None

    def fit(self, prepared: Prepared) -> None:
        """Train on the latest training samples that have a history."""
        import lightgbm

        rows = prepared.training_rows()
        samples = self._latest(prepared, rows)
        before = rows.filter(pc.less(rows["day"], int(samples["day"].to_numpy().min())))
        values, hit, weight, sizes = self._examples(
            prepared, samples, FeatureMaker(prepared, before, self._k)
        )
        settings = {
            "objective": "lambdarank",
            "lambdarank_truncation_level": 30,
            "learning_rate": self._config.learning_rate,
            "num_leaves": self._config.leaves,
            "min_data_in_leaf": 100,
            "feature_fraction": 0.5,
            "bagging_fraction": 0.7,
            "bagging_freq": 1,
            "lambda_l2": 10.0,
            "seed": self._seed,
            "deterministic": True,
            "force_row_wise": True,
            "verbose": -1,
        }
        data = lightgbm.Dataset(values, hit, group=sizes, weight=weight, feature_name=list(FEATURES))
        self._model = lightgbm.train(settings, data, self._config.trees)
        self._maker = FeatureMaker(prepared, rows, self._k)

    def recommend(self, moments: Sequence[Moment], n: int) -> list[list[Hint]]:
        """The n candidates with the highest scores."""
        if self._maker is None:
            raise StageError("ranker: recommend() before fit()")
        lists: list[list[Hint]] = []
        for _, batch in batches(moments, _MOMENTS_AT_ONCE):
            pairs = self._maker.pairs(batch)
            scores = self._model.predict(pairs.values) if len(pairs.moment) else np.zeros(0)
            bounds = np.searchsorted(pairs.moment, np.arange(len(batch) + 1))
            own = pairs.values[:, FEATURES.index("own_count")] > 0
            for a, b in zip(bounds, bounds[1:], strict=False):
                best = a + np.argsort(-scores[a:b], kind="stable")[:n]
                lists.append(
                    [
                        Hint(
                            str(self._maker.vocabulary[pairs.query[i]]),
                            float(scores[i]),
                            "one of your usual searches" if own[i] else "fits what you look for",
                        )
                        for i in best
                    ]
                )
        return lists

    def _latest(self, prepared: Prepared, rows: pa.Table) -> pa.Table:
        """The latest training samples with a history, none of the first third of the training days."""
        first = pc.min(rows["day"]).as_py() or 0
        start = first + (prepared.validation_day - first) // 3
        samples = prepared.split("train")
        samples = samples.filter(
            pc.and_(pc.greater(samples["n_before"], 0), pc.greater_equal(samples["day"], start))
        )
        samples = samples.slice(max(0, samples.num_rows - self._config.max_samples))
        if not samples.num_rows:
            raise StageError("ranker: no training sample has a history")
        return samples

    def _examples(
        self, prepared: Prepared, samples: pa.Table, maker: FeatureMaker
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Features (P, F), hit (P,), weight (P,) and pairs per sample; samples without a hit are left out."""
        moments, targets = prepared.moments(samples), samples["targets"].to_pylist()
        values, hits, weights, sizes = [], [], [], []
        for start, batch in batches(moments, _MOMENTS_AT_ONCE):
            pairs = maker.pairs(batch)
            bounds = np.searchsorted(pairs.moment, np.arange(len(batch) + 1))
            for i, (a, b) in enumerate(zip(bounds, bounds[1:], strict=False)):
                wanted = targets[start + i]
                hit = np.isin(maker.vocabulary[pairs.query[a:b]], wanted)
                if not hit.any():
                    continue
                values.append(pairs.values[a:b])
                hits.append(hit.astype(np.int8))
                weights.append(np.full(b - a, 1 / len(wanted), np.float32))
                sizes.append(b - a)
        if not values:
            raise StageError("ranker: no candidate of the training samples was ever a target")
        return np.vstack(values), np.concatenate(hits), np.concatenate(weights), np.array(sizes)
