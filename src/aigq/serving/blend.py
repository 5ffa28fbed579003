"""From the candidates of all channels to one list. Pure functions; METHOD section 6.

merge -> rotate -> guard -> rank -> drop near-duplicates -> diversify. Cost grows with the candidates, not
with users.
"""

import heapq
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Final, NamedTuple, Protocol

from rapidfuzz import fuzz, process

from aigq.serving.state import Past, Shown

_RANK: Final = itemgetter(2)
RECIPROCAL: Final = 60.0
"""Constant of reciprocal rank fusion (Cormack and others, SIGIR 2009)."""


class Proposal(NamedTuple):
    """One query of one channel; `rank` is from 1."""

    query: str
    channel: str
    rank: int
    reason: str


class Candidate(NamedTuple):
    """One query with all channels that propose it, the strongest first."""

    query: str
    category: str | None
    ranks: Mapping[str, int]
    channel: str
    reason: str


class Shopper(NamedTuple):
    """What a ranker may know about the shopper. `past` and `shown` are newest first."""

    user: str | None
    now: float
    past: Sequence[Past]
    own: Mapping[str, float]  # own queries with their decayed frequency
    shown: Sequence[Shown]
    surface: str | None = None
    locale: str | None = None


class Ranker(Protocol):
    """Scores candidates; higher is better. It runs within the request: quick, and never blocking."""

    def score(self, shopper: Shopper, candidates: Sequence[Candidate]) -> Sequence[float]:
        """One score per candidate, at least 0."""
        ...


class ReciprocalRank:
    """sum over channels c of weight_c / (60 + rank_c): needs no model.

    Args:
        weights: by channel.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights

    def score(self, shopper: Shopper, candidates: Sequence[Candidate]) -> list[float]:
        """See Ranker. Says nothing about the shopper that the channels did not."""
        return [
            sum(self._weights.get(channel, 0.0) / (RECIPROCAL + rank) for channel, rank in c.ranks.items())
            for c in candidates
        ]


def merge(
    proposals: Sequence[Proposal], weights: Mapping[str, float], categories: Mapping[str, str], limit: int
) -> list[Candidate]:
    """One candidate per query, at most `limit`, channels taking turns by their ranks.

    The channel and the reason that are shown are those with the largest weight_c / (60 + rank_c).
    """
    by_channel: dict[str, list[Proposal]] = {}
    for proposal in proposals:
        by_channel.setdefault(proposal.channel, []).append(proposal)
    strongest_first = sorted(by_channel, key=lambda channel: -weights.get(channel, 0.0))
    in_turn = sorted((p for c in strongest_first for p in by_channel[c]), key=_RANK)  # stable
    ranks: dict[str, dict[str, int]] = {}
    best: dict[str, tuple[float, Proposal]] = {}
    for proposal in in_turn:
        query, channel, rank, _ = proposal
        if query not in ranks:
            if len(ranks) == limit:
                continue
            ranks[query] = {}
        ranks[query].setdefault(channel, rank)
        value = weights.get(channel, 0.0) / (RECIPROCAL + rank)
        if query not in best or value > best[query][0]:
            best[query] = (value, proposal)
    return [
        Candidate(query, categories.get(query), found, best[query][1].channel, best[query][1].reason)
        for query, found in ranks.items()
    ]


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
    candidates: Sequence[Candidate],
    scores: Sequence[float],
    n: int,
    diversity: float,
    near_duplicate: float,
) -> list[Candidate]:
    """The n best, one after the other.

    A candidate loses the share `diversity` of its score for every hint above it in its leaf category; without
    a category it crowds nobody. One that says nearly the same as a hint above it (rapidfuzz ratio of at least
    `near_duplicate`) is left out. Ties go to the earlier candidate.
    """
    heap = [(-score, place) for place, score in enumerate(scores)]
    heapq.heapify(heap)
    chosen: list[Candidate] = []
    names: list[str] = []
    crowd: dict[str | None, int] = {}
    while heap and len(chosen) < n:
        value, place = heapq.heappop(heap)
        candidate = candidates[place]
        # values only fall while hints are chosen, so one that is still right at the top is the best
        now = -scores[place] * (1.0 - diversity) ** crowd.get(candidate.category, 0)
        if now != value:
            heapq.heappush(heap, (now, place))
        elif not process.extractOne(candidate.query, names, scorer=fuzz.ratio, score_cutoff=near_duplicate):
            chosen.append(candidate)
            names.append(candidate.query)
            if candidate.category is not None:
                crowd[candidate.category] = crowd.get(candidate.category, 0) + 1
    return chosen
