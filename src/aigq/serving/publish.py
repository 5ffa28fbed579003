"""`aigq publish`: a run's tables into a store, as one immutable version that is switched on at once.

All keys of a version are written first, then the pointer changes; so a request sees one version or the other,
never half of one. The versions before stay for `--rollback`, older ones are removed. `aigq:versions` names
all that have keys: so a later publish removes what a killed one left, and an erasure reaches it.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from aigq.config import Config
from aigq.errors import StageError
from aigq.progress import task
from aigq.serving import keys
from aigq.serving.catalog import current, written
from aigq.serving.state import Current, decode, encode, intact
from aigq.serving.stores import Store, StoreError

Values = Iterator[tuple[str, Any]]
_AT_ONCE: Final = 2_000
GRACE: Final = 3.0
"""A version that is dropped stays for so many times `refresh_s`."""

_DEAD_S: Final = 3600.0
"""A publish that has written nothing for so long does not run any more."""

Build = Callable[[str], Mapping[str, Values]]
"""From the name of a version to the (key, value) pairs of each family: `RunTables.families`."""


async def publish(config: Config, store: Store, build: Build) -> dict[str, Any]:
    """Write a version and switch it on; returns its name, and keys and bytes by family.

    Raises StoreError when the store is away or full; then the version before is still served, and what was
    written is removed.
    """
    version = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
    ttl, counts = config.serving.table_days * 86400, {}
    await _remove_unfinished(store, ttl)
    try:
        for family, values in build(version).items():
            with task(f"publish {family}") as advance:
                counts[family] = await _write(store, version, values, ttl, advance)
    except BaseException:  # Ctrl-C too
        with contextlib.suppress(StoreError):  # a later publish removes it then
            await _remove(store, version, ttl)
        raise
    now = await _switch(config, store, lambda before: _next(before, version, config.serving.tables_kept))
    return {"version": now.version, "older": now.older, "families": counts}


async def rollback(config: Config, store: Store) -> dict[str, Any]:
    """Serve the version before again and forget the present one. Raises StageError when there is none."""
    now = await _switch(config, store, _previous)
    return {"version": now.version, "older": now.older}


async def _write(
    store: Store, version: str, values: Values, ttl: float, advance: Callable[[int], None]
) -> dict[str, int]:
    """Write pairs of a version, a few thousand at a time; how many, and their bytes."""
    count = size = 0
    batch: dict[str, bytes] = {}

    async def flush() -> None:
        nonlocal count, size, batch
        await _note(store, {version: time.time()}, ttl)
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

    A damaged pointer counts as none: publishing repairs it, and a later one removes what it named.
    """
    ttl = config.serving.table_days * 86400
    before: Current | None = None

    def changed(value: bytes | None) -> bytes:
        nonlocal before
        before = intact(Current, value)
        return encode(change(before))

    now = decode(Current, await store.update(keys.CURRENT, changed, ttl))
    assert now is not None
    named = {before.version, *before.older} if before is not None else set()
    dropped = named - {now.version, *now.older}
    if dropped:
        await asyncio.sleep(GRACE * config.serving.refresh_s)  # a process may serve it until it looks again
    for version in dropped:
        await _remove(store, version, ttl)
    return now


def _next(before: Current | None, version: str, kept: int) -> Current:
    older = [before.version, *before.older] if before is not None else []
    return Current(version, older[: kept - 1])


def _previous(before: Current | None) -> Current:
    if before is None or not before.older:
        raise StageError("there is no earlier table in the store to go back to")
    return Current(before.older[0], before.older[1:])


async def _remove_unfinished(store: Store, ttl: float) -> None:
    """Remove versions that nobody serves and nobody writes: of a publish that was killed, say."""
    versions = await written(store)
    try:
        pointer = await current(store)
    except StoreError:  # damaged: processes serve what it named until this publish repairs it
        return
    served = {pointer.version, *pointer.older} if pointer is not None else set()
    for version, at in versions.items():
        if version not in served and abs(time.time() - at) > _DEAD_S:
            await _remove(store, version, ttl)


async def _remove(store: Store, version: str, ttl: float) -> None:
    for family in keys.TABLE_FAMILIES:
        batch = [entry.key async for entry in store.scan(f"aigq:{family}:{version}:")]
        for start in range(0, len(batch), _AT_ONCE):
            await store.delete(batch[start : start + _AT_ONCE])
    await _note(store, {version: None}, ttl)


async def _note(store: Store, changes: Mapping[str, float | None], ttl: float) -> None:
    """Keep in `aigq:versions` when versions were written to; None: it has no keys any more."""

    def changed(value: bytes | None) -> bytes:
        versions = {**(intact(dict[str, float], value) or {}), **changes}
        return encode({version: at for version, at in versions.items() if at is not None})

    await store.update(keys.VERSIONS, changed, ttl)
