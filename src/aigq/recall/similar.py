"""Similarities of queries as a moment may know them: learned from behaviours that are over by then."""

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from aigq.recall.coclick import similarities, strongest
from aigq.recall.histories import codes_in

PARTS: Final = 8
"""Parts of a log's days; similarities are learned anew at the beginning of each."""


REGRESSED: Final = 4096
"""Queries between which a regression is solved; others are similar to none."""

PENALTY: Final = 300.0


class Similarities:
    """Of queries to queries, learned from all behaviours, and for moments among them from earlier ones only.

    Models are trained, and training lists ordered, at moments inside the log. Were similarities learned from
    all of it, what was issued at such a moment would speak for itself: similarity would seem to tell far more
    than it does on later days. So a moment sees what was learned before its part of the log's days.

    Args:
        rows: behaviours.
        vocabulary: Q queries.
        neighbours: kept per query.
        regression: learn the weights of `regression`, for histories in which every query counts once, instead
            of item-kNN.
    """

    def __init__(
        self, rows: pa.Table, vocabulary: np.ndarray, neighbours: int, *, regression: bool = False
    ) -> None:
        self._rows, self._vocabulary, self._neighbours = rows, vocabulary, neighbours
        self._regression = regression
        span = pc.min_max(rows["day"]).as_py()
        first, last = span["min"] or 0, span["max"] or 0
        self._starts = [math.ceil(day) for day in np.linspace(first, last + 1, PARTS + 1)]
        self.all = self._learn(rows)  # (Q, Q)
        self._learned = {PARTS: self.all}

    def to_history(self, days: np.ndarray, history: sparse.csr_matrix) -> np.ndarray:
        """(M, Q): of each query to the history (M, Q) of each moment; days (M,)."""
        history = history.sign() if self._regression else history
        result = np.zeros(history.shape)
        for rows, learned in self._by_part(days):
            result[rows] = (history[rows] @ learned).toarray()
        return result

    def to_latest(self, days: np.ndarray, latest: np.ndarray, query: np.ndarray) -> np.ndarray:
        """(P,): of each query to the latest one of its moment, 0 where that is -1; all (P,)."""
        result = np.zeros(len(query))
        for rows, learned in self._by_part(days):
            result[rows] = _similar_to(learned, latest[rows], query[rows])
        return result

    def _by_part(self, days: np.ndarray) -> Iterator[tuple[np.ndarray, sparse.csr_matrix]]:
        """Positions of the moments of each part of the log, and what was learned before it began."""
        part = np.searchsorted(self._starts[1:], days, side="right")  # PARTS: after the log
        for number in np.unique(part).tolist():
            if number not in self._learned:
                before = self._rows.filter(pc.less(self._rows["day"], self._starts[number]))
                self._learned[number] = self._learn(before)
            yield np.flatnonzero(part == number), self._learned[number]

    def _learn(self, rows: pa.Table) -> sparse.csr_matrix:
        learn = regression if self._regression else similarities
        return learn(rows, self._vocabulary, self._neighbours)


def regression(rows: pa.Table, vocabulary: np.ndarray, neighbours: int) -> sparse.csr_matrix:
    """The largest weights (Q, Q) with which the queries of a user best rebuild each other, none itself.

    EASE in closed form: with X (users, Q) of 0 and 1 and P = (X'X + penalty I)^-1, the weight of query i for
    query j is -P[i, j] / P[j, j]. Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019.
    """
    size = len(vocabulary)
    query = codes_in(rows["query"], vocabulary)
    known = query >= 0
    user = rows["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()[known]
    pairs = np.unique(user.astype(np.int64) * size + query[known])
    ones = (np.ones(len(pairs)), (pairs // size, pairs % size))
    issued = sparse.csr_matrix(ones, shape=(int(user.max(initial=-1)) + 1, size))
    most = np.sort(np.argsort(-np.bincount(pairs % size, minlength=size), kind="stable")[:REGRESSED])
    issued = issued[:, most]
    inverse = np.linalg.inv((issued.T @ issued).toarray() + PENALTY * np.eye(len(most)))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    best = strongest(sparse.csr_matrix(np.maximum(weights, 0.0)), neighbours).tocoo()
    return sparse.csr_matrix((best.data, (most[best.row], most[best.col])), shape=(size, size))


def _similar_to(similarities: sparse.csr_matrix, latest: np.ndarray, query: np.ndarray) -> np.ndarray:
    """(P,): similarity of each query (P,) to the latest one (P,), 0 where that is -1; similarities (Q, Q)."""
    has = np.flatnonzero(latest >= 0)
    result = np.zeros(len(query))
    result[has] = np.asarray(similarities[latest[has], query[has]]).ravel()
    return result
