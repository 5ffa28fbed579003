"""Connections to Kafka: topics that are there, and reading from given offsets."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Final, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from aigq.serving.streams.kafka_url import Address
from aigq.serving.streams.log import PARTITIONS, LogError

REQUEST_S: Final = 5.0
KEEP_S: Final = 30 * 86400
_REPLICAS: Final = 3
_FETCH_S: Final = 1.0  # the most that a read waits for messages that the broker says are there
_FETCH_WAIT_MS: Final = 100  # an answer without messages; a new offset waits for it
_ONE_MESSAGE: Final = 1 << 16  # bytes; a broker sends at least one message, however large
_NEW_TOPIC_S: Final = 10.0


class Clients(NamedTuple):
    """What one process has open.

    `reader` is for the worker, `side` for what must not disturb its place: backlog, dead letters, trim.
    """

    admin: AIOKafkaAdminClient
    producer: AIOKafkaProducer
    reader: "Reader"
    side: "Reader"
    dead: list[TopicPartition]


class Reader:
    """Reads partitions from given offsets, without a group; one caller at a time."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer, self._lock = consumer, asyncio.Lock()
        self._given: dict[TopicPartition, int] = {}  # offset after the last record that was handed out

    async def bounds(
        self, partitions: Sequence[TopicPartition]
    ) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        """The first offset of each partition that is kept, and the one after the last."""
        begins = await self._consumer.beginning_offsets(partitions)
        return begins, await self._consumer.end_offsets(partitions)

    async def since(self, partitions: Sequence[TopicPartition], at: float) -> dict[TopicPartition, int]:
        """The first offset that is not older than `at`, in seconds since 1970, where there is one."""
        found = await self._consumer.offsets_for_times(dict.fromkeys(partitions, int(at * 1000)))
        return {partition: place.offset for partition, place in found.items() if place is not None}

    async def fetch(self, starts: Mapping[TopicPartition, int], n: int) -> list[ConsumerRecord]:
        """At most n records of each partition from its offset on, in order: all that are there now."""
        if not starts:
            return []
        async with self._lock:
            try:
                await self._seek(starts)
                ends = await self._consumer.end_offsets(list(starts))
                until = time.monotonic() + _FETCH_S
                found = [await self._take(part, ends[part], n, until) for part in starts]
            except BaseException:
                self._given.clear()  # what was taken out and not handed out is read again
                raise
        return [record for records in found for record in records]

    async def _seek(self, starts: Mapping[TopicPartition, int]) -> None:
        if self._consumer.assignment() != set(starts):
            self._consumer.assign(list(starts))
            self._given.clear()
        # whoever goes on where he stopped keeps what was fetched ahead, and skips gaps only once
        moved = [part for part, start in starts.items() if self._given.get(part) != start]
        begins = await self._consumer.beginning_offsets(moved) if moved else {}
        for part in moved:
            self._consumer.seek(part, max(starts[part], begins[part]))
            self._given[part] = starts[part]

    async def _take(self, part: TopicPartition, end: int, n: int, until: float) -> list[ConsumerRecord]:
        records: list[ConsumerRecord] = []
        while len(records) < n and await self._consumer.position(part) < end:
            left = max(0.0, until - time.monotonic())
            got = await self._consumer.getmany(
                part, timeout_ms=int(left * 1000), max_records=n - len(records)
            )
            records += got.get(part, [])
            if not left:
                break
        if records:
            self._given[part] = records[-1].offset + 1
        return records


async def connect(at: Address, stack: AsyncExitStack) -> Clients:
    """Open all connections, and the topics where they are missing; `stack` closes them."""
    timeout_ms = int(REQUEST_S * 1000)
    admin = AIOKafkaAdminClient(request_timeout_ms=timeout_ms, **at.options)
    stack.push_async_callback(admin.close)
    await admin.start()
    dead = await _topics(admin, at.topic)
    # not idempotent: then a batch is never given up while the broker is away, and a message that is
    # written twice changes nothing
    producer = AIOKafkaProducer(acks="all", request_timeout_ms=timeout_ms, **at.options)
    stack.push_async_callback(producer.stop)
    await producer.start()
    reader = await _reader(at, stack)
    side = await _reader(at, stack, max_partition_fetch_bytes=_ONE_MESSAGE)
    return Clients(admin, producer, reader, side, dead)


async def _reader(at: Address, stack: AsyncExitStack, **options: int) -> Reader:
    consumer = AIOKafkaConsumer(
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        fetch_max_wait_ms=_FETCH_WAIT_MS,
        request_timeout_ms=int(REQUEST_S * 1000),
        **options,
        **at.options,
    )
    stack.push_async_callback(consumer.stop)
    await consumer.start()
    return Reader(consumer)


def dead_topic(topic: str) -> str:
    """Where the dead letters of a topic are."""
    return f"{topic}.dead"


async def _topics(admin: AIOKafkaAdminClient, topic: str) -> list[TopicPartition]:
    """Make the topics that are missing; returns the partitions of the dead letters."""
    wanted = {topic: PARTITIONS, dead_topic(topic): 1}
    there = await admin.list_topics()
    missing = {name: count for name, count in wanted.items() if name not in there}
    if missing:
        brokers = (await admin.describe_cluster())["brokers"]
        await _make(admin, missing, min(_REPLICAS, len(brokers)))
    until = time.monotonic() + _NEW_TOPIC_S
    while True:
        counts = {t["topic"]: len(t["partitions"]) for t in await admin.describe_topics(list(wanted))}
        if all(counts.values()) or time.monotonic() > until:
            break
        await asyncio.sleep(0.1)  # a new topic is not known to all brokers at once
    if counts[topic] != PARTITIONS:
        raise LogError(
            f"the topic {topic} has {counts[topic]} partitions; make one with {PARTITIONS}, "
            "a partition cannot be split without mixing up the order"
        )
    return [TopicPartition(dead_topic(topic), part) for part in range(counts[dead_topic(topic)])]


async def _make(admin: AIOKafkaAdminClient, missing: Mapping[str, int], replicas: int) -> None:
    settings = {"retention.ms": str(KEEP_S * 1000), "cleanup.policy": "delete"}
    new = [NewTopic(name, count, replicas, topic_configs=settings) for name, count in missing.items()]
    for name, code, *_ in (await admin.create_topics(new)).topic_errors:
        error: type[KafkaError] = for_code(code)
        if code and error is not TopicAlreadyExistsError:
            raise LogError(
                f"the topic {name} is not there and cannot be made ({error.__name__}); make it with "
                f"{missing[name]} partitions and cleanup.policy=delete"
            )
