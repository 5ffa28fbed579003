"""Apache Kafka: one topic with PARTITIONS partitions, one for dead letters, and Kafka's own group protocol.

A worker is a member of the consumer group TOPIC.GROUP and holds what the group gives it; the broker refuses
the commit of a member that the group went on without. Reading is apart from that, from given offsets, as in
the other logs.

Kafka removes messages from the start of a partition only. So `erase` removes nothing: `trim` and the topic's
retention do, and the mark that users.erase leaves keeps those messages from being applied.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.errors import KafkaError

from aigq.serving.stores.store import Clock
from aigq.serving.streams.kafka_client import REQUEST_S, Clients, connect, dead_topic
from aigq.serving.streams.kafka_group import Member
from aigq.serving.streams.kafka_url import parse
from aigq.serving.streams.log import (
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

_PAGE: Final = 500  # messages of a partition that `dump` reads at a time
_ANSWER_S: Final = 3 * REQUEST_S  # of one operation, which may take some requests


class KafkaLog:
    """A topic of a cluster.

    Args:
        url: kafka:// or kafkas://, see kafka_url.
        clock: seconds; tests give their own.
    """

    def __init__(self, url: str, clock: Clock = time.time) -> None:
        self._at, self._clock = parse(url), clock
        self._stack = AsyncExitStack()
        self._clients: Clients | None = None
        self._opening = asyncio.Lock()
        self._members: dict[tuple[str, str], Member] = {}
        self._parts = [TopicPartition(self._at.topic, part) for part in range(PARTITIONS)]

    async def append(self, messages: Sequence[Message]) -> None:
        """See EventLog. The key is the user; all in-sync replicas have the messages when this returns."""
        async with self._answers() as kafka:
            at = int(self._clock() * 1000)
            sent = [
                await kafka.producer.send(
                    self._at.topic, body, user.encode(), partition_of(user), timestamp_ms=at
                )
                for user, body in messages
            ]
            await asyncio.gather(*sent)

    async def lease(self, group: str, worker: str, seconds: float) -> list[int]:
        """See EventLog. A worker that dies is replaced after `seconds`, at least after 6."""
        name = (group, worker)
        async with self._answers():
            if name in self._members and self._members[name].expired:
                await self._leave(name)
            if name not in self._members:
                at = self._at
                self._members[name] = Member(at.topic, self._group(group), seconds, at.options, self._clock)
            try:
                held = await self._members[name].renew(seconds)
            except KafkaError:
                await self._leave(name)
                raise
            return sorted(part.partition for part in held)

    async def release(self, group: str, worker: str) -> None:
        """See EventLog."""
        async with self._answers():
            await self._leave((group, worker))

    async def read(
        self, group: str, partitions: Sequence[int], n: int, after: dict[int, str]
    ) -> list[Record]:
        """See EventLog. Of a group with members here, only what they hold by now."""
        members = [member for (name, _), member in self._members.items() if name == group]
        held = set().union(*(member.held for member in members)) if members else set(self._parts)
        async with self._answers() as kafka:
            wanted = [part for part in partitions if self._parts[part] in held]
            done = {} if all(part in after for part in wanted) else await self._done(kafka, group)
            starts = {
                self._parts[part]: int(after[part]) + 1 if part in after else done.get(part, 0)
                for part in wanted
            }
            return [_record(found) for found in await kafka.reader.fetch(starts, n)]

    async def commit(self, group: str, worker: str, offsets: dict[int, str]) -> None:
        """See EventLog."""
        if not offsets:
            return
        member = self._members.get((group, worker))
        if member is None:
            raise LeaseLost(f"{worker} holds no partition any more")
        async with self._answers():
            await member.commit({self._parts[part]: int(at) + 1 for part, at in offsets.items()})

    async def set_aside(self, record: Record, reason: str) -> None:
        """See EventLog. The reason and the event's place are headers."""
        place = f"{record.partition}:{record.offset}"
        async with self._answers() as kafka:
            await kafka.producer.send_and_wait(
                dead_topic(self._at.topic),
                record.body,
                record.user.encode(),
                timestamp_ms=int(self._clock() * 1000),
                headers=[("reason", reason.encode()), ("place", place.encode())],
            )

    async def dead_letters(self, n: int) -> list[DeadLetter]:
        """See EventLog."""
        async with self._answers() as kafka:
            begins, ends = await kafka.side.bounds(kafka.dead)
            starts = {part: max(begins[part], ends[part] - n) for part in kafka.dead}
            found = await kafka.side.fetch(starts, n)
        newest = sorted(found, key=lambda record: (record.timestamp, record.offset), reverse=True)
        return [_letter(record) for record in newest[:n]]

    async def backlog(self, group: str) -> Backlog:
        """See EventLog."""
        async with self._answers() as kafka:
            done = await self._done(kafka, group)
            begins, ends = await kafka.side.bounds(self._parts)
            starts = {part: max(done.get(part.partition, 0), begins[part]) for part in self._parts}
            behind = {part: start for part, start in starts.items() if start < ends[part]}
            first = await kafka.side.fetch(behind, 1)
        count = sum(ends[part] - start for part, start in behind.items())
        oldest = min((record.timestamp / 1000 for record in first), default=self._clock())
        return Backlog(count, max(0.0, self._clock() - oldest))

    async def trim(self, older_than_s: float) -> int:
        """See EventLog. The broker frees the disk when a whole file is old."""
        async with self._answers() as kafka:
            parts = [*self._parts, *kafka.dead]
            begins, ends = await kafka.side.bounds(parts)
            kept = await kafka.side.since(parts, self._clock() - older_than_s)
            before = {part: kept.get(part, ends[part]) for part in parts}
            old = {part: offset for part, offset in before.items() if offset > begins[part]}
            if old:
                await kafka.admin.delete_records({part: RecordsToDelete(at) for part, at in old.items()})
        return sum(at - begins[part] for part, at in old.items() if part.topic == self._at.topic)

    async def erase(self, user: str) -> Erased:
        """See EventLog. Kafka cannot remove single messages: those of the user stay until `trim`."""
        return Erased(0, kept=True)

    async def scrub(self) -> None:
        """Nothing to do: there is no file of ours."""

    async def dump(self) -> AsyncIterator[Message]:
        """See EventLog. What `erase` could not remove is among them."""
        async with self._answers() as kafka:
            parts = [*self._parts, *kafka.dead]
            starts, ends = await kafka.side.bounds(parts)
        while starts := {part: at for part, at in starts.items() if at < ends[part]}:
            async with self._answers() as kafka:
                page = await kafka.side.fetch(starts, _PAGE)
            if not page:
                return  # what is left are marks of Kafka's own
            for found in page:
                yield Message(_text(found.key), found.value or b"")
                starts[TopicPartition(found.topic, found.partition)] = found.offset + 1

    async def close(self) -> None:
        """See EventLog."""
        async with self._waiting():
            for name in list(self._members):
                await self._leave(name)
            await self._stack.aclose()

    async def _leave(self, name: tuple[str, str]) -> None:
        member = self._members.pop(name, None)
        if member is not None:
            await member.leave()

    async def _done(self, kafka: Clients, group: str) -> dict[int, int]:
        """By partition, the offset from which the group goes on."""
        found = await kafka.admin.list_consumer_group_offsets(self._group(group))
        return {
            part.partition: place.offset
            for part, place in found.items()
            if part.topic == self._at.topic and place.offset >= 0
        }

    def _group(self, group: str) -> str:
        """Groups have one name space per cluster, so the topic is in the name."""
        return f"{self._at.topic}.{group}"

    @asynccontextmanager
    async def _answers(self) -> AsyncIterator[Clients]:
        """Open connections for one operation, which fails in bounded time."""
        async with self._waiting():
            async with self._opening:
                if self._clients is None:
                    async with AsyncExitStack() as stack:
                        self._clients = await connect(self._at, stack)
                        self._stack = stack.pop_all()
            yield self._clients

    @asynccontextmanager
    async def _waiting(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(_ANSWER_S):
                yield
        except (KafkaError, OSError) as error:  # a time-out is an OSError
            raise LogError(f"the log did not answer: {error!r}") from error


def _record(found: ConsumerRecord) -> Record:
    return Record(
        found.partition, str(found.offset), _text(found.key), found.value or b"", found.timestamp / 1000
    )


def _letter(found: ConsumerRecord) -> DeadLetter:
    reason = dict(found.headers).get("reason", b"")
    return DeadLetter(_text(found.key), found.value or b"", _text(reason), found.timestamp / 1000)


def _text(value: bytes | None) -> str:
    """Others may write to the topic too, so nothing is taken for granted."""
    return (value or b"").decode(errors="replace")
