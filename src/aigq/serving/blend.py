"""From the candidates of all channels to one list. Pure functions; method.md section 6.

take turns -> rotate -> guard -> rank -> diversify and drop near-duplicates. Cost grows with the candidates,
not with users.
"""

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Final, NamedTuple, Protocol

from rapidfuzz import fuzz, process

from aigq.serving.state import Past, Shown

RECIPROCAL: Final = 60.0
"""Constant of reciprocal rank fusion (Cormack and others, SIGIR 2009)."""


class Proposals(NamedTuple):
    """What one channel proposes: distinct queries, best first, and the reason of each when it is asked."""

    channel: str
    queries: Sequence[str]
    why: Callable[[str], str]


class Candidate(NamedTuple):
    """One query with its rank, from 1, in each channel that proposes it."""

    query: str
    category: str | None
    ranks: Mapping[str, int]


class Hint(NamedTuple):
    """A candidate that was chosen, with the channel and the reason that are shown."""

    query: str
    category: str | None
    ranks: Mapping[str, int]
    channel: str
    reason: str


class Shopper(NamedTuple):
    """What a ranker may know about the shopper. `past` and `shown` are newest first."""

    now: float
    past: Sequence[Past]
    own: Mapping[str, float]  # own queries with their decayed frequency
    shown: Sequence[Shown]


class Ranker(Protocol):
    """Scores candidates; higher is better."""

    async def score(self, shopper: Shopper, candidates: Sequence[Candidate]) -> Sequence[float]:
        """One finite score per candidate, at least 0; other scores, and late ones, are done without."""
        ...


def reciprocal_ranks(candidates: Sequence[Candidate], weights: Mapping[str, float]) -> list[float]:
    """sum over channels c of weight_c / (60 + rank_c): needs no model, says nothing about the shopper."""
    return [
        sum([weights.get(channel, 0.0) / (RECIPROCAL + rank) for channel, rank in c.ranks.items()])
        for c in candidates
    ]


def in_turn(proposals: Sequence[Proposals], weights: Mapping[str, float]) -> Iterator[str]:
    """The distinct queries of all channels: all first ranks, then all second ranks; strong channels first."""
    strongest_first = sorted(proposals, key=lambda p: -weights.get(p.channel, 0.0))  # stable
    seen: set[str | None] = {None}  # where a shorter list has nothing left
    for query in chain.from_iterable(zip_longest(*[p.queries for p in strongest_first])):
        if query not in seen:
            seen.add(query)
            yield query


def candidates_of(
    queries: Sequence[str], proposals: Sequence[Proposals], categories: Mapping[str, str]
) -> list[Candidate]:
    """One candidate per query, with every channel that proposes it."""
    ranks: dict[str, dict[str, int]] = {query: {} for query in queries}
    for channel, proposed, _ in proposals:
        for rank, query in enumerate(proposed, start=1):
            if query in ranks:
                ranks[query][channel] = rank
    return [Candidate(query, categories.get(query), found) for query, found in ranks.items()]


def explained(
    candidates: Sequence[Candidate], proposals: Sequence[Proposals], weights: Mapping[str, float]
) -> list[Hint]:
    """The candidates with the channel of the largest weight_c / (60 + rank_c), and what it says of them."""
    reasons = {p.channel: p.why for p in proposals}

    def hint(candidate: Candidate) -> Hint:
        query, category, ranks = candidate
        loudest, best = "", -1.0
        for channel, rank in ranks.items():
            value = weights.get(channel, 0.0) / (RECIPROCAL + rank)
            if value > best:
                loudest, best = channel, value
        return Hint(query, category, ranks, loudest, reasons[loudest](query))

    return [hint(candidate) for candidate in candidates]


def resting(shopper: Shopper, times: int, hours: float, searched_minutes: float) -> dict[str, str]:
    """Queries that make room for others, and why: dismissed, just searched, or seen often without a click."""
    out: dict[str, str] = {}
    showings: dict[str, int] = {}
    clicked = {s.query for s in shopper.shown if s.action == "hint_click"}
    for shown in shopper.shown:
        if shown.action == "hint_dismiss":
            out[shown.query] = "dismissed"
        elif shown.action == "hint_impression" and shopper.now - shown.at <= hours * 3600:
            showings[shown.query] = showings.get(shown.query, 0) + 1
    for query, n in showings.items():
        if n >= times and query not in clicked:
            out.setdefault(query, "seen")
    for past in shopper.past:
        if shopper.now - past.at > searched_minutes * 60:
            break
        if past.action == "search":
            out.setdefault(past.text, "searched")
    return out


def pick(
    queries: Sequence[str],
    scores: Sequence[float],
    categories: Mapping[str, str],
    n: int,
    diversity: float,
    near_duplicate: float,
) -> list[str]:
    """The n best queries, one after the other.

    A query loses the share `diversity` of its score for every hint above it in its leaf category; without
    a category it crowds nobody. One that says nearly the same as a hint above it (rapidfuzz ratio of at least
    `near_duplicate`) is left out. Ties go to the earlier candidate.
    """
    heap = [(-score, place) for place, score in enumerate(scores)]
    heapq.heapify(heap)
    chosen: list[str] = []
    crowd: dict[str | None, int] = {}
    while heap and len(chosen) < n:
        value, place = heapq.heappop(heap)
        query = queries[place]
        category = categories.get(query)
        # values only fall while hints are chosen, so one that is still right at the top is the best
        now = -scores[place] * (1.0 - diversity) ** crowd.get(category, 0)
        if now != value:
            heapq.heappush(heap, (now, place))
        elif not process.extractOne(query, chosen, scorer=fuzz.ratio, score_cutoff=near_duplicate):
            chosen.append(query)
            if category is not None:
                crowd[category] = crowd.get(category, 0) + 1
    return chosen
