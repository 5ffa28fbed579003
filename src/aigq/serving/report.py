"""`aigq doctor --store URL --events URL`: what a store holds, by family of keys, and what the worker left."""

import asyncio
import math
from collections import defaultdict
from datetime import UTC, datetime
from typing import Final, NamedTuple

from aigq.doctor import Check
from aigq.serving import keys
from aigq.serving.catalog import current
from aigq.serving.nearline import GROUP
from aigq.serving.stores import Store, StoreError, need_store, open_store
from aigq.serving.stores import shown as without_password
from aigq.serving.streams import LogError, need_log, open_log
from aigq.serving.streams.log import DeadLetter

_LETTERS: Final = 1000  # dead letters that are looked at, the latest
_REASONS: Final = 20  # lines about them
_SHOWN: Final = 120  # bytes of an event that are shown


class Family(NamedTuple):
    """Keys of one family: how many, bytes of keys and values, days until the first one expires."""

    name: str
    keys: int
    bytes: int
    days: float


def report(url: str) -> list[Check]:
    """One check per family, and one for the table that is served.

    Raises UsageError for a wrong URL, and where no LMDB store is there.
    """
    need_store(url)
    return asyncio.run(_report(url))


def events_report(url: str) -> list[Check]:
    """How far the worker is behind, and what it set aside, by reason.

    Raises UsageError for a wrong URL, and where no SQLite file is there.
    """
    need_log(url)
    return asyncio.run(_events_report(url))


async def families(store: Store) -> list[Family]:
    """Every family, by one scan of the whole store."""
    found = dict.fromkeys(keys.FAMILIES, Family("", 0, 0, math.inf))
    async for entry in store.scan("aigq:"):
        name = entry.key.split(":", 2)[1]
        family = found.get(name, Family("", 0, 0, math.inf))
        size = family.bytes + entry.size + len(entry.key.encode())
        found[name] = Family("", family.keys + 1, size, min(family.days, entry.ttl_s / 86400))
    return [family._replace(name=name) for name, family in found.items()]


async def _report(url: str) -> list[Check]:
    store = open_store(url)
    try:
        pointer = await current(store)
        found = await families(store)
    except StoreError as error:
        return [Check("store", "failed", str(error))]
    finally:
        await store.close()
    served = "nothing is published" if pointer is None else f"table {pointer.version}"
    before = f", before it {', '.join(pointer.older)}" if pointer is not None and pointer.older else ""
    first = Check(
        "store", "warning" if pointer is None else "ok", f"{without_password(url)}: {served}{before}"
    )
    return [first, *map(_check, found)]


async def _events_report(url: str) -> list[Check]:
    try:
        log = open_log(url)
    except LogError as error:
        return [Check("events", "failed", str(error))]
    try:
        behind = await log.backlog(GROUP)
        letters = await log.dead_letters(_LETTERS)
    except LogError as error:
        return [Check("events", "failed", str(error))]
    finally:
        await log.close()
    waiting = f", the oldest for {behind.oldest_s:,.0f} s" if behind.messages else ""
    first = Check(
        "events", "ok", f"{without_password(url)}: {behind.messages:,} wait for the worker{waiting}"
    )
    return [first, *_set_aside(letters)]


def _set_aside(letters: list[DeadLetter]) -> list[Check]:
    """One check per reason, the latest first, with its latest event."""
    if not letters:
        return [Check("set aside", "ok", "nothing")]
    reasons: dict[str, list[DeadLetter]] = defaultdict(list)
    for letter in letters:
        reasons[letter.reason].append(letter)
    checks = []
    for reason, same in list(reasons.items())[:_REASONS]:
        at = datetime.fromtimestamp(same[0].at, UTC).isoformat(timespec="seconds")
        body = repr(same[0].body[:_SHOWN])[1:]
        latest = f"latest {at}, user {same[0].user}: {body}{'…' * (len(same[0].body) > _SHOWN)}"
        checks.append(Check("set aside", "warning", f"{len(same):,} times {reason}; {latest}"))
    if len(reasons) > _REASONS:
        checks.append(Check("set aside", "warning", f"{len(reasons) - _REASONS} other reasons"))
    return checks


def _check(family: Family) -> Check:
    if not family.keys:
        return Check(family.name, "missing", "no keys")
    each = family.bytes / family.keys
    size = f"{family.keys:,} keys, {family.bytes / 2**20:,.1f} MiB, {each:,.0f} bytes each"
    if math.isinf(family.days):
        return Check(family.name, "warning", f"{size}; they never expire")
    return Check(family.name, "ok", f"{size}; the first expires in {family.days:.1f} days")
