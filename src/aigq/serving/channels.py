"""The recall channels of a request: what each proposes from values of the store. Pure functions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from aigq.config_serving import locale_tag
from aigq.serving.blend import Proposals
from aigq.serving.lists import Scores
from aigq.serving.state import Base, Past, U2q

DEPTH: Final = 60
"""Proposals of one channel, at most."""

RECENCY: Final = 0.7
"""Each trigger counts this share of the one after it in time."""

AGED: Final = 0.5
"""A query of an older generation counts this share of one of the next generation."""

_VERBS: Final = {
    "search": "searched for",
    "click": "viewed",
    "cart": "put into the cart",
    "purchase": "bought",
}


def triggers(past: Sequence[Past], n: int) -> list[Past]:
    """The latest n behaviours with distinct texts. `past` is newest first."""
    latest: dict[str, Past] = {}
    for p in past:
        latest.setdefault(p.text, p)
        if len(latest) == n:
            break
    return list(latest.values())


def from_u2q(base: Base, value: U2q, runs: int, depth: int = DEPTH) -> Proposals:
    """The last M = `runs` generations as one list; the backfill is one of them.

    A query's value is 1 / rank, halved for each newer generation. The runs are newest first, even where the
    clock was set back between them.
    """
    latest = list(value.runs)
    if base.backfill is not None:
        latest.insert(sum(run.at >= base.backfill.at for run in latest), base.backfill)
    scores: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for age, run in enumerate(latest[:runs]):
        share = AGED**age
        for rank, hint in enumerate(run.hints, start=1):
            query = hint.query
            if query not in scores:
                scores[query], reasons[query] = share / rank, hint.reason
            elif share / rank > scores[query]:
                scores[query] = share / rank
    return _best("u2q", scores, reasons.__getitem__, depth)


def from_x2q(found: Sequence[tuple[Past, Scores]], depth: int = DEPTH) -> Proposals:
    """The lists of the triggers, the latest first; scores are added up, later triggers count more."""
    lists = [scores for _, scores in found]
    pasts = [past for past, _ in found]
    return _best("x2q", _added(lists), lambda query: because(pasts[_first(lists, query)]), depth)


def from_coclick(found: Sequence[tuple[str, Scores]], depth: int = DEPTH) -> Proposals:
    """Neighbours of own queries, the most telling first."""
    lists = [scores for _, scores in found]
    own = [query for query, _ in found]
    return _best("coclick", _added(lists), lambda query: f"goes with “{own[_first(lists, query)]}”", depth)


def from_personal(own: Mapping[str, float], counts: Mapping[str, int], depth: int = DEPTH) -> Proposals:
    """The shopper's own queries by decayed frequency."""
    return _best("personal", own, lambda query: f"you looked for this {_times(counts.get(query, 1))}", depth)


def from_list(channel: str, queries: Sequence[str], reason: str, depth: int = DEPTH) -> Proposals:
    """A list that is the same for everybody."""
    return Proposals(channel, queries[:depth], lambda _query: reason)


def own_queries(
    base: Base, past: Sequence[Past], now: float, half_life_days: float
) -> tuple[dict[str, float], dict[str, int]]:
    """Own queries -> decayed frequency, and -> how often. The published part decays as a whole.

    `past` is newest first.
    """
    aged = _half(now - base.until, half_life_days)
    weights = {own.query: own.weight * aged for own in base.own}
    counts = {own.query: own.count for own in base.own}
    for event in past:
        if event.at <= base.until:
            break
        query = event.query
        if query is not None:
            weights[query] = weights.get(query, 0.0) + _half(now - event.at, half_life_days)
            counts[query] = counts.get(query, 0) + 1
    return weights, counts


def fallback(lists: Mapping[str, list[str]], locale: str | None) -> list[str]:
    """The configured queries of a locale, of its language, or of everybody; `lists` by `locale_tag`."""
    tag = locale_tag(locale or "")
    for name in (tag, tag.partition("-")[0], ""):
        if name in lists:
            return lists[name]
    return []


def because(past: Past) -> str:
    """Why, in words: because you viewed “X”."""
    return f"because you {_VERBS.get(past.action, 'viewed')} “{past.text}”"


def _half(age_s: float, half_life_days: float) -> float:
    return float(0.5 ** (max(0.0, age_s) / 86400.0 / half_life_days))


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _added(lists: Sequence[Scores]) -> dict[str, float]:
    """Scores by query; each list counts RECENCY of the one before it."""
    if not lists:
        return {}
    scores = dict(lists[0])
    known, weight = scores.get, 1.0
    for later in lists[1:]:
        weight *= RECENCY
        for query, score in later.items():
            scores[query] = known(query, 0.0) + weight * score
    return scores


def _first(lists: Sequence[Scores], query: str) -> int:
    """The first list that names the query."""
    return next(place for place, scores in enumerate(lists) if query in scores)


def _best(channel: str, scores: Mapping[str, float], why: Callable[[str], str], depth: int) -> Proposals:
    best = sorted(scores, key=scores.__getitem__, reverse=True)[:depth]  # stable: ties keep their order
    return Proposals(channel, best, why)
