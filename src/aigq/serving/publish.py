"""`aigq publish`: a run's tables into a store, as one immutable version that is switched on at once.

All keys of a version are written first, then the pointer changes; so a request sees one version or the other,
never half of one. The versions before stay for `--rollback`, older ones are removed.
"""

import asyncio
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from aigq.config import Config
from aigq.errors import StageError
from aigq.progress import task
from aigq.serving import keys
from aigq.serving.state import Current, decode, encode, intact
from aigq.serving.stores import Store

Values = Iterator[tuple[str, Any]]
_AT_ONCE: Final = 2_000
GRACE: Final = 3.0
"""A version that is dropped stays for so many times `refresh_s`."""


Build = Callable[[str], Mapping[str, Values]]
"""From the name of a version to the (key, value) pairs of each family: `RunTables.families`."""


async def publish(config: Config, store: Store, build: Build) -> dict[str, Any]:
    """Write a version and switch it on; returns its name, and keys and bytes by family.

    Raises StoreError when the store is away or full; then the version before is still served.
    """
    version = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
    ttl, counts = config.serving.table_days * 86400, {}
    for family, values in build(version).items():
        with task(f"publish {family}") as advance:
            counts[family] = await _write(store, values, ttl, advance)
    now = await _switch(config, store, lambda before: _next(before, version, config.serving.tables_kept))
    return {"version": now.version, "older": now.older, "families": counts}


async def rollback(config: Config, store: Store) -> dict[str, Any]:
    """Serve the version before again and forget the present one. Raises StageError when there is none."""
    now = await _switch(config, store, _previous)
    return {"version": now.version, "older": now.older}


async def _write(store: Store, values: Values, ttl: float, advance: Callable[[int], None]) -> dict[str, int]:
    """Write pairs, a few thousand at a time; how many, and their bytes."""
    count = size = 0
    batch: dict[str, bytes] = {}

    async def flush() -> None:
        nonlocal count, size, batch
        await store.put(batch, ttl)
        count, size = count + len(batch), size + sum(map(len, batch.values()))
        advance(len(batch))
        batch = {}

    for key, value in values:
        batch[key] = encode(value)
        if len(batch) == _AT_ONCE:
            await flush()
    await flush()
    return {"keys": count, "bytes": size}


async def _switch(config: Config, store: Store, change: Callable[[Current | None], Current]) -> Current:
    """Change the pointer in one step, whoever else publishes; then remove the versions that it dropped.

    A damaged pointer counts as none: publishing repairs it, and what it named expires.
    """
    before: Current | None = None

    def changed(value: bytes | None) -> bytes:
        nonlocal before
        before = intact(Current, value)
        return encode(change(before))

    now = decode(Current, await store.update(keys.CURRENT, changed, config.serving.table_days * 86400))
    assert now is not None
    named = {before.version, *before.older} if before is not None else set()
    dropped = named - {now.version, *now.older}
    if dropped:
        await asyncio.sleep(GRACE * config.serving.refresh_s)  # a process may serve it until it looks again
    for version in dropped:
        await _remove(store, version)
    return now


def _next(before: Current | None, version: str, kept: int) -> Current:
    older = [before.version, *before.older] if before is not None else []
    return Current(version, older[: kept - 1])


def _previous(before: Current | None) -> Current:
    if before is None or not before.older:
        raise StageError("there is no earlier table in the store to go back to")
    return Current(before.older[0], before.older[1:])


async def _remove(store: Store, version: str) -> None:
    for family in keys.TABLE_FAMILIES:
        batch = [entry.key async for entry in store.scan(f"aigq:{family}:{version}:")]
        for start in range(0, len(batch), _AT_ONCE):
            await store.delete(batch[start : start + _AT_ONCE])
