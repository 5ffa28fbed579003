"""Embedding-based retrieval: two towers, and the nearest queries of a shopper's vector."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from aigq.config_recall import EbrConfig
from aigq.errors import EmptyLogError, StageError
from aigq.models.columns import age_buckets
from aigq.models.text_encoder import TextEncoder
from aigq.prepared import CausalCounts, Moment, Prepared
from aigq.recall.channel import Hint
from aigq.recall.histories import batches, codes_in, recent_behaviours

if TYPE_CHECKING:
    from aigq.models.two_tower import HistoryArrays


MAX_SAMPLES: Final = 40_000  # trained on at most so many, seeded, to bound the time of `fit`
_EXPANSION: Final = 256  # vectors that a search in the graph looks at


class Ebr:
    """Two-tower retrieval with a usearch index over the queries that may be shown.

    Args:
        config: sizes and training.
        encoder: embeds behaviours and queries.
        k_users: distinct users that must have issued a query before it is learned or shown.
        seed: of the weights, of the order of training and of the samples trained on, see MAX_SAMPLES.
    """

    name = "ebr"

    def __init__(self, config: EbrConfig, encoder: TextEncoder, k_users: int, seed: int) -> None:
        self._config, self._encoder, self._k, self._seed = config, encoder, k_users, seed
        self._counts: CausalCounts | None = None
        self._model: Any = None
        self._texts = np.zeros(0, dtype=object)
        self._indexes: dict[bytes, tuple[Any, np.ndarray]] = {}

    def fit(self, prepared: Prepared) -> None:
        """Embed every text of the training rows, train both towers on the training samples."""
        import torch

        from aigq.models.two_tower import TwoTower, train

        self._counts, self._indexes = CausalCounts(prepared.query_days, None), {}
        allowed = self._counts.servable(prepared.validation_day, self._k)
        seen = set(prepared.training_rows()["text"].unique().to_pylist())
        self._texts = np.array(sorted(seen | allowed), dtype=object)
        samples, targets = self._training(prepared, allowed)
        popularity = np.bincount(np.concatenate(targets), minlength=len(self._texts))
        torch.manual_seed(self._seed)
        self._model = TwoTower(self._encoder.encode(self._texts.tolist()), self._config.dim)
        train(
            self._model,
            self._histories(prepared.moments(samples)),
            targets,
            popularity,
            epochs=self._config.epochs,
            batch_size=self._config.batch_size,
            learning_rate=self._config.learning_rate,
            seed=self._seed,
        )

    def recommend(self, moments: Sequence[Moment], n: int) -> list[list[Hint]]:
        """The n nearest servable queries; nothing for an empty history."""
        import torch

        if self._counts is None:
            raise StageError("ebr: recommend() before fit()")
        lists: list[list[Hint]] = [[] for _ in moments]
        by_day: dict[int, list[int]] = {}
        for position, moment in enumerate(moments):
            if moment.history.num_rows and n > 0:
                by_day.setdefault(moment.day, []).append(position)
        for day, positions in by_day.items():
            index, codes = self._index(day)
            if len(codes) == 0:
                continue
            for start, part in batches([moments[p] for p in positions], 1024):
                with torch.inference_mode():
                    arrays = self._histories(part).take(np.arange(len(part)))
                    vectors = self._model.users(*arrays).numpy()
                for moment_position in range(len(part)):
                    wanted = min(n, len(codes))  # the graph only reaches so far, then all are compared
                    found = index.search(vectors[moment_position], wanted, exact=wanted > _EXPANSION // 2)
                    lists[positions[start + moment_position]] = self._hints(found, codes)
        return lists

    def _hints(self, found: Any, codes: np.ndarray) -> list[Hint]:
        reason = "close to what you looked at lately"
        pairs = sorted(zip(found.distances.tolist(), found.keys.tolist(), strict=True))
        return [Hint(str(self._texts[codes[key]]), 1.0 - distance, reason) for distance, key in pairs]

    def _index(self, day: int) -> tuple[Any, np.ndarray]:
        """The index of the queries that may be shown that day, and their positions (Q,) among the texts.

        Days with the same servable queries share one index.
        """
        import torch
        from usearch.index import Index

        assert self._counts is not None
        queries = self._counts.queries[self._counts.before(day)[1] >= self._k]
        codes = codes_in(pa.chunked_array([pa.array(queries.tolist(), pa.string())]), self._texts)
        codes = codes[codes >= 0]  # queries that nobody had issued in training have no vector
        key = codes.tobytes()
        if key not in self._indexes:
            index = Index(ndim=self._config.dim + 1, metric="ip", dtype="f32", expansion_search=_EXPANSION)
            if len(codes):
                with torch.inference_mode():
                    vectors = self._model.queries(torch.from_numpy(codes)).numpy()
                index.add(np.arange(len(codes)), vectors, threads=1)
            self._indexes[key] = index, codes
        return self._indexes[key]

    def _training(self, prepared: Prepared, allowed: set[str]) -> tuple[pa.Table, list[np.ndarray]]:
        """Samples with a history and a target that may be learned, and those targets' positions."""
        samples = prepared.split("train")
        place = {text: position for position, text in enumerate(self._texts)}
        targets = [
            np.array([place[q] for q in row if q in allowed], dtype=np.int64)
            for row in samples["targets"].to_pylist()
        ]
        before = samples["n_before"].to_numpy()
        usable = np.array([i for i, row in enumerate(targets) if len(row) and before[i] > 0], dtype=np.int64)
        if not len(usable):
            raise EmptyLogError("ebr: no training sample has a history and a query that may be learned")
        if len(usable) > MAX_SAMPLES:
            rng = np.random.default_rng(self._seed)
            usable = np.sort(rng.choice(usable, MAX_SAMPLES, replace=False))
        return samples.take(pa.array(usable)), [targets[i] for i in usable]

    def _histories(self, moments: Sequence[Moment]) -> "HistoryArrays":
        """The most recent behaviours of each moment (N, L), newest first."""
        from aigq.models.two_tower import HistoryArrays

        length = self._config.max_behaviours
        text, days, action = recent_behaviours(moments, length, lambda texts: codes_in(texts, self._texts))
        return HistoryArrays(text, age_buckets(days), action)
