"""How alike the shopper's latest query and the candidates are written, kept by their numbers."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from aigq.models.compiled import compiled
from aigq.models.letters import letters

KEPT: Final = 1 << 20
"""Pairs in the memory of one process, at most: 16 MB."""


class Words:
    """Ratios of pairs of queries. A pair has one place; one that comes later takes it.

    Args:
        size: Q, queries that have numbers.
        kept: pairs.
    """

    def __init__(self, size: int, kept: int = KEPT) -> None:
        self._size = size
        self._pairs, self._ratios = np.full(kept, -1, np.int64), np.zeros((kept, 2), np.float32)

    def alike(self, latest: str, number: int, texts: Sequence[str], numbers: np.ndarray) -> np.ndarray:
        """(C, 2): `letters` of the latest query and C texts; numbers, -1 for queries that have none."""
        if not latest:
            return np.zeros((len(texts), 2), np.float32)
        if number < 0:
            return letters([latest] * len(texts), texts)
        pairs = np.where(numbers >= 0, number * self._size + numbers, -1)
        found, new = _kept(self._pairs, self._ratios, pairs)
        if len(new):
            ratios = letters([latest] * len(new), [texts[place] for place in new])
            found[new] = ratios
            self._keep(pairs[new], ratios)
        return found

    def _keep(self, pairs: np.ndarray, ratios: np.ndarray) -> None:
        known = pairs >= 0
        at = pairs[known] % len(self._pairs)
        self._pairs[at], self._ratios[at] = pairs[known], ratios[known]


@compiled
def _kept(held: np.ndarray, ratios: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(C, 2) ratios of the pairs that are held, and the places of the others."""
    found, new = np.zeros((len(pairs), 2), np.float32), np.empty(len(pairs), np.int64)
    missing = 0
    for p in range(len(pairs)):
        at = pairs[p] % len(held)
        if pairs[p] >= 0 and held[at] == pairs[p]:
            found[p, 0], found[p, 1] = ratios[at, 0], ratios[at, 1]
        else:
            new[missing] = p
            missing += 1
    return found, new[:missing]
