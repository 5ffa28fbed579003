"""The recall channels of a request: what each proposes from values of the store. Pure functions.

A trigger is one of the shopper's latest behaviours. x2q is asked for its item, query and leaf category, and
the first of these that has a list answers (back-off).
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from aigq.serving import keys
from aigq.serving.blend import Proposal
from aigq.serving.state import Base, Past, Suggestion, U2q

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


class Trigger(NamedTuple):
    """A behaviour and the keys under which x2q may know it, most special first."""

    past: Past
    keys: tuple[str, ...]


def triggers(version: str, past: Sequence[Past], n: int) -> list[Trigger]:
    """The latest n behaviours with distinct texts. `past` is newest first."""
    latest = list({p.text: p for p in reversed(past)}.values())[::-1]
    return [Trigger(p, _trigger_keys(version, p)) for p in sorted(latest, key=lambda p: -p.at)[:n]]


def from_u2q(base: Base, value: U2q, runs: int, depth: int = DEPTH) -> list[Proposal]:
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
        for rank, hint in enumerate(run.hints, start=1):
            score = AGED**age / rank
            reasons.setdefault(hint.query, hint.reason)
            scores[hint.query] = max(score, scores.get(hint.query, 0.0))
    return _ranked("u2q", scores, reasons, depth)


def from_x2q(
    asked: Sequence[Trigger], lists: Mapping[str, list[Suggestion]], depth: int = DEPTH
) -> list[Proposal]:
    """Per trigger the first list of its keys; scores are added up over triggers, later ones count more."""
    scores: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for place, (past, names) in enumerate(asked):
        found = next((lists[name] for name in names if lists.get(name)), [])
        _add(scores, reasons, found, RECENCY**place, because(past))
    return _ranked("x2q", scores, reasons, depth)


def from_coclick(
    asked: Sequence[tuple[str, str]], lists: Mapping[str, list[Suggestion]], depth: int = DEPTH
) -> list[Proposal]:
    """Neighbours of own queries: (query, key) pairs, the most telling first."""
    scores: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for place, (query, key) in enumerate(asked):
        _add(scores, reasons, lists.get(key) or [], RECENCY**place, f"goes with “{query}”")
    return _ranked("coclick", scores, reasons, depth)


def from_personal(own: Mapping[str, float], counts: Mapping[str, int], depth: int = DEPTH) -> list[Proposal]:
    """The shopper's own queries by decayed frequency."""
    times = {q: "once" if counts.get(q, 1) == 1 else f"{counts[q]} times" for q in own}
    return _ranked("personal", own, {q: f"you looked for this {times[q]}" for q in own}, depth)


def from_list(channel: str, queries: Sequence[str], reason: str, depth: int = DEPTH) -> list[Proposal]:
    """A list that is the same for everybody."""
    return [Proposal(query, channel, rank, reason) for rank, query in enumerate(queries[:depth], start=1)]


def own_queries(
    base: Base, past: Sequence[Past], now: float, half_life_days: float
) -> tuple[dict[str, float], dict[str, int]]:
    """Own queries -> decayed frequency, and -> how often. The published part decays as a whole."""
    aged = _half(now - base.until, half_life_days)
    weights = {own.query: own.weight * aged for own in base.own}
    counts = {own.query: own.count for own in base.own}
    for event in past:
        query = event.query
        if query is not None and event.at > base.until:
            weights[query] = weights.get(query, 0.0) + _half(now - event.at, half_life_days)
            counts[query] = counts.get(query, 0) + 1
    return weights, counts


def fallback(lists: Mapping[str, list[str]], locale: str | None) -> list[str]:
    """The configured queries of a locale, of its language, or of everybody."""
    tag = (locale or "").replace("_", "-")
    for name in (tag, tag.partition("-")[0], ""):
        if name in lists:
            return lists[name]
    return []


def because(past: Past) -> str:
    """Why, in words: because you viewed “X”."""
    return f"because you {_VERBS.get(past.action, 'viewed')} “{past.text}”"


def _trigger_keys(version: str, past: Past) -> tuple[str, ...]:
    named: list[tuple[keys.TriggerKind, str | None]] = [
        ("item", past.item),
        ("query", past.query or past.text),
        ("category", past.category),
    ]
    return tuple(keys.x2q(version, kind, name) for kind, name in named if name)


def _half(age_s: float, half_life_days: float) -> float:
    return float(0.5 ** (max(0.0, age_s) / 86400.0 / half_life_days))


def _add(
    scores: dict[str, float], reasons: dict[str, str], found: Sequence[Suggestion], weight: float, reason: str
) -> None:
    """Add a list to the scores; the first list that names a query gives its reason."""
    for suggestion in found:
        query = suggestion.query
        if query in scores:
            scores[query] += weight * suggestion.score
        else:
            scores[query], reasons[query] = weight * suggestion.score, reason


def _ranked(
    channel: str, scores: Mapping[str, float], reasons: Mapping[str, str], depth: int
) -> list[Proposal]:
    best = sorted(scores, key=scores.__getitem__, reverse=True)[:depth]  # stable: ties keep their order
    return [Proposal(query, channel, rank, reasons[query]) for rank, query in enumerate(best, start=1)]
