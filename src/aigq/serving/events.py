"""UBI 1.3.0 events from clients, checked and turned into events of the log."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec

from aigq.action_names import ACTION_NAMES
from aigq.serving.state import BEHAVIOURS, SHOWN, Event
from aigq.spelling import normalise_query

FUTURE_S: Final = 300.0
"""A clock may be wrong by so much; an event from later than that is rejected."""

OLDEST_S: Final = 30 * 86400.0
_KNOWN: Final = BEHAVIOURS | SHOWN | {"exit"}
Id = Annotated[str, msgspec.Meta(max_length=256)]
Text = Annotated[str, msgspec.Meta(max_length=2000)]


class UbiObject(msgspec.Struct, frozen=True):
    """What was acted on."""

    object_id: Id | int | None = None
    internal_id: Id | int | None = None
    description: Text | None = None
    title: Text | None = None


class UbiPosition(msgspec.Struct, frozen=True):
    """Where it stood."""

    ordinal: Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)] | None = None


class UbiAttributes(msgspec.Struct, frozen=True):
    """The UBI field event_attributes; anything else in it is ignored."""

    object: UbiObject | None = None
    position: UbiPosition | None = None
    session_id: Id | None = None
    event_id: Id | None = None
    surface: Id | None = None


class UbiEvent(msgspec.Struct, frozen=True):
    """A UBI 1.3.0 event. `query_id` is the request id of the hints where the event is about a hint."""

    action_name: Id
    client_id: Id | None = None
    user_id: Id | None = None
    session_id: Id | None = None
    query_id: Id | None = None
    user_query: Text | None = None
    message: Text | None = None
    timestamp: Annotated[str, msgspec.Meta(max_length=64)] | float | None = None
    event_id: Id | None = None
    event_attributes: UbiAttributes | None = None


class EventError(ValueError):
    """An event that cannot be used; the message is the reason that the caller gets."""


_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)
_split: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_read: Final = msgspec.json.Decoder(UbiEvent, strict=False).decode


def shopper(user: str | None, session: str | None) -> str | None:
    """Who acts: the user, or else the anonymous session. None when neither is known."""
    if user:
        return user
    return f"session:{session}" if session else None


def split(body: bytes | str) -> list[msgspec.Raw]:
    """The events of a JSON list, unread: what is wrong with one says nothing of the others.

    Raises EventError when it is no list.
    """
    try:
        return _split(body)
    except _UNREADABLE as error:
        raise EventError(f"not a list of events: {error}") from None


def read_event(
    body: bytes | msgspec.Raw, now: float, name: Callable[[str], str] = str, default: str | None = None
) -> Event:
    """An event of the log from its JSON; see `parse_event`. Raises EventError."""
    try:
        raw = _read(body)
    except _UNREADABLE as error:
        raise EventError(f"not an event: {error}") from None
    return parse_event(raw, now, name, default)


def parse_event(
    raw: UbiEvent, now: float, name: Callable[[str], str] = str, default: str | None = None
) -> Event:
    """A UBI event as an event of the log, in which no id of a shopper is left that `name` would hide.

    An event without `event_id` gets one from what it says, so a repeat of it is recognised. One without a
    timestamp happened now, and so its repeat is a new event.

    Args:
        raw: as it came.
        now: seconds since 1970.
        name: from a user id to its name in store and log, see `keys.user_names`. An `event_id` of the caller
            may contain the user's, so it is named too.
        default: the name of who acted when the event does not say.

    Raises:
        EventError: unknown action, nobody, no query and no item, or an impossible time.
    """
    attributes = raw.event_attributes or UbiAttributes()
    thing = attributes.object or UbiObject()
    session = raw.session_id or attributes.session_id
    who = shopper(raw.user_id or raw.client_id, session)
    user = name(who) if who is not None else default
    if user is None:
        raise EventError("no user_id, client_id or session_id")
    action = _action(raw.action_name)
    query = normalise_query(raw.user_query or "") or None
    if query is None and action == "search":
        query = normalise_query(raw.message or "") or None
    item = None if action == "search" else _text(thing.object_id) or _text(thing.internal_id)
    text = normalise_query(thing.description or thing.title or "") or None
    if action in SHOWN and query is None:
        query = text
    if query is None and item is None and action != "exit":
        raise EventError(f"a {action} without a query and without an object")
    at = _seconds(raw.timestamp, now)
    position = attributes.position.ordinal if attributes.position else None
    given = raw.event_id or attributes.event_id
    identity = name(given) if given else _digest(user, at, action, query, item, raw.query_id)
    return Event(identity, user, at, action, query, item, raw.query_id, position, text, attributes.surface)


def _action(name: str) -> str:
    spelled = name.strip().lower()
    action = ACTION_NAMES.get(spelled, spelled)
    if action not in _KNOWN:
        raise EventError(f"unknown action_name {name[:40]!r}; known: {', '.join(sorted(_KNOWN))}")
    return action


def _seconds(stamp: str | float | None, now: float) -> float:
    """Seconds since 1970 of ISO 8601, seconds or milliseconds; UTC where no zone is given."""
    if stamp is None:
        return now
    at = _iso(stamp) if isinstance(stamp, str) else float(stamp)
    if at > 1e11:  # the year 5138 in seconds: these are milliseconds
        at /= 1000.0
    if not now - OLDEST_S <= at <= now + FUTURE_S:
        raise EventError("the timestamp is in the future or more than 30 days ago")
    return at


def _iso(stamp: str) -> float:
    try:
        moment = datetime.fromisoformat(stamp.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError, OSError):
        raise EventError(f"{stamp[:40]!r} is not a timestamp") from None


def _text(value: str | int | None) -> str | None:
    return str(value) if value is not None and value != "" else None


def _digest(*parts: object) -> str:
    said = "\x1f".join("" if part is None else str(part) for part in parts)
    return hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
