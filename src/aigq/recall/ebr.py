"""Embedding-based retrieval: two towers, and the nearest queries of a shopper's vector."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from aigq.config_recall import EbrConfig
from aigq.errors import EmptyLogError, StageError
from aigq.models.columns import age_buckets
from aigq.models.text_encoder import TextEncoder
from aigq.prepared import CausalCounts, Moment, Prepared
from aigq.progress import note
from aigq.recall.channel import Hint
from aigq.recall.histories import batches, codes_in, recent_behaviours, training_samples

if TYPE_CHECKING:
    from aigq.models.two_tower import HistoryArrays


MAX_SAMPLES: Final = 40_000  # trained on at most so many, seeded, to bound the time of `fit`
_VALIDATED: Final = 1000  # of the validation moments
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
        self._indexes: dict[bytes, tuple[Any, np.ndarray, np.ndarray]] = {}

    def fit(self, prepared: Prepared) -> None:
        """Embed every text of the training rows, train both towers.

        Raises:
            EmptyLogError: nothing to train on has a history and a query that may be learned.
        """
        import torch

        from aigq.models.two_tower import TwoTower, train

        self._counts, self._indexes = CausalCounts(prepared.query_days, None), {}
        allowed = self._counts.servable(prepared.validation_day, self._k)
        seen = set(prepared.training_rows()["text"].unique().to_pylist())
        self._texts = np.array(sorted(seen | allowed), dtype=object)
        samples = training_samples(prepared)
        came = samples["targets"].to_pylist()
        moments, targets = self._examples(prepared.moments(samples), came, allowed, MAX_SAMPLES)
        if not targets:
            raise EmptyLogError("ebr: nothing to train on has a history and a query that may be learned")
        popularity = np.bincount(np.concatenate(targets), minlength=len(self._texts))
        torch.manual_seed(self._seed)
        self._model = TwoTower(self._encoder.encode(self._texts.tolist()), self._config.dim, popularity)
        train(
            self._model,
            self._histories(moments),
            targets,
            popularity,
            max_steps=self._config.max_steps,
            eval_every=self._config.eval_every,
            batch_size=self._config.batch_size,
            learning_rate=self._config.learning_rate,
            seed=self._seed,
            validate=self._validator(prepared, allowed),
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
            index, codes, stored = self._index(day)
            if len(codes) == 0:
                continue
            for start, part in batches([moments[p] for p in positions], 1024):
                with torch.inference_mode():
                    arrays = self._histories(part).take(np.arange(len(part)))
                    vectors = self._model.users(*arrays).numpy()
                wanted = min(n, len(codes))
                for place, keys in enumerate(nearest(index, vectors, wanted)):
                    lists[positions[start + place]] = self._hints(codes[keys], stored[keys] @ vectors[place])
        return lists

    def _hints(self, codes: np.ndarray, scores: np.ndarray) -> list[Hint]:
        reason = "close to what you looked at lately"
        best = np.lexsort((codes, -scores))
        return [Hint(str(self._texts[codes[i]]), float(scores[i]), reason) for i in best]

    def _index(self, day: int) -> tuple[Any, np.ndarray, np.ndarray]:
        """The graph of the queries that may be shown that day, their positions (Q,) and vectors (Q, dim + 1).

        Days with the same servable queries share one graph.
        """
        import torch

        assert self._counts is not None
        queries = self._counts.queries[self._counts.before(day)[1] >= self._k]
        codes = codes_in(pa.chunked_array([pa.array(queries.tolist(), pa.string())]), self._texts)
        codes = codes[codes >= 0]  # queries that nobody had issued in training have no vector
        key = codes.tobytes()
        if key not in self._indexes:
            with torch.inference_mode():
                vectors = self._model.queries(torch.from_numpy(codes)).numpy()
            self._indexes[key] = graph_of(vectors), codes, vectors
        return self._indexes[key]

    def _examples(
        self, moments: Sequence[Moment], queries: Sequence[Sequence[str]], allowed: set[str], most: int
    ) -> tuple[list[Moment], list[np.ndarray]]:
        """At most so many moments with a history and an allowed target, and those targets' positions."""
        place = {text: position for position, text in enumerate(self._texts) if text in allowed}
        targets = [np.array([place[q] for q in row if q in place], dtype=np.int64) for row in queries]
        usable = [i for i, row in enumerate(targets) if len(row) and moments[i].history.num_rows]
        if len(usable) > most:
            drawn = np.random.default_rng(self._seed).choice(len(usable), most, replace=False)
            usable = [usable[i] for i in np.sort(drawn)]
        return [moments[i] for i in usable], [targets[i] for i in usable]

    def _validator(self, prepared: Prepared, allowed: set[str]) -> Callable[[], float] | None:
        """Discounted gain 1 / log2(1 + rank) of what came at validation moments, each among all queries.

        Not its likelihood: clicks on three hints come at other shares than searches, and under these a tower
        that knows nothing but popularity looks best. None where no moment has a history and such a query.
        """
        import torch

        samples = prepared.split("valid")
        wanted = samples["targets"].to_pylist()
        moments, targets = self._examples(prepared.moments(samples), wanted, allowed, _VALIDATED)
        if not moments:
            note("ebr: no validation moment has a history and a known query; the last weights are kept")
            return None
        codes = np.flatnonzero(np.isin(self._texts, list(allowed)))
        arrays = self._histories(moments).take(np.arange(len(moments)))
        places = [np.searchsorted(codes, row) for row in targets]

        def validate() -> float:
            with torch.inference_mode():
                scores = self._model.users(*arrays) @ self._model.queries(torch.from_numpy(codes)).T  # (N, Q)
            # row by row: all targets of all rows against all queries would be much memory in a large shop
            nearer = [
                (row > row[at, None]).sum(axis=1) for row, at in zip(scores.numpy(), places, strict=True)
            ]
            return float(np.mean([(1 / np.log2(2 + each)).mean() for each in nearer]))  # rank = nearer + 1

        return validate

    def _histories(self, moments: Sequence[Moment]) -> "HistoryArrays":
        """The most recent behaviours of each moment (N, L), newest first."""
        from aigq.models.two_tower import HistoryArrays

        length = self._config.max_behaviours
        text, days, action = recent_behaviours(moments, length, lambda texts: codes_in(texts, self._texts))
        return HistoryArrays(text, age_buckets(days), action)


def graph_of(vectors: np.ndarray) -> Any:
    """A graph (HNSW) of query vectors (Q, d) for `nearest`.

    It finds near vectors, not large inner products. One more dimension makes them the same: it gives all
    queries equal length (Bachrach et al. 2014, "Speeding up the Xbox recommender system").
    """
    from usearch.index import Index

    graph = Index(ndim=vectors.shape[1] + 1, metric="l2sq", dtype="f32", expansion_search=_EXPANSION)
    if len(vectors):
        squares = (vectors**2).sum(axis=1)
        graph.add(np.arange(len(vectors)), np.c_[vectors, np.sqrt(squares.max() - squares)], threads=1)
    return graph


def nearest(graph: Any, users: np.ndarray, n: int) -> list[np.ndarray]:
    """Positions (n,) of the queries with the largest inner products, for each of the users (U, d)."""
    exact = n > _EXPANSION // 2  # the graph only reaches so far
    placed = np.pad(users, ((0, 0), (0, 1)))
    return [graph.search(one, n, exact=exact).keys.astype(np.int64) for one in placed]
