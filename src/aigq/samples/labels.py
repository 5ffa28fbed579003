"""Label lists of the Direct variant. Paper section 3.2; METHOD section 3.

    Labels = Concat(clicked hints, ranker's top-K)        first source wins on duplicates

In bootstrap mode a "clicked hint" is a query that the shopper issued next, and the ranker is the weighted
fusion of recall channels below, until a CTR model trained on exposures takes its place.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np


class Label(NamedTuple):
    """One query of a label list and where it came from."""

    query: str
    source: Literal["clicked", "ranker"]


def log_order_labels(targets: Sequence[str], allowed: set[str], length: int) -> list[Label]:
    """The plain SFT row: what was clicked, in the order of the log."""
    return [Label(q, "clicked") for q in dict.fromkeys(targets) if q in allowed][:length]


def ranked_labels(
    targets: Sequence[str],
    ranking: Sequence[str],
    allowed: set[str],
    length: int,
    tail: int,
    shuffle: np.random.Generator | None = None,
) -> list[Label]:
    """The IL-SFT labels: clicked queries in the ranker's order, then the ranker's best up to `tail` in all.

    Args:
        targets: clicked queries in log order; those that the ranker does not know keep that order, last.
        ranking: the ranker's order for this moment, best first.
        allowed: text that at least k users issued; nothing else becomes a label.
        length: longest list.
        tail: the ranker fills the list up to this length; 0 leaves only the clicked part.
        shuffle: puts the clicked queries into a random order: all were clicked, none more than others.
    """
    position = {query: i for i, query in enumerate(ranking)}
    clicked = sorted(
        (q for q in dict.fromkeys(targets) if q in allowed), key=lambda q: position.get(q, len(position))
    )[:length]
    if shuffle is not None:
        clicked = [clicked[i] for i in shuffle.permutation(len(clicked))]
    rest = [q for q in ranking if q in allowed and q not in set(clicked)]
    return [Label(q, "clicked") for q in clicked] + [
        Label(q, "ranker") for q in rest[: max(0, tail - len(clicked))]
    ]


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
