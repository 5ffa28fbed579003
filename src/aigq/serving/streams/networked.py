"""Redis Streams: one stream per partition; leases and commits are hashes that one script changes at a time.

Redis' own consumer groups hand neighbouring entries of a stream to different consumers, so two events of one
user could be applied at once and out of order. Hence a stream per partition with one reader each, as Kafka
does it.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import redis.asyncio as redis

from aigq.serving.redis_url import FAILURES, client, reason
from aigq.serving.stores.store import Clock
from aigq.serving.streams.log import (
    FAR_S,
    PARTITIONS,
    Backlog,
    DeadLetter,
    Erased,
    LeaseLost,
    LogError,
    Message,
    Record,
    partition_of,
)

T = TypeVar("T")
_PREFIX: Final = "{aigq:log}"
_DEAD: Final = f"{_PREFIX}:dead"
_START: Final = "0-0"
_KEEP_S: Final = 30 * 86400
_TIMEOUT_S: Final = 5.0
_PAGE: Final = 1000

_LEASE: Final = """
local workers, owners, untils = KEYS[1], KEYS[2], KEYS[3]
local worker, now, till, parts, keep = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), ARGV[5]
local far = tonumber(ARGV[6])
redis.call('ZREMRANGEBYSCORE', workers, '-inf', now)
redis.call('ZREMRANGEBYSCORE', workers, '(' .. ARGV[6], '+inf')
redis.call('ZADD', workers, till, worker)
local fair = math.ceil(parts / redis.call('ZCARD', workers))
local mine, free = {}, {}
for p = 0, parts - 1 do
  local owner, till_p = redis.call('HGET', owners, p), tonumber(redis.call('HGET', untils, p) or '0')
  if owner == worker and till_p > now then mine[#mine + 1] = p
  elseif not owner or till_p <= now or till_p > far then free[#free + 1] = p end
end
for i = fair + 1, #mine do redis.call('HDEL', owners, mine[i]); redis.call('HDEL', untils, mine[i]) end
local held = {}
for i = 1, math.min(fair, #mine) do held[#held + 1] = mine[i] end
for i = 1, #free do if #held < fair then held[#held + 1] = free[i] end end
for _, p in ipairs(held) do redis.call('HSET', owners, p, worker); redis.call('HSET', untils, p, till) end
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, keep) end
return held
"""
_COMMIT: Final = """
local worker, now, keep = ARGV[1], tonumber(ARGV[2]), ARGV[3]
for i = 4, #ARGV, 2 do
  local owner, till = redis.call('HGET', KEYS[1], ARGV[i]), redis.call('HGET', KEYS[2], ARGV[i])
  if owner ~= worker or tonumber(till or '0') <= now then return ARGV[i] end
end
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[3], keep)
return -1
"""
_RELEASE: Final = """
redis.call('ZREM', KEYS[1], ARGV[1])
for p = 0, tonumber(ARGV[2]) - 1 do
  if redis.call('HGET', KEYS[2], p) == ARGV[1] then
    redis.call('HDEL', KEYS[2], p)
    redis.call('HDEL', KEYS[3], p)
  end
end
"""


class RedisLog:
    """Streams on one server or primary; every key has one hash tag.

    Args:
        url: redis:// or rediss://, as of the stores.
        clock: seconds; tests give their own. The workers of a group need clocks that agree to within a lease.
    """

    def __init__(self, url: str, clock: Clock = time.time) -> None:
        self._clock = clock
        timeouts = {"socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S}
        self._redis = client(redis.Redis, url, "log", **timeouts)

    async def append(self, messages: Sequence[Message]) -> None:
        """See EventLog. Pipelined in one transaction."""

        async def work() -> None:
            pipe = self._redis.pipeline(transaction=True)
            touched = set()
            for user, body in messages:
                stream = _stream(partition_of(user))
                touched.add(stream)
                pipe.xadd(stream, {"u": user, "b": body})
            for stream in touched:
                pipe.expire(stream, _KEEP_S)
            await pipe.execute()

        if messages:
            await _answered(work)

    async def lease(self, group: str, worker: str, seconds: float) -> list[int]:
        """See EventLog."""
        now = self._clock()
        arguments = (worker, repr(now), repr(now + seconds), PARTITIONS, _KEEP_S, repr(now + FAR_S))
        held = await _answered(partial(self._redis.eval, _LEASE, 3, *_leases(group), *arguments))
        return sorted(int(part) for part in held)

    async def release(self, group: str, worker: str) -> None:
        """See EventLog."""
        await _answered(partial(self._redis.eval, _RELEASE, 3, *_leases(group), worker, PARTITIONS))

    async def read(
        self, group: str, partitions: Sequence[int], n: int, after: dict[int, str]
    ) -> list[Record]:
        """See EventLog. All partitions in one round trip."""
        if not partitions:
            return []
        done = await self._done(group)

        async def work() -> list[Any]:
            pipe = self._redis.pipeline(transaction=False)
            for part in partitions:
                pipe.xrange(_stream(part), min=f"({after.get(part, done.get(part, _START))}", count=n)
            return list(await pipe.execute())

        found = zip(partitions, await _answered(work), strict=True)
        return [_record(part, offset, fields) for part, rows in found for offset, fields in rows]

    async def commit(self, group: str, worker: str, offsets: dict[int, str]) -> None:
        """See EventLog."""
        if not offsets:
            return
        keys = (*_leases(group)[1:], _done_key(group))
        pairs = [value for pair in offsets.items() for value in pair]
        arguments = (worker, repr(self._clock()), _KEEP_S, *pairs)
        lost = int(await _answered(partial(self._redis.eval, _COMMIT, 3, *keys, *arguments)))
        if lost >= 0:
            raise LeaseLost(f"partition {lost} is not held by {worker} any more")

    async def set_aside(self, record: Record, reason: str) -> None:
        """See EventLog."""

        async def work() -> None:
            pipe = self._redis.pipeline(transaction=True)
            pipe.xadd(_DEAD, {"u": record.user, "b": record.body, "r": reason})
            pipe.expire(_DEAD, _KEEP_S)
            await pipe.execute()

        await _answered(work)

    async def dead_letters(self, n: int) -> list[DeadLetter]:
        """See EventLog."""
        rows = await _answered(partial(self._redis.xrevrange, _DEAD, count=n))
        return [DeadLetter(f[b"u"].decode(), f[b"b"], f[b"r"].decode(), _received(id)) for id, f in rows]

    async def backlog(self, group: str) -> Backlog:
        """See EventLog. Counts by reading, at most 1,000 per partition."""
        done, count, oldest = await self._done(group), 0, float("inf")
        for part in range(PARTITIONS):
            start = f"({done.get(part, _START)}"
            rows = await _answered(partial(self._redis.xrange, _stream(part), min=start, count=1_000))
            count += len(rows)
            oldest = min([oldest, *(_received(offset) for offset, _ in rows[:1])])
        return Backlog(count, max(0.0, self._clock() - oldest) if count else 0.0)

    async def trim(self, older_than_s: float) -> int:
        """See EventLog. By the server's clock, which numbers the entries."""
        before = f"{int((self._clock() - older_than_s) * 1000)}-0"

        async def work() -> int:
            pipe = self._redis.pipeline(transaction=False)
            for part in range(PARTITIONS):
                pipe.xtrim(_stream(part), minid=before, approximate=False)
            pipe.xtrim(_DEAD, minid=before, approximate=False)
            return sum((await pipe.execute())[:-1])

        return await _answered(work)

    async def erase(self, user: str) -> Erased:
        """See EventLog. Reads the user's partition from its start."""
        erased = [await self._erase(stream, user) for stream in (_stream(partition_of(user)), _DEAD)]
        return Erased(sum(erased), kept=False)

    async def scrub(self) -> None:
        """Nothing to do: there is no file of ours."""

    async def dump(self) -> AsyncIterator[Message]:
        """See EventLog."""
        for stream in (*map(_stream, range(PARTITIONS)), _DEAD):
            async for rows in self._pages(stream):
                for _, fields in rows:
                    yield Message(fields[b"u"].decode(), fields[b"b"])

    async def close(self) -> None:
        """See EventLog."""
        await self._redis.aclose()

    async def _erase(self, stream: str, user: str) -> int:
        erased, wanted = 0, user.encode()
        async for rows in self._pages(stream):
            offsets = [offset for offset, fields in rows if fields[b"u"] == wanted]
            if offsets:
                erased += await _answered(partial(self._redis.xdel, stream, *offsets))
        return erased

    async def _pages(self, stream: str) -> AsyncIterator[list[Any]]:
        """A whole stream, so many entries at a time."""
        start = "-"
        while rows := await _answered(partial(self._redis.xrange, stream, min=start, count=_PAGE)):
            yield rows
            start = f"({rows[-1][0].decode()}"

    async def _done(self, group: str) -> dict[int, str]:
        found = await _answered(partial(self._redis.hgetall, _done_key(group)))
        return {int(part): offset.decode() for part, offset in found.items()}


def _stream(part: int) -> str:
    return f"{_PREFIX}:{part}"


def _leases(group: str) -> tuple[str, str, str]:
    return f"{_PREFIX}:{group}:workers", f"{_PREFIX}:{group}:owners", f"{_PREFIX}:{group}:untils"


def _done_key(group: str) -> str:
    return f"{_PREFIX}:{group}:done"


def _record(part: int, offset: bytes, fields: dict[bytes, bytes]) -> Record:
    return Record(part, offset.decode(), fields[b"u"].decode(), fields[b"b"], _received(offset))


def _received(offset: bytes) -> float:
    """By the server's clock, in seconds since 1970: later in a stream is later in time, whoever wrote it."""
    milliseconds, number = offset.split(b"-")
    return int(milliseconds) / 1e3 + int(number) / 1e6


async def _answered(work: Callable[[], Awaitable[T]]) -> T:
    try:
        return await work()
    except FAILURES as error:
        raise LogError(f"the log did not answer: {reason(error)}") from error
