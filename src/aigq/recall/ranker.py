"""The ranker: gradient-boosted trees over what the log says about a (moment, query) pair.

It orders the labels of IL-SFT (method.md section 3: without exposures, the ranker is a model of our own,
trained on the next queries against candidates of other channels) and the favourites in the prompt, and is a
row of the table on its own. With exposures, too, it learns from what was searched for: clicks on the few
hints that were shown say less of what a shopper wants next.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aigq.config import Config
from aigq.config_recall import RankerConfig
from aigq.errors import StageError
from aigq.prepared import Moment, Prepared
from aigq.recall.channel import Hint
from aigq.recall.features import FEATURES, FeatureMaker, Pairs
from aigq.recall.histories import batches, latest, training_samples
from aigq.tables import BEHAVIOURS

_MOMENTS_AT_ONCE = 512
_OWN = FEATURES.index("own_count")


class Ranker:
    """LightGBM over `features.FEATURES`. Each pair of a sample weighs 1 / the sample's targets.

    It is trained on the latest of `training_samples`. For their features, similarities are learned from
    behaviours before the first of them, so that a target never explains itself.

    Args:
        config: size of the model and of its training set.
        k_users: distinct users that must have issued a query before it is shown.
        seed: of bagging.
        folder: keeps the trained model, so that labels, prompts and the table's row share one; None: nowhere.
        only_new: rank queries alone that are new to the shopper.
    """

    name = "ranker"

    def __init__(
        self,
        config: RankerConfig,
        k_users: int,
        seed: int,
        folder: Path | None = None,
        *,
        only_new: bool = False,
    ) -> None:
        self._config, self._k, self._seed, self._folder = config, k_users, seed, folder
        self._only_new = only_new
        self._maker: FeatureMaker | None = None
        self._model: Any = None

    @classmethod
    def of(cls, config: Config, run: Path) -> "Ranker":
        """The one ranker of a run."""
        folder, only_new = run / "channels" / cls.name, config.samples.only_new
        return cls(config.channels.ranker, config.samples.k_users, config.seed, folder, only_new=only_new)

    def fit(self, prepared: Prepared) -> None:
        """Train, or read what was trained on the same data with the same settings.

        Raises:
            StageError: no training sample has a history and a target among its candidates.
        """
        import lightgbm

        rows = prepared.training_rows()
        samples = training_samples(prepared, only_new=self._only_new)
        samples = samples.filter(pc.greater(samples["n_before"], 0))
        samples = latest(samples, rows, prepared.validation_day, self._config.max_samples)
        if not samples.num_rows:
            raise StageError("ranker: no training sample has a history")
        kept = self._folder / f"{self._fingerprint(prepared, rows, samples)}.txt" if self._folder else None
        if kept is not None and kept.exists():
            self._model = lightgbm.Booster(model_file=kept)
        else:
            self._model = self._trained(prepared, rows, samples)
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                part = kept.with_suffix(".part")
                self._model.save_model(part)
                part.replace(kept)
        self._maker = self._features(prepared, rows)

    def recommend(self, moments: Sequence[Moment], n: int) -> list[list[Hint]]:
        """The n candidates most likely to be issued next. Scores order a list, and are no probabilities."""
        lists: list[list[Hint]] = []
        for _, batch in batches(moments, _MOMENTS_AT_ONCE):
            pairs, scores, bounds = self._scored(batch)
            for a, b in itertools.pairwise(bounds):
                best = a + np.argsort(-scores[a:b], kind="stable")[: max(0, n)]
                lists.append([self._hint(pairs, scores, i) for i in best])
        return lists

    def own(self, moments: Sequence[Moment]) -> list[list[str]]:
        """The shopper's own servable queries of each moment, the most likely next one first."""
        return self._ordered(moments, lambda pairs: pairs.values[:, _OWN] > 0)

    def trending(self, moments: Sequence[Moment]) -> list[list[str]]:
        """The shop's top queries of the days before each moment, the shopper's most likely next one first."""
        return self._ordered(moments, lambda pairs: pairs.popular)

    def own_and_trending(self, moments: Sequence[Moment]) -> list[list[str]]:
        """Both in one list, the shopper's most likely next one first."""
        return self._ordered(moments, lambda pairs: pairs.popular | (pairs.values[:, _OWN] > 0))

    def trend(self, day: int) -> list[str]:
        """The same for a day and a shopper of whom nothing is known."""
        start = np.datetime64(day, "D").astype("datetime64[us]")
        return self.trending([Moment(-1, "", start, day, BEHAVIOURS.empty_table())])[0]

    def _ordered(self, moments: Sequence[Moment], which: Callable[[Pairs], np.ndarray]) -> list[list[str]]:
        """Those candidates of each moment that `which` (P,) picks, the most likely next one first."""
        lists: list[list[str]] = []
        for _, batch in batches(moments, _MOMENTS_AT_ONCE):
            pairs, scores, bounds = self._scored(batch)
            scores = np.where(which(pairs), scores, -np.inf)
            for a, b in itertools.pairwise(bounds):
                order = a + np.argsort(-scores[a:b], kind="stable")
                texts = self._opened().vocabulary[pairs.query[order[scores[order] > -np.inf]]]
                lists.append(texts.tolist())
        return lists

    def _scored(self, moments: Sequence[Moment]) -> tuple[Pairs, np.ndarray, np.ndarray]:
        """Candidates of the moments, their scores (P,), and where each moment's pairs begin (M+1,)."""
        pairs = self._opened().pairs(moments)
        scores = self._model.predict(pairs.values) if len(pairs.moment) else np.zeros(0)
        return pairs, scores, np.searchsorted(pairs.moment, np.arange(len(moments) + 1))

    def _opened(self) -> FeatureMaker:
        if self._maker is None:
            raise StageError("ranker: recommend() before fit()")
        return self._maker

    def _hint(self, pairs: Pairs, scores: np.ndarray, i: int) -> Hint:
        reason = "one of your usual searches" if pairs.values[i, _OWN] > 0 else "fits what you look for"
        return Hint(str(self._opened().vocabulary[pairs.query[i]]), float(scores[i]), reason)

    def _fingerprint(self, prepared: Prepared, rows: pa.Table, samples: pa.Table) -> str:
        """Hash of all that the model is made from, to the last cell."""
        settings = [FEATURES, self._config.model_dump(), self._k, self._seed, self._only_new]
        digest = hashlib.sha256(json.dumps(settings).encode())
        for table in (rows, samples, prepared.queries, prepared.query_days):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table.combine_chunks())
            digest.update(sink.getvalue())
        return digest.hexdigest()[:16]

    def _trained(self, prepared: Prepared, rows: pa.Table, samples: pa.Table) -> Any:
        import lightgbm

        before = rows.filter(pc.less(rows["day"], int(samples["day"].to_numpy().min())))
        values, hit, weight, sizes = self._examples(prepared, samples, self._features(prepared, before))
        settings = {
            "objective": self._config.objective,
            "lambdarank_truncation_level": 30,
            "learning_rate": self._config.learning_rate,
            "num_leaves": self._config.leaves,
            "min_data_in_leaf": self._config.min_pairs_in_leaf,
            "feature_fraction": 0.5,
            "bagging_fraction": 0.7,
            "bagging_freq": 1,
            "lambda_l2": 10.0,
            "seed": self._seed,
            "deterministic": True,
            "force_row_wise": True,
            "verbose": -1,
        }
        groups = sizes if self._config.objective == "lambdarank" else None
        data = lightgbm.Dataset(values, hit, weight=weight, group=groups, feature_name=list(FEATURES))
        return lightgbm.train(settings, data, self._config.trees)

    def _features(self, prepared: Prepared, rows: pa.Table) -> FeatureMaker:
        config = self._config
        return FeatureMaker(
            prepared,
            rows,
            self._k,
            popular=config.popular,
            near=config.near,
            regression=config.similarity == "regression",
            only_new=self._only_new,
        )

    def _examples(
        self, prepared: Prepared, samples: pa.Table, maker: FeatureMaker
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
        """Features (P, F), hit (P,), weight (P,) and pairs per sample; samples without a hit are left out."""
        moments, targets = prepared.moments(samples), samples["targets"].to_pylist()
        values, hits, weights = [], [], []
        for start, batch in batches(moments, _MOMENTS_AT_ONCE):
            pairs = maker.pairs(batch)
            bounds = np.searchsorted(pairs.moment, np.arange(len(batch) + 1))
            for wanted, (a, b) in zip(targets[start:], itertools.pairwise(bounds), strict=False):
                hit = np.isin(maker.vocabulary[pairs.query[a:b]], wanted)
                if hit.any():
                    values.append(pairs.values[a:b])
                    hits.append(hit.astype(np.int8))
                    weights.append(np.full(b - a, 1 / len(wanted), np.float32))
        if not values:
            raise StageError("ranker: no candidate of the training samples was ever a target")
        return np.vstack(values), np.concatenate(hits), np.concatenate(weights), [len(hit) for hit in hits]
