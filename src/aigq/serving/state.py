"""What a shopper did and was shown, as values of a store. Pure functions on them.

None of them can be part of a cycle, so the collector need not look at them (gc=False).

`Live` is a set of events with a bound per kind: of all that ever arrive, the latest N stay. Adding an event
twice changes nothing, and the order of arrival does not matter, so late and repeated events need no further
care: one older than all that is kept by a full list would have been dropped anyway.
"""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Final, TypeVar

import msgspec

BEHAVIOURS: Final = frozenset({"search", "click", "cart", "purchase"})
SHOWN: Final = frozenset({"hint_impression", "hint_click", "hint_dismiss"})
SHOWN_KEPT: Final = 100
"""Clicks of hints that are kept per user, and as many dismissals."""


class Event(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One event of the log: who, when (seconds since 1970), what. Equal ids are one event."""

    id: str
    user: str
    at: float
    action: str
    query: str | None = None  # normalised
    item: str | None = None
    request: str | None = None
    position: int | None = None
    text: str | None = None  # what the client calls the item
    surface: str | None = None
    hints: list[tuple[str, str]] | None = None  # of an impression that the service logs: (query, channel)


class Past(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One behaviour; `text` is the query, or the item in words."""

    at: float
    id: str
    action: str
    text: str
    query: str | None = None
    item: str | None = None
    category: str | None = None


class Shown(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A hint was shown, clicked or dismissed. The same request and query is one showing."""

    at: float
    id: str
    action: str
    query: str


class Live(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What happened since the table was published; both lists oldest first."""

    past: list[Past] = []
    shown: list[Shown] = []


class Own(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A query of the shopper's own: decayed frequency as of the end of the published log."""

    query: str
    weight: float
    count: int


class Suggestion(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A query of a generated list and its reason."""

    query: str
    reason: str = ""


class Neighbours(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The queries of a trigger with their scores (of one table), best first. Columns are quicker to read."""

    queries: list[str] = []
    scores: list[float] = []


class Generation(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One list of the generator: by which model, when, from events up to when."""

    model: str
    at: float
    seen: float
    hints: list[Suggestion]


class Taste(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What the CTR model reads of a published history; the arrays are those of `click_tables`.

    Counts of behaviours with a query and of days that have some, days since the latest, that query's number
    (-1: none), the profile features that are 1, own issues, similar queries, and the latest behaviours.
    """

    behaviours: int
    active_days: int
    idle_days: float
    latest: int
    profile: list[int]
    issues: bytes
    similar: bytes
    recent: bytes


class Base(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The published history of a user up to `until`; `past` holds its end, oldest first.

    `backfill` is the list that `aigq generate u2q` wrote for everybody, `taste` what the CTR model reads.
    """

    until: float = 0.0
    past: list[Past] = []
    own: list[Own] = []
    backfill: Generation | None = None
    taste: Taste | None = None


class U2q(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The last M generations of a user, newest first; `times` of those that count against the budget."""

    runs: list[Generation] = []
    times: list[float] = []


class ItemInfo(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An item in words that may be shown, if there are some, and its leaf category."""

    text: str | None
    category: str | None = None


class Current(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Which table is served, and the ones before it, newest first."""

    version: str
    older: list[str] = []


class QueryInfo(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A query that may be shown: its leaf category and the distinct items that it led to."""

    query: str
    category: str | None
    items: int


class CatalogPart(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A part of a table's queries; part 0 also says how many parts there are and holds the popular list."""

    queries: list[QueryInfo]
    parts: int = 0
    popular: list[str] = []
    published_at: float = 0.0


T = TypeVar("T")
encode: Final = msgspec.msgpack.Encoder().encode
_DECODERS: dict[Any, Any] = {}


def decode(kind: type[T], value: bytes | None) -> T | None:
    """The value, or None when it is missing. Raises msgspec.DecodeError when it is damaged."""
    if value is None:
        return None
    if kind not in _DECODERS:
        _DECODERS[kind] = msgspec.msgpack.Decoder(kind)
    try:
        result: T = _DECODERS[kind].decode(value)
    except UnicodeDecodeError as error:  # msgspec wraps all but this one
        raise msgspec.DecodeError(str(error)) from error
    return result


def intact(kind: type[T], value: bytes | None) -> T | None:
    """The value, or None when it is missing or damaged: where the value only makes an answer better."""
    try:
        return decode(kind, value)
    except msgspec.DecodeError:
        return None


def merge_live(live: Live, past: Iterable[Past], shown: Iterable[Shown], kept: int, impressions: int) -> Live:
    """The union, bounded to the latest `kept` behaviours and what `latest_shown` keeps."""
    return Live(_latest([*live.past, *past], kept), latest_shown([*live.shown, *shown], impressions))


def latest_shown(shown: Sequence[Shown], impressions: int) -> list[Shown]:
    """The latest `impressions`, SHOWN_KEPT clicks and as many dismissals, oldest first.

    Bounds of their own, since a page of impressions must not push a dismissal out.
    """
    kept = dict.fromkeys(SHOWN, SHOWN_KEPT) | {"hint_impression": impressions}
    latest = [_latest([s for s in shown if s.action == action], most) for action, most in kept.items()]
    return sorted(chain.from_iterable(latest), key=_order)


def _latest(entries: Sequence[Any], kept: int) -> list[Any]:
    """One entry per id, the first in time where times differ; the latest `kept` of them, oldest first."""
    by_id: dict[str, Any] = {}
    for entry in entries:
        other = by_id.get(entry.id)
        if other is None or _order(entry) < _order(other):
            by_id[entry.id] = entry
    return sorted(by_id.values(), key=_order)[-kept:]


def _order(entry: Past | Shown) -> tuple[float, str, str]:
    return entry.at, entry.id, entry.action


def recent(base: Base, live: Live, now_events: Sequence[Past] = ()) -> list[Past]:
    """All known behaviours, newest first. Live events that the published history has already are left out."""
    newer = {past.id: past for past in (*live.past, *now_events) if past.at > base.until}
    return [*sorted(newer.values(), key=lambda p: (p.at, p.id), reverse=True), *reversed(base.past)]


def past_of(event: Event, info: ItemInfo | None, categories: dict[str, str]) -> Past | None:
    """An event as a behaviour; None when it is none, or nothing can be said about it."""
    if event.action not in BEHAVIOURS:
        return None
    named = info.text if info is not None and info.text else event.text
    text = event.query if event.action == "search" else named or event.query or event.item
    if not text:
        return None
    category = categories.get(text) or (info.category if info is not None else None)
    return Past(event.at, event.id, event.action, text, event.query, event.item, category)


def shown_of(event: Event) -> list[Shown]:
    """An event as showings, a click or a dismissal of hints; else nothing.

    The service and the page both tell of a showing: the same request and query, so it counts once.
    """
    if event.action not in SHOWN:
        return []
    queries = [query for query, _ in event.hints] if event.hints is not None else [event.query]
    return [_one_shown(event, query) for query in queries if query]


def _one_shown(event: Event, query: str) -> Shown:
    said = f"{event.action}:{event.request}:{query}" if event.request else event.id
    once = hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return Shown(event.at, once, event.action, query)
