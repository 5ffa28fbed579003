"""Label lists. Paper section 3.2; method.md section 3.

    Direct: Labels = Concat(clicked hints, ranker's top-K)        first source wins on duplicates
    Think:  Labels = Concat(clicked hints, searches of the day, ranker's top-K, LLM-generated)

In bootstrap mode a "clicked hint" is a query that the shopper issued next, and the ranker is the weighted
fusion of recall channels below, until a CTR model trained on exposures takes its place.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np


class Label(NamedTuple):
    """One query of a label list and where it came from."""

    query: str
    source: Literal["clicked", "search", "ranker", "llm"]


def log_order_labels(
    targets: Sequence[str], allowed: set[str], length: int, *, searches: Sequence[str] = ()
) -> list[Label]:
    """The plain SFT row: what was clicked, then (Think) searched for on the day, in the order of the log."""
    clicked = {q: Label(q, "clicked") for q in targets if q in allowed}
    later = {q: Label(q, "search") for q in searches if q in allowed and q not in clicked}
    return [*clicked.values(), *later.values()][:length]


def ranked_labels(
    targets: Sequence[str],
    ranking: Sequence[str],
    allowed: set[str],
    length: int,
    tail: int,
    shuffle: np.random.Generator | None = None,
    *,
    searches: Sequence[str] = (),
    generated: Sequence[str] = (),
) -> list[Label]:
    """The IL-SFT labels: clicked queries in the ranker's order, then the ranker's best up to `tail` in all.

    Args:
        targets: clicked queries in log order; those that the ranker does not know keep that order, last.
        ranking: the ranker's order for this moment, best first.
        allowed: text that at least k users issued; nothing else becomes a label.
        length: longest list.
        tail: the ranker fills the list up to this length, or up to `length`; 0 leaves only the clicked part.
        shuffle: puts the clicked queries into a random order: all were clicked, none more than others.
        searches: Think: what else was searched for on the day, later than the moment; ordered as `targets`.
        generated: Think: proposed by a language model; fills the list up to `length` after the tail.
    """
    position = {query: i for i, query in enumerate(ranking)}

    def in_ranking(queries: Sequence[str]) -> list[str]:
        return sorted(dict.fromkeys(queries), key=lambda query: position.get(query, len(position)))

    clicked = [query for query in in_ranking(targets) if query in allowed]
    if shuffle is not None:
        clicked = [clicked[i] for i in shuffle.permutation(len(clicked))]
    labels: dict[str, Label] = {}  # the first source wins
    for query in clicked[:length]:
        labels.setdefault(query, Label(query, "clicked"))
    for query in in_ranking(searches):
        if query in allowed and len(labels) < length:
            labels.setdefault(query, Label(query, "search"))
    for query in ranking:
        if query in allowed and len(labels) < min(tail, length):
            labels.setdefault(query, Label(query, "ranker"))
    for query in generated:
        if query in allowed and len(labels) < length:
            labels.setdefault(query, Label(query, "llm"))
    return list(labels.values())


def fuse(proposals: Mapping[str, Mapping[str, float]], weights: Mapping[str, float]) -> list[str]:
    """Weighted sum of scores: score(q) = sum over channels of w_c s_c(q), best first, ties by text.

    With personal counts and popular shares it is the Dirichlet-smoothed frequency of a query: its own count
    plus w_popular pseudo-counts spread over the shop's queries.
    """
    scores: dict[str, float] = {}
    for channel, proposed in proposals.items():
        for query, score in proposed.items():
            scores[query] = scores.get(query, 0.0) + weights[channel] * score
    return sorted(scores, key=lambda q: (-scores[q], q))
