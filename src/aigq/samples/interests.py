"""Interest points: which behaviours explain which label queries. Paper section 3.3; method.md section 4.

    {T_1 -> Q_1, ..., T_n -> Q_n}     T_k: indices of behaviours, <1> the most recent; Q_k: queries

A query is linked to the behaviours that explain it, and queries with overlapping links are one point. Queries
that nothing explains are one point without behaviours: *discovery*.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class InterestPoint(NamedTuple):
    """One interest: the behaviours that it rests on, most recent first, and its queries, best first."""

    triggers: tuple[int, ...]
    queries: tuple[str, ...]


def strengths(
    same: np.ndarray, category: np.ndarray, coclick: np.ndarray, cosine: np.ndarray, min_cosine: float
) -> np.ndarray:
    """How well each behaviour explains each query, (Q, B); 0: not at all.

    The same text counts 2, the same leaf category 1, co-click and closeness in meaning their value up to 1;
    the strongest evidence holds.

    Args:
        same, category: (Q, B) bool, the behaviour has the query's text, its leaf category.
        coclick: (Q, B) similarity relative to the query's nearest neighbour, 0..1.
        cosine: (Q, B) of the sentence embeddings.
        min_cosine: less is no link.
    """
    near = np.where(cosine >= min_cosine, cosine, 0.0)
    strongest: np.ndarray = np.maximum.reduce([2.0 * same, 1.0 * category, coclick, near])
    return strongest


def links(strength: np.ndarray, most: int) -> list[tuple[int, ...]]:
    """Per query the indices of the `most` behaviours that explain it best, ascending; () for none.

    Without this limit a chain of weak links would make one point of everything. Ties go to the more recent.

    Args:
        strength: (Q, B); column b is the behaviour of index b + 1.
        most: links of one query.
    """
    best = np.argsort(-strength, axis=1, kind="stable")[:, :most]
    return [
        tuple(sorted(int(b) + 1 for b in row if values[b] > 0))
        for row, values in zip(best, strength, strict=True)
    ]


def interest_points(
    queries: Sequence[str], linked: Sequence[tuple[int, ...]], max_points: int, max_triggers: int
) -> list[InterestPoint]:
    """Queries whose links overlap, also through others, become one point.

    Points are ordered by their best query, queries in a point as in the list; each query is in one point.

    Args:
        queries: distinct, best first.
        linked: the behaviours of each query, from `links`.
        max_points: the queries of further points, the last ones, are discovery.
        max_triggers: a point names its most recent behaviours.
    """
    groups: list[tuple[set[int], list[int]]] = []  # (behaviours, places of queries)
    discovery: list[int] = []
    for place, found in enumerate(linked):
        if not found:
            discovery.append(place)
            continue
        overlapping = [group for group in groups if group[0] & set(found)]
        groups = [group for group in groups if group not in overlapping]
        behaviours = set(found).union(*(group[0] for group in overlapping))
        groups.append((behaviours, sorted([place, *(i for group in overlapping for i in group[1])])))
    groups.sort(key=lambda group: group[1][0])
    room = max_points if not discovery and len(groups) <= max_points else max_points - 1
    discovery = sorted([*discovery, *(place for _, places in groups[room:] for place in places)])
    ordered = sorted([*groups[:room], *([(set(), discovery)] if discovery else [])], key=lambda g: g[1][0])
    return [
        InterestPoint(tuple(sorted(behaviours)[:max_triggers]), tuple(queries[i] for i in places))
        for behaviours, places in ordered
    ]


def by_rank(points: Sequence[InterestPoint]) -> list[str]:
    """One list of all points: their first queries, then their second ones, ...; each query once."""
    longest = max((len(point.queries) for point in points), default=0)
    turns = (p.queries[rank] for rank in range(longest) for p in points if rank < len(p.queries))
    return list(dict.fromkeys(turns))
