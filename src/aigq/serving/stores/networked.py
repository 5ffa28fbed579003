"""Redis or Valkey: one server or a cluster, with or without TLS. Expiry is the server's own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import redis.asyncio as redis
from redis.asyncio.cluster import RedisCluster

from aigq.serving.redis_url import FAILURES, client, reason
from aigq.serving.stores.store import Change, Entry, StoreError
from aigq.serving.tracing import traced

T = TypeVar("T")
_AT_ONCE: Final = 1000
_TRIES: Final = 20
_TIMEOUT_S: Final = 2.0
_CONNECTIONS: Final = 1024  # redis-py's own limit of 100 failed reads under load; opened as needed
_SWAP: Final = """
local now = redis.call('GET', KEYS[1])
if (ARGV[1] == '1') ~= (now ~= false) then return 0 end
if now ~= false and now ~= ARGV[2] then return 0 end
if ARGV[3] == '1' then redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5]) else redis.call('DEL', KEYS[1]) end
return 1
"""
"""Compare and set on one key, so it works on a cluster: had a value, which, has a value, which, its ttl."""


class RedisStore:
    """Keys on a server. Reads of several keys are one MGET, on a cluster one per slot, sent together.

    Args:
        url: redis://, rediss:// (TLS), valkey://, valkeys://; `redis+cluster://` for a cluster, of which any
            node will do. A user and a password go before the host, the number of the database after it.
    """

    def __init__(self, url: str) -> None:
        self._cluster = urlsplit(url).scheme.endswith("+cluster")
        self._redis = client(
            RedisCluster if self._cluster else redis.Redis,
            url,
            "store",
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            max_connections=_CONNECTIONS,
        )

    @traced("store.get")
    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """See Store."""
        if not keys:
            return []
        read = self._redis.mget_nonatomic if self._cluster else self._redis.mget
        return list(await _answered(lambda: read(list(keys))))

    async def put(self, values: Mapping[str, bytes], ttl_s: float) -> None:
        """See Store. Pipelined, a thousand keys at a time."""
        items = list(values.items())
        for start in range(0, len(items), _AT_ONCE):
            await _answered(partial(self._put, items[start : start + _AT_ONCE], ttl_s))

    async def update(self, key: str, change: Change, ttl_s: float) -> bytes | None:
        """See Store. Reads, changes, and writes only if nobody wrote in between; else again."""
        for attempt in range(_TRIES):
            before = (await self.get([key]))[0]
            after = change(before)
            swap = ["0" if before is None else "1", before or b"", "0" if after is None else "1"]
            arguments = [*swap, after or b"", _milliseconds(ttl_s)]
            if await _answered(partial(self._redis.eval, _SWAP, 1, key, *arguments)):
                return after
            await asyncio.sleep(0.001 * attempt)
        raise StoreError(f"{_TRIES} writers in a row were faster; the key is too busy")

    async def delete(self, keys: Sequence[str]) -> int:
        """See Store."""
        if not keys:
            return 0

        async def work() -> int:
            pipe = self._redis.pipeline() if self._cluster else self._redis.pipeline(transaction=False)
            for key in keys:
                pipe.execute_command("UNLINK", key)  # a cluster pipeline has no unlink()
            return sum(await pipe.execute())

        return await _answered(work)

    async def scan(self, prefix: str) -> AsyncIterator[Entry]:
        """See Store. SCAN may name a key twice; here it comes once."""
        escaped = "".join(f"\\{c}" if c in "*?[]\\^-" else c for c in prefix)
        seen: set[bytes] = set()
        batch: list[bytes] = []
        try:
            async for key in self._redis.scan_iter(match=f"{escaped}*", count=_AT_ONCE):
                if key not in seen:
                    seen.add(key)
                    batch.append(key)
                if len(batch) == _AT_ONCE:
                    for entry in await self._sizes(batch):
                        yield entry
                    batch = []
        except FAILURES as error:
            raise StoreError(f"the store did not answer: {reason(error)}") from error
        for entry in await self._sizes(batch):
            yield entry

    async def sweep(self, limit: int = 10_000) -> int:
        """Nothing to do: the server removes expired keys."""
        return 0

    async def scrub(self) -> None:
        """Nothing to do: there is no file of ours."""

    async def dump(self) -> AsyncIterator[tuple[bytes, bytes]]:
        """See Store."""
        keys = [entry.key async for entry in self.scan("aigq:")]
        for start in range(0, len(keys), _AT_ONCE):
            batch = keys[start : start + _AT_ONCE]
            for key, value in zip(batch, await self.get(batch), strict=True):
                yield key.encode(), value or b""

    async def close(self) -> None:
        """See Store."""
        await self._redis.aclose()

    async def _put(self, items: Sequence[tuple[str, bytes]], ttl_s: float) -> None:
        pipe = self._redis.pipeline() if self._cluster else self._redis.pipeline(transaction=False)
        for key, value in items:
            pipe.set(key, value, px=_milliseconds(ttl_s))
        await pipe.execute()

    async def _sizes(self, keys: Sequence[bytes]) -> list[Entry]:
        async def work() -> list[Any]:
            pipe = self._redis.pipeline() if self._cluster else self._redis.pipeline(transaction=False)
            for key in keys:
                pipe.strlen(key)
                pipe.pttl(key)
            return list(await pipe.execute())

        if not keys:
            return []
        found = await _answered(work)
        pairs = zip(keys, found[::2], found[1::2], strict=True)
        return [
            Entry(k.decode(), size, left / 1000 if left > 0 else float("inf"))
            for k, size, left in pairs
            if left != -2
        ]


def _milliseconds(ttl_s: float) -> int:
    return max(1, int(ttl_s * 1000))


async def _answered(work: Callable[[], Awaitable[T]]) -> T:
    try:
        return await work()
    except FAILURES as error:
        raise StoreError(f"the store did not answer: {reason(error)}") from error
