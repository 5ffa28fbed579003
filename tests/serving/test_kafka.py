"""What is Kafka's own: URLs, topics, a group that changes, a broker that is away, messages of others."""

import asyncio
import subprocess
import sys
import time
import uuid

import pytest
from serving_helpers import KafkaServer, wait_for

from aigq.errors import UsageError
from aigq.serving.streams import LeaseLost, LogError, Message, open_log
from aigq.serving.streams.log import PARTITIONS, partition_of

pytest.importorskip("aiokafka")

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from aigq.serving.streams.kafka_url import PASSWORD, parse

ALL = list(range(PARTITIONS))
HOLDER = """
import asyncio, sys
from aigq.serving.streams import open_log

async def main():
    log = open_log(sys.argv[1])
    while len(held := await log.lease("g", "victim", 6)) != 8:
        await asyncio.sleep(0.05)
    records = await log.read("g", held, 100, {})
    first = min(r.partition for r in records)
    offsets = {r.partition: r.offset for r in records if r.partition == first}
    await log.commit("g", "victim", offsets)
    print("committed", first, len(records), flush=True)
    while True:
        await log.lease("g", "victim", 6)
        await asyncio.sleep(0.3)

asyncio.run(main())
"""


def servers(url):
    return url.split("/")[2]


def topic(url):
    return url.rsplit("/", 1)[1]


async def until(work, wanted, seconds=20):
    end = time.monotonic() + seconds
    while (found := await work()) != wanted:
        assert time.monotonic() < end, found
        await asyncio.sleep(0.05)


def test_urls_say_brokers_topic_tls_and_login(monkeypatch, tmp_path):
    plain = parse("kafka://a:9092,b:9093/shop.events")
    assert plain == (
        "shop.events",
        {"bootstrap_servers": ["a:9092", "b:9093"], "security_protocol": "PLAINTEXT"},
    )
    login = parse("kafkas://me:p%40ss@a:9092/t?sasl=SCRAM-SHA-512").options
    assert login["ssl_context"].check_hostname
    del login["ssl_context"]
    assert login == {
        "bootstrap_servers": ["a:9092"],
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "me",
        "sasl_plain_password": "p@ss",
    }
    monkeypatch.setenv(PASSWORD, "from the environment")
    assert parse("kafkas://me@a:9092/t").options["sasl_plain_password"] == "from the environment"
    assert parse("kafka://me:x@a:9092/t").options["security_protocol"] == "SASL_PLAINTEXT"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("kafka://a:9092", "needs brokers and a topic"),
        ("kafka:///t", "needs brokers and a topic"),
        ("kafka://a:9092/t/u", "needs brokers and a topic"),
        ("kafka://a:9092/t?retention=7", "no parameter 'retention'"),
        ("kafka://a:9092/t?ca=x.pem", "ca= is for TLS"),
        ("kafkas://a:9092/t?ca=/nowhere.pem", "cannot be used"),
        ("kafkas://a:9092/t?sasl=PLAIN", "needs a user"),
        ("kafkas://me@a:9092/t", "no password"),
        ("kafkas://me:x@a:9092/t?sasl=GSSAPI", "not known"),
    ],
)
def test_wrong_urls_are_wrong_use(url, why, monkeypatch):
    monkeypatch.delenv(PASSWORD, raising=False)
    with pytest.raises(UsageError, match=why):
        open_log(url)


def test_a_topic_with_other_partitions_is_refused(kafka_url):
    async def work():
        admin = AIOKafkaAdminClient(bootstrap_servers=servers(kafka_url))
        await admin.start()
        await admin.create_topics([NewTopic(topic(kafka_url), 3, 1)])
        await admin.close()
        log = open_log(kafka_url)
        try:
            await log.append([Message("u", b"1")])
        finally:
            await log.close()

    with pytest.raises(LogError, match="has 3 partitions; make one with 16"):
        asyncio.run(work())


def test_when_the_group_changes_nobody_works_on_what_another_has(kafka_url):
    """Two connections: b joins, a is told before b holds anything, and a's late commit is refused."""

    async def work():
        one, two = open_log(kafka_url), open_log(kafka_url)
        await one.append([Message(f"user {n}", b"x") for n in range(100)])
        await until(lambda: one.lease("g", "a", 20), ALL)
        read = await one.read("g", ALL, 1, {})
        assert await two.lease("g", "b", 20) == []  # a does not know yet
        assert await two.read("g", ALL, 1, {}) == []
        assert len(await one.read("g", ALL, 1, {})) == len(read)
        assert await one.lease("g", "a", 20) == []  # a is told; only now the group goes on

        async def halves():
            first, second = await one.lease("g", "a", 20), await two.lease("g", "b", 20)
            assert not set(first) & set(second)
            return len(first), len(second)

        await until(halves, (8, 8))
        taken = set(await two.lease("g", "b", 20))
        for record in read:
            place = {record.partition: record.offset}
            if record.partition in taken:
                with pytest.raises(LeaseLost):
                    await one.commit("g", "a", place)
            else:
                await one.commit("g", "a", place)
        again = await two.read("g", ALL, 1, {})  # of its own partitions, from the last commit
        assert {r.partition for r in again} == taken & {r.partition for r in read}
        assert {(r.partition, r.offset) for r in again} <= {(r.partition, r.offset) for r in read}
        await two.release("g", "b")
        await until(lambda: one.lease("g", "a", 20), ALL)
        await one.close()
        await two.close()

    asyncio.run(work())


