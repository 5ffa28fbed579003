"""Columns of features by their formulas, on arrays alone: the service computes them without the log's tables.

A pair of a moment and a query is addressed by key = moment * Q + query, Q the size of the vocabulary.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from rapidfuzz import fuzz, process
from scipy import sparse

from aigq.models.compiled import compiled

OWN_HALF_LIVES: Final = (7.0, 30.0, 90.0)
CATEGORY_HALF_LIFE: Final = 60.0
HALF_LIVES: Final = (*OWN_HALF_LIVES, CATEGORY_HALF_LIFE)
"""Days, of the rows of `Issues.decayed`."""
NEVER: Final = 1e4  # days since something that has not happened
AGE_EDGES: Final = (0.02, 0.5, 1.5, 3.5, 7.5, 14.5, 30.5, 60.5, 120.5, 240.5)
"""Days between the buckets of a behaviour's age."""

_AGE_EDGES: Final = np.array(AGE_EDGES)
_RATIOS: Final = (fuzz.token_set_ratio, fuzz.ratio)

ACTIONS: Final = ("search", "click", "cart", "purchase")


class Issues(NamedTuple):
    """Behaviours grouped by an integer key; arrays (G,), `decayed` (len(HALF_LIVES), G). Ages in days."""

    key: np.ndarray
    decayed: np.ndarray
    times: np.ndarray
    last: np.ndarray
    first: np.ndarray

    @classmethod
    def of(cls, key: np.ndarray, age: np.ndarray) -> "Issues":
        """One group per key, of single behaviours (R,)."""
        decayed = 0.5 ** (age / np.array(HALF_LIVES)[:, None])
        return cls(key, decayed, np.ones(len(key), np.int64), age, age).grouped()

    def grouped(self) -> "Issues":
        """Groups of the same key as one; keys increase."""
        if not len(self.key):
            return self
        order = np.argsort(self.key, kind="stable")
        key = self.key[order]
        starts = _starts(key)
        return Issues(
            key[starts],
            np.add.reduceat(self.decayed[:, order], starts, axis=1),
            np.add.reduceat(self.times[order], starts),
            np.minimum.reduceat(self.last[order], starts),
            np.maximum.reduceat(self.first[order], starts),
        )


@compiled
def own_columns(issues: Issues, key: np.ndarray, active: np.ndarray) -> np.ndarray:
    """(P, 9): the shopper's own issues of each query.

    Args:
        issues: by key = moment * Q + query.
        key: (P,).
        active: (P,) active days of the shopper.
    """
    half_lives = len(OWN_HALF_LIVES)
    rows = np.zeros((len(key), half_lives + 6))
    for p in range(len(key)):
        at = place(issues.key, key[p])
        n, latest, earliest, gap = 0.0, NEVER, NEVER, NEVER
        if at >= 0:
            rows[p, :half_lives] = issues.decayed[:half_lives, at]
            n, latest, earliest = float(issues.times[at]), issues.last[at], issues.first[at]
            if n > 1:
                gap = (earliest - latest) / (n - 1)
        due, rate = latest / max(gap, 0.5), n / max(active[p], 1.0)
        for column, value in enumerate((n, latest, earliest, gap, due, rate)):
            rows[p, half_lives + column] = value
    return rows


@compiled
def category_columns(
    issues: Issues, category: np.ndarray, moment: np.ndarray, query: np.ndarray
) -> np.ndarray:
    """(P, 2): decayed issues in the query's category, days since the last.

    Quick where the pairs of a moment stand together.

    Args:
        issues: by key = moment * Q + query.
        category: (Q,) number of each query's category, from 0.
        moment: (P,).
        query: (P,).
    """
    size = len(category)
    sums, latest = np.zeros(category.max() + 1), np.full(category.max() + 1, NEVER)
    rows = np.empty((len(query), 2))
    start = end = 0  # the issues of the moment whose sums stand in `sums`
    for p in range(len(query)):
        if p == 0 or moment[p] != moment[p - 1]:
            for at in range(start, end):
                of = category[issues.key[at] % size]
                sums[of], latest[of] = 0.0, NEVER
            start = np.searchsorted(issues.key, moment[p] * size)
            end = np.searchsorted(issues.key, (moment[p] + 1) * size)
            for at in range(start, end):
                of = category[issues.key[at] % size]
                sums[of] += issues.decayed[-1, at]
                latest[of] = min(latest[of], issues.last[at])
        rows[p, 0], rows[p, 1] = sums[category[query[p]]], latest[category[query[p]]]
    return rows


@compiled
def values_at(key: np.ndarray, value: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(P,): the values (G,) of wanted keys (P,), 0 where they are not among the sorted keys (G,)."""
    found = np.zeros(len(wanted))
    for p in range(len(wanted)):
        at = place(key, wanted[p])
        if at >= 0:
            found[p] = value[at]
    return found


def similar_to(similarities: sparse.csr_matrix, latest: np.ndarray, query: np.ndarray) -> np.ndarray:
    """(P,): similarity of each query (P,) to the latest one (P,), 0 where that is -1; similarities (Q, Q)."""
    has = np.flatnonzero(latest >= 0)
    result = np.zeros(len(query))
    result[has] = np.asarray(similarities[latest[has], query[has]]).ravel()
    return result


def letters(latest: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """(P, 2): rapidfuzz ratios of the texts with the latest queries, 0 where that is empty."""
    result = np.empty((len(texts), 2), np.float32)
    for column, scorer in enumerate(_RATIOS):
        result[:, column] = process.cpdist(latest, texts, scorer=scorer)
    result[[not spoken for spoken in latest]] = 0
    return result


@compiled
def age_buckets(days: np.ndarray) -> np.ndarray:
    """Buckets (int8) of AGE_EDGES, of ages in days of any shape."""
    return np.searchsorted(_AGE_EDGES, days).astype(np.int8)


def _starts(sorted_keys: np.ndarray) -> np.ndarray:
    """Where another key begins."""
    return np.flatnonzero(np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]]))


@compiled
def place(sorted_keys: np.ndarray, wanted: int) -> int:
    """Position of a key, -1 where it is not there."""
    at = int(np.searchsorted(sorted_keys, wanted))
    return at if at < len(sorted_keys) and sorted_keys[at] == wanted else -1
