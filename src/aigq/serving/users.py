"""Changes of what store and log know about users: events come in, users are erased. Idempotent."""

import contextlib
import time
from collections.abc import Sequence

from aigq.serving import keys
from aigq.serving.catalog import Catalog, current, written
from aigq.serving.metrics import DAMAGED
from aigq.serving.state import (
    BEHAVIOURS,
    Event,
    ItemInfo,
    Live,
    Past,
    encode,
    intact,
    merge_live,
    past_of,
    shown_of,
)
from aigq.serving.stores import Store, StoreError
from aigq.serving.streams import Erased, EventLog, Message

GONE_S = 90 * 86400.0
"""How long it is known that a user was erased. Older events and older logs do not bring the user back."""


async def append(store: Store, log: EventLog, messages: Sequence[tuple[float, Message]]) -> list[bool]:
    """Write messages to the log, without those from before the erasure of their user.

    While the store is away nobody is known to be erased, and all are written.

    Args:
        store: knows who was erased.
        log: where they go.
        messages: each with its time, see `time_of`.

    Returns:
        which of them are in the log now.

    Raises LogError when the log does not take them.
    """
    names = list({message.user for _, message in messages if message.user})
    try:
        gone = await erased_at(store, names)
    except StoreError:
        gone, names = {}, []  # who cannot be looked up now is not looked up below
    fresh = [at > gone.get(message.user, 0.0) for at, message in messages]
    if any(fresh):
        await log.append([message for (_, message), new in zip(messages, fresh, strict=True) if new])
    late: set[str] = set()
    with contextlib.suppress(StoreError):
        now_gone = await erased_at(store, names)
        late = {name for name, at in now_gone.items() if at > gone.get(name, 0.0)}
    for name in late:  # erased between the look and the write
        await log.erase(name)
    return [new and message.user not in late for (_, message), new in zip(messages, fresh, strict=True)]


def time_of(event: Event, received: float) -> float:
    """When an event was, in seconds since 1970: at the latest when it came, however far a clock is ahead."""
    return min(event.at, received)


async def described(store: Store, catalog: Catalog, events: Sequence[Event]) -> list[Past]:
    """The behaviours among events, items in the words of the published table."""
    wanted = list(dict.fromkeys(e.item for e in events if e.item and e.action in BEHAVIOURS))
    values = await store.get([keys.item(catalog.version, item) for item in wanted]) if wanted else []
    infos = {item: intact(ItemInfo, value) for item, value in zip(wanted, values, strict=True)}
    told = (past_of(e, infos.get(e.item) if e.item else None, catalog.categories) for e in events)
    return [past for past in told if past is not None]


async def apply(
    store: Store,
    catalog: Catalog,
    user: str,
    timed: Sequence[tuple[float, Event]],
    *,
    kept: int,
    impressions: int,
    ttl_s: float,
) -> Live | None:
    """Add events of one user, each with its `time_of`, to the live state.

    Those from before the user's erasure are dropped.

    Returns:
        the state after the events, or None when nothing was added.
    """
    gone = (await erased_at(store, [user])).get(user, 0.0)
    fresh = [event for at, event in timed if at > gone]
    past = await described(store, catalog, fresh)
    shown = [showing for event in fresh for showing in shown_of(event)]
    if not past and not shown:
        return None

    def merged(value: bytes | None) -> bytes:
        live = intact(Live, value)
        if live is None and value is not None:
            DAMAGED.labels("live").inc()
        return encode(merge_live(live or Live(), past, shown, kept, impressions))

    after = await store.update(keys.live(user), merged, ttl_s)
    if (await erased_at(store, [user])).get(user, 0.0) > gone:  # between the look and the write
        await store.delete([keys.live(user)])
        return None
    return intact(Live, after)


async def erased_at(store: Store, names: Sequence[str]) -> dict[str, float]:
    """When users were erased, in seconds since 1970; only of those who were."""
    values = await store.get([keys.gone(name) for name in names])
    marks = ((name, intact(float, value)) for name, value in zip(names, values, strict=True))
    return {name: at for name, at in marks if at is not None}


async def erase(store: Store, log: EventLog, user: str) -> Erased:
    """Remove a user from the log and the store; returns how many messages and keys were
    removed, and whether the log keeps some for a while.

    First a mark without the user's id, so that a worker that holds events of the user writes nothing after.
    """
    await _mark(store, user)
    erased = await log.erase(user)
    pointer = await current(store)
    versions = set(await written(store))
    if pointer is not None:
        versions |= {pointer.version, *pointer.older}
    names = [keys.live(user), keys.u2q(user), *(keys.base(version, user) for version in versions)]
    return Erased(erased.messages + await store.delete(names), erased.kept)


async def erase_all(store: Store, log: EventLog, user: str) -> dict[str, int]:
    """As `erase`, and also keys of versions that are not kept any more, and what removal leaves in files.

    Slow: it looks at the name of every key, and embedded files are written anew.

    Returns:
        how many keys (`store`) and messages (`log`) were removed.
    """
    await _mark(store, user)
    erased = await log.erase(user)
    found = [entry.key async for entry in store.scan("aigq:") if keys.is_of(user, entry.key)]
    removed = await store.delete(found)
    await store.scrub()
    await log.scrub()
    return {"store": removed, "log": erased.messages}


async def _mark(store: Store, user: str) -> None:
    await store.put({keys.gone(user): encode(time.time())}, GONE_S)