def test_after_kill_9_another_worker_reads_from_the_last_commit(kafka_url):
    """noida-db drops a killed member only when another joins, and never the group's leader: its first."""

    async def work():
        log = open_log(kafka_url)
        await log.append([Message(f"user {n}", str(n).encode()) for n in range(100)])
        await until(lambda: log.lease("g", "heir", 6), ALL)
        victim = subprocess.Popen(
            [sys.executable, "-c", HOLDER, kafka_url], stdout=subprocess.PIPE, text=True
        )
        try:
            line = asyncio.ensure_future(asyncio.to_thread(victim.stdout.readline))
            while not line.done():
                await log.lease("g", "heir", 6)
                await asyncio.sleep(0.1)
        finally:
            victim.kill()
            victim.wait()
        replaced = open_log(kafka_url)

        async def both():
            return [len(await one.lease("g", name, 6)) for one, name in ((log, "heir"), (replaced, "new"))]

        await until(both, [8, 8], 30)
        await replaced.release("g", "new")
        await replaced.close()
        await until(lambda: log.lease("g", "heir", 6), ALL)
        records = await log.read("g", ALL, 100, {})
        await log.close()
        return int(line.result().split()[1]), [r.body for r in records]

    first, bodies = asyncio.run(work())
    expected = [str(n).encode() for n in range(100) if partition_of(f"user {n}") != first]
    assert sorted(bodies) == sorted(expected)  # none lost; those that were committed are not repeated


def test_messages_of_others_and_large_ones_are_read(kafka_url):
    """Another system may write to the topic: no key, no value; a message may be longer than a fetch."""
    large = b"x" * 500_000

    async def work():
        log = open_log(kafka_url)
        await log.append([Message("u", large)])
        producer = AIOKafkaProducer(bootstrap_servers=servers(kafka_url))
        await producer.start()
        for key, value in ((None, b"1"), (b"\xff", None)):
            await producer.send_and_wait(topic(kafka_url), value, key, partition=partition_of("u"))
        await producer.stop()
        records = await log.read("g", ALL, 9, {})
        backlog = await log.backlog("g")
        await log.set_aside(records[0], "too long")
        letters = await log.dead_letters(9)
        await log.close()
        return records, backlog, letters

    records, backlog, letters = asyncio.run(work())
    assert [(r.user, r.body) for r in records] == [("u", large), ("", b"1"), ("\ufffd", b"")]
    assert backlog.messages == 3
    assert 0 <= backlog.oldest_s < 30
    assert [(x.user, x.body, x.reason) for x in letters] == [("u", large, "too long")]


def test_dead_letters_are_the_latest_and_trim_moves_the_start(kafka_url):
    async def work():
        log = open_log(kafka_url)
        await log.append([Message("u", b"old")])
        (record,) = await log.read("g", ALL, 9, {})
        for number in range(5):
            await log.set_aside(record, str(number))
        latest = [letter.reason for letter in await log.dead_letters(2)]
        await asyncio.sleep(0.05)
        trimmed = await log.trim(0.01)
        await log.append([Message("u", b"new")])
        left = [r.body for r in await log.read("g", ALL, 9, {})]  # of a group without a commit
        after = (await log.backlog("g")).messages, await log.dead_letters(2)
        await log.close()
        return latest, trimmed, left, after

    assert asyncio.run(work()) == (["4", "3"], 1, [b"new"], (1, []))


def test_a_broker_that_was_away_is_found_again(tmp_path):
    pytest.importorskip("noida_db")
    server = KafkaServer(tmp_path)
    if server.process is None:
        pytest.skip("a broker that is not ours is not stopped")
    url = f"kafka://{server.address}/t-{uuid.uuid4().hex[:8]}"

    async def work():
        log = open_log(url)
        await log.append([Message("u", b"before")])
        server.stop()
        with pytest.raises(LogError):
            await log.append([Message("u", b"lost, and its caller is told")])
        with pytest.raises(LogError):
            await log.read("g", ALL, 9, {})
        server.start()
        await asyncio.to_thread(wait_for, lambda: server.process.poll() is None)
        end = time.monotonic() + 20
        while True:
            try:
                await log.append([Message("u", b"after")])
                break
            except LogError:
                assert time.monotonic() < end
        bodies = [r.body for r in await log.read("g", ALL, 9, {})]
        await log.close()
        return bodies

    try:
        bodies = asyncio.run(work())
    finally:
        server.stop()
    assert bodies[0] == b"before"
    assert bodies[-1] == b"after"
