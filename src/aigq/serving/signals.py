"""Which events are worth a new list, and whose turn it is. Pure; method.md section 6 (nearline).

Whether an event is a signal follows from the user's behaviours alone, not from what was read before. So an
event that is read again, after a worker died, is judged the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from aigq.serving.state import Past, U2q

Signal = Literal["new_search", "new_category", "purchase"]
PATIENCE: Final = 5.0
"""A user who never pauses gets a list after so many debounce times."""


def signal_of(event: Past, past: Sequence[Past]) -> Signal | None:
    """A new search, a click or cart in a new category, or a purchase; else None.

    Args:
        event: one behaviour of the user.
        past: all known ones; those that are not earlier than the event are ignored.
    """
    if event.action == "purchase":
        return "purchase"
    earlier = [p for p in past if (p.at, p.id) < (event.at, event.id)]
    if event.action == "search":
        return None if any(p.text == event.text for p in earlier) else "new_search"
    kind = event.category or event.text
    return None if any((p.category or p.text) == kind for p in earlier) else "new_category"


def answered(u2q: U2q, now: float, skew_s: float) -> float:
    """Up to when the newest list has seen events; 0.0 without a list.

    Also 0.0 when that is more than `skew_s` ahead: the clock was set back after the list.
    """
    seen = u2q.runs[0].seen if u2q.runs else 0.0
    return seen if seen <= now + skew_s else 0.0


@dataclass(frozen=True)
class Pending:
    """A user who waits for a list. `first` and `last` are when their signals arrived."""

    user: str
    partition: int
    offset: str  # of the first signal: nothing from here on may be committed
    first: float
    last: float


def add(pending: dict[str, Pending], new: Pending) -> None:
    """Another signal of a user: the earliest offset stays, the clock of the debounce starts again."""
    known = pending.get(new.user)
    pending[new.user] = new if known is None else replace(known, last=max(known.last, new.last))


def due(pending: dict[str, Pending], now: float, debounce_s: float, n: int) -> list[Pending]:
    """At most n users whose signals have settled, those who acted last first: they are still here."""
    settled = [
        p
        for p in pending.values()
        # signals from the future are older than the clock, which was set back: they need not wait for it
        if abs(now - p.last) >= debounce_s or abs(now - p.first) >= PATIENCE * debounce_s
    ]
    return sorted(settled, key=lambda p: (-p.last, p.user))[:n]


def too_old(pending: dict[str, Pending], now: float, max_age_s: float) -> list[Pending]:
    """Users whose last signal waited too long: they have left, and others have not."""
    return [p for p in pending.values() if now - p.last > max_age_s]
