"""Columns of features by their formulas, on arrays alone: the service computes them without the log's tables.

A pair of a moment and a query is addressed by key = moment * Q + query, Q the size of the vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from rapidfuzz import fuzz, process
from scipy import sparse

OWN_HALF_LIVES: Final = (7.0, 30.0, 90.0)
CATEGORY_HALF_LIFE: Final = 60.0
HALF_LIVES: Final = (*OWN_HALF_LIVES, CATEGORY_HALF_LIFE)
"""Days, of the rows of `Issues.decayed`."""
NEVER: Final = 1e4  # days since something that has not happened
AGE_EDGES: Final = (0.02, 0.5, 1.5, 3.5, 7.5, 14.5, 30.5, 60.5, 120.5, 240.5)
"""Days between the buckets of a behaviour's age."""

_RATIOS: Final = (fuzz.token_set_ratio, fuzz.ratio)

ACTIONS: Final = ("search", "click", "cart", "purchase")


@dataclass(frozen=True)
class Issues:
    """Behaviours grouped by an integer key; arrays (G,), `decayed` (len(HALF_LIVES), G). Ages in days."""

    key: np.ndarray
    decayed: np.ndarray
    count: np.ndarray
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
            np.add.reduceat(self.count[order], starts),
            np.minimum.reduceat(self.last[order], starts),
            np.maximum.reduceat(self.first[order], starts),
        )


def own_columns(issues: Issues, key: np.ndarray, active: np.ndarray) -> np.ndarray:
    """(P, 9): the shopper's own issues of each query.

    Args:
        issues: by key = moment * Q + query.
        key: (P,).
        active: (P,) active days of the shopper.
    """
    known = np.vstack([issues.decayed[: len(OWN_HALF_LIVES)], issues.count, issues.last, issues.first])
    missing = np.array([*[0.0] * len(OWN_HALF_LIVES), 0.0, NEVER, NEVER])[:, None]
    at, found = find(issues.key, key)
    values = np.where(found, known[:, at], missing) if len(issues.key) else np.tile(missing, len(key))
    *decayed, count, last, first = values
    gap = np.where(count > 1, (first - last) / np.maximum(count - 1, 1), NEVER)
    due, rate = last / np.maximum(gap, 0.5), count / np.maximum(active, 1)
    return np.stack([*decayed, count, last, first, gap, due, rate], axis=1)


def category_columns(
    issues: Issues, category: np.ndarray, moment: np.ndarray, query: np.ndarray
) -> np.ndarray:
    """(P, 2): decayed issues in the query's category, days since the last.

    Args:
        issues: by key = moment * Q + query.
        category: (Q,) number of each query's category.
        moment: (P,).
        query: (P,).
    """
    if not len(issues.key):
        return np.tile([0.0, NEVER], (len(moment), 1))
    queries, size = len(category), int(category.max()) + 1
    key = issues.key // queries * size + category[issues.key % queries]
    order = np.argsort(key, kind="stable")
    key = key[order]
    starts = _starts(key)
    decayed = np.add.reduceat(issues.decayed[-1][order], starts)
    last = np.minimum.reduceat(issues.last[order], starts)
    at, found = find(key[starts], moment * size + category[query])
    return np.stack([np.where(found, decayed[at], 0), np.where(found, last[at], NEVER)], axis=1)


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


@lru_cache(maxsize=100_000)  # some 30 MB
def alike(latest: str, text: str) -> tuple[float, ...]:
    """One row of `letters`, kept: shoppers who searched the same see many of the same candidates."""
    return tuple(scorer(latest, text) if latest else 0.0 for scorer in _RATIOS)


def age_buckets(days: np.ndarray) -> np.ndarray:
    """Buckets (int8) of AGE_EDGES, of ages in days of any shape."""
    return np.searchsorted(AGE_EDGES, days).astype(np.int8)


def _starts(sorted_keys: np.ndarray) -> np.ndarray:
    """Where another key begins."""
    return np.flatnonzero(np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]]))


def find(sorted_keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position of each wanted key, and whether it is there."""
    at = np.minimum(np.searchsorted(sorted_keys, wanted), max(0, len(sorted_keys) - 1))
    found = sorted_keys[at] == wanted if len(sorted_keys) else np.zeros(len(wanted), dtype=bool)
    return at, found
