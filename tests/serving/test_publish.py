"""A version that was begun and not switched on is removed, and an erasure reaches it."""

import asyncio
import time

import pytest
from serving_helpers import config

from aigq.serving import keys
from aigq.serving.publish import publish
from aigq.serving.stores import StoreError
from aigq.serving.stores.embedded import LmdbStore
from aigq.serving.stores.memory import MemoryStore
from aigq.serving.streams.memory import MemoryLog
from aigq.serving.users import erase


class Killed(BaseException):
    """The process ends; nothing is caught."""


class Mortal(MemoryStore):
    """A store whose process may be gone: then it removes nothing."""

    gone = False

    async def delete(self, names):
        if self.gone:
            raise StoreError("away")
        return await super().delete(names)


def tables(n, error=None):
    """What a run of n users has, 3 kB of each; the error comes after them."""

    def bases(version):
        for number in range(n):
            yield keys.base(version, f"user{number}"), bytes(3000)
        if error is not None:
            raise error

    return lambda version: {"base": bases(version)}


async def versions(store):
    return {entry.key.split(":")[2] async for entry in store.scan("aigq:base:")}


async def killed(store):
    """A publish whose process is killed when some users are written."""
    store.gone = True
    with pytest.raises(Killed):
        await publish(config(), store, tables(3000, Killed()))
    store.gone = False


def later(monkeypatch):
    """Two hours pass."""
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 2 * 3600)


def test_a_publish_that_fails_leaves_nothing(tmp_path):
    """On a full LMDB store above all, where the half version would keep it full."""

    async def work():
        store = LmdbStore(tmp_path, map_gb=24 / 1024)
        first = (await publish(config(), store, tables(1000)))["version"]
        for _ in range(2):
            with pytest.raises(StoreError, match="full"):
                await publish(config(), store, tables(20_000))
        found = await versions(store)
        return first, found, (await publish(config(), store, tables(1000)))["older"]

    first, found, older = asyncio.run(work())
    assert found == {first}
    assert older == [first]


def test_what_a_killed_publish_left_is_removed_by_a_later_one(monkeypatch):
    async def work():
        store = Mortal()
        await killed(store)
        soon = (await publish(config(), store, tables(3)))["version"]
        running = await versions(store) - {soon}
        later(monkeypatch)
        last = (await publish(config(), store, tables(3)))["version"]
        return running, soon, last, await versions(store)

    running, soon, last, found = asyncio.run(work())
    assert len(running) == 1  # it could be running still
    assert found == {soon, last}


def test_what_a_publish_could_not_drop_is_dropped_by_a_later_one(monkeypatch):
    async def work():
        store, alone = Mortal(), config(tables_kept=1)
        await publish(alone, store, tables(3))
        store.gone = True
        with pytest.raises(StoreError):
            await publish(alone, store, tables(3))
        store.gone = False
        later(monkeypatch)
        last = (await publish(alone, store, tables(3)))["version"]
        return last, await versions(store)

    last, found = asyncio.run(work())
    assert found == {last}


def test_a_damaged_pointer_names_no_version_but_they_are_served_still(monkeypatch):
    async def work():
        store = MemoryStore()
        served = (await publish(config(), store, tables(3)))["version"]
        await store.put({keys.CURRENT: b"\xc1"}, 60)
        later(monkeypatch)
        await publish(config(), store, tables(3))
        return served in await versions(store)

    assert asyncio.run(work())


def test_an_erasure_reaches_what_a_killed_publish_left():
    async def work():
        store = Mortal()
        await publish(config(), store, tables(3))
        await killed(store)
        erased = await erase(store, MemoryLog(), "user1")
        return erased.messages, [e.key async for e in store.scan("") if keys.is_of("user1", e.key)]

    assert asyncio.run(work()) == (2, [])
