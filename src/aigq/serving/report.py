"""`aigq doctor --store URL`: what a store holds, by family of keys."""

import asyncio
import math
from typing import NamedTuple

from aigq.doctor import Check
from aigq.serving import keys
from aigq.serving.catalog import current
from aigq.serving.stores import Store, StoreError, open_store
from aigq.serving.stores import shown as without_password


class Family(NamedTuple):
    """Keys of one family: how many, bytes of keys and values, days until the first one expires."""

    name: str
    keys: int
    bytes: int
    days: float


def report(url: str) -> list[Check]:
    """One check per family, and one for the table that is served. Raises UsageError for a wrong URL."""
    return asyncio.run(_report(url))


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


def _check(family: Family) -> Check:
    if not family.keys:
        return Check(family.name, "missing", "no keys")
    each = family.bytes / family.keys
    size = f"{family.keys:,} keys, {family.bytes / 2**20:,.1f} MiB, {each:,.0f} bytes each"
    if math.isinf(family.days):
        return Check(family.name, "warning", f"{size}; they never expire")
    return Check(family.name, "ok", f"{size}; the first expires in {family.days:.1f} days")
