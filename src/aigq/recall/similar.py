"""Similarities of queries as a moment may know them: learned from behaviours that are over by then."""

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from aigq.models.columns import similar_to
from aigq.recall.coclick import similarities

PARTS: Final = 8
"""Parts of a log's days; similarities are learned anew at the beginning of each."""


class Similarities:
    """Item-kNN over queries, learned from all behaviours, and for moments among them from earlier ones only.

    Models are trained, and training lists ordered, at moments inside the log. Were similarities learned from
    all of it, what was issued at such a moment would speak for itself: similarity would seem to tell far more
    than it does on later days. So a moment sees what was learned before its part of the log's days.

    Args:
        rows: behaviours.
        vocabulary: Q queries.
        neighbours: kept per query.
    """

    def __init__(self, rows: pa.Table, vocabulary: np.ndarray, neighbours: int) -> None:
        self._rows, self._vocabulary, self._neighbours = rows, vocabulary, neighbours
        span = pc.min_max(rows["day"]).as_py()
        first, last = span["min"] or 0, span["max"] or 0
        self._starts = [math.ceil(day) for day in np.linspace(first, last + 1, PARTS + 1)]
        self.all = similarities(rows, vocabulary, neighbours)  # (Q, Q)
        self._learned = {PARTS: self.all}

    def to_history(self, days: np.ndarray, history: sparse.csr_matrix) -> np.ndarray:
        """(M, Q): of each query to the history (M, Q) of each moment; days (M,)."""
        result = np.zeros(history.shape)
        for rows, learned in self._by_part(days):
            result[rows] = (history[rows] @ learned).toarray()
        return result

    def to_latest(self, days: np.ndarray, latest: np.ndarray, query: np.ndarray) -> np.ndarray:
        """(P,): of each query to the latest one of its moment, 0 where that is -1; all (P,)."""
        result = np.zeros(len(query))
        for rows, learned in self._by_part(days):
            result[rows] = similar_to(learned, latest[rows], query[rows])
        return result

    def _by_part(self, days: np.ndarray) -> Iterator[tuple[np.ndarray, sparse.csr_matrix]]:
        """Positions of the moments of each part of the log, and what was learned before it began."""
        part = np.searchsorted(self._starts[1:], days, side="right")  # PARTS: after the log
        for number in np.unique(part).tolist():
            if number not in self._learned:
                before = self._rows.filter(pc.less(self._rows["day"], self._starts[number]))
                self._learned[number] = similarities(before, self._vocabulary, self._neighbours)
            yield np.flatnonzero(part == number), self._learned[number]
