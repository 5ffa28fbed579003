"""One contract, four logs; Redis and the Kafka broker are real server processes."""

import asyncio
import sqlite3
import time
from collections import Counter
from itertools import chain

import pytest
from serving_helpers import free_port

from aigq.errors import UsageError
from aigq.serving.redis_url import redis_url
from aigq.serving.streams import LeaseLost, LogError, Message, open_log
from aigq.serving.streams.embedded import SqliteLog
from aigq.serving.streams.log import PARTITIONS, partition_of
from aigq.serving.streams.networked import RedisLog


@pytest.fixture(params=["memory", "sqlite", "redis", "kafka"])
def url(request, tmp_path):
    if request.param in ("redis", "kafka"):
        return request.getfixturevalue(f"{request.param}_url")
    return "memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'log' / 'events.sqlite'}"


def run(url, work):
    async def main():
        log = open_log(url)
        try:
            return await work(log)
        finally:
            await log.close()

    return asyncio.run(main())


def messages(n, users=20):
    return [Message(f"user {i % users}", f"event {i}".encode()) for i in range(n)]


ALL = list(range(PARTITIONS))


async def shared(log, workers, partitions, seconds=20):
    """Renew leases until each worker holds so many partitions. Kafka's group takes some rounds for it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        held = [await log.lease("g", worker, lease) for worker, lease in workers.items()]
        assert all(n == 1 for n in Counter(chain(*held)).values())  # no partition has two holders
        if [len(parts) for parts in held] == partitions:
            return held
        await asyncio.sleep(0.05)
    raise AssertionError(f"{held} are not {partitions} partitions")


def steered(log):
    """A list with the seconds that the log's clock is ahead from now on."""
    ahead = [0.0]
    log._clock = lambda: time.time() + ahead[0]
    return ahead


def test_events_are_read_in_order_per_user(url):
    async def work(log):
        await log.append(messages(250))
        await log.append(messages(50))
        return await log.read("g", ALL, 1000, {})

    records = run(url, work)
    assert len(records) == 300
    assert all(r.partition == partition_of(r.user) for r in records)
    for number in range(20):
        expected = [m.body for m in [*messages(250), *messages(50)] if m.user == f"user {number}"]
        assert [r.body for r in records if r.user == f"user {number}"] == expected


def test_reading_goes_on_after_the_commit_and_each_group_has_its_own(url):
    async def work(log):
        await log.append([Message("u", str(i).encode()) for i in range(5)])
        (parts,) = await shared(log, {"a": 60}, [PARTITIONS])
        first = await log.read("g", parts, 2, {})
        more = await log.read("g", parts, 2, {first[-1].partition: first[-1].offset})
        await log.commit("g", "a", {first[-1].partition: first[-1].offset})
        rest = await log.read("g", parts, 9, {})
        other = await log.read("other", ALL, 9, {})
        return [[r.body for r in rs] for rs in (first, more, rest, other)], await log.backlog("g")

    (first, more, rest, other), backlog = run(url, work)
    assert first == [b"0", b"1"]
    assert more == [b"2", b"3"]
    assert rest == [b"2", b"3", b"4"]
    assert other == [b"0", b"1", b"2", b"3", b"4"]
    assert backlog.messages == 3
    assert 0 <= backlog.oldest_s < 10


def test_workers_share_the_partitions_and_a_dead_one_is_replaced(url):
    async def work(log):
        ahead = steered(log)
        (alone,) = await shared(log, {"a": 60}, [PARTITIONS])
        late = await log.lease("g", "b", 3)
        a, b = await shared(log, {"a": 60, "b": 3}, [PARTITIONS // 2, PARTITIONS // 2])
        ahead[0] = 3.1  # b is dead
        return alone, late, sorted([*a, *b]), await shared(log, {"a": 60}, [PARTITIONS])

    assert run(url, work) == (ALL, [], ALL, [ALL])


def test_a_worker_that_lost_its_lease_cannot_commit(url):
    async def work(log):
        ahead = steered(log)
        await log.append(messages(40))
        (parts,) = await shared(log, {"slow": 1}, [PARTITIONS])
        read = await log.read("g", parts, 100, {})
        ahead[0] = 1.1
        await shared(log, {"fast": 60}, [PARTITIONS])
        offsets = {r.partition: r.offset for r in read}
        with pytest.raises(LeaseLost):
            await log.commit("g", "slow", offsets)
        again = await log.read("g", ALL, 100, {})
        await log.commit("g", "fast", offsets)
        return len(again), await log.read("g", ALL, 100, {})

    assert run(url, work) == (40, [])


def test_a_released_partition_is_free_at_once(url):
    async def work(log):
        await shared(log, {"a": 60}, [PARTITIONS])
        await log.release("g", "a")
        return await log.lease("g", "b", 60)

    assert run(url, work) == ALL


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_a_lease_from_before_the_clock_was_set_back_is_free(kind, tmp_path, request):
    now = [7200.0]

    async def work():
        if kind == "redis":
            log = RedisLog(request.getfixturevalue("redis_url"), lambda: now[0])
        else:
            log = SqliteLog(tmp_path / "log.sqlite", lambda: now[0])
        await log.lease("g", "dead", 60)
        now[0] = 3600.0
        found = await log.lease("g", "a", 60)
        again = await log.lease("g", "a", 60)
        await log.commit("g", "a", {0: "1-0" if kind == "redis" else "1"})
        await log.close()
        return found, again

    assert asyncio.run(work()) == (ALL, ALL)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_what_is_written_later_is_received_later(kind, tmp_path, request):
    """Whatever the clock says of the process that writes it."""
    now = [time.time()]

    async def work():
        if kind == "redis":
            log = RedisLog(request.getfixturevalue("redis_url"), lambda: now[0])
        else:
            log = SqliteLog(tmp_path / "log.sqlite", lambda: now[0])
        for behind in (0, 20):
            now[0] -= behind
            await log.append([Message("u", b"1"), Message("u", b"2")])
        found = [record.received for record in await log.read("g", ALL, 9, {})]
        await log.close()
        return found

    received = asyncio.run(work())
    assert received == sorted(set(received))
    assert len(received) == 4
    assert all(abs(at - time.time()) < 10 for at in received)


def test_one_event_of_a_clock_that_was_far_ahead_does_not_lead_the_later_ones(tmp_path):
    now = [time.time() + 86400]

    async def work():
        log = SqliteLog(tmp_path / "log.sqlite", lambda: now[0])
        await log.append([Message("u", b"1")])
        now[0] -= 86400
        await log.append([Message("u", b"2")])
        found = [record.received for record in await log.read("g", ALL, 9, {})]
        await log.close()
        return found

    assert asyncio.run(work()) == [now[0] + 86400, now[0]]


def test_poisoned_events_are_set_aside_with_the_reason(url):
    async def work(log):
        await log.append([Message("u", b"\xff\x00")])
        (record,) = await log.read("g", ALL, 9, {})
        await log.set_aside(record, "not an event")
        return await log.dead_letters(10)

    ((user, body, reason, at),) = run(url, work)
    assert (user, body, reason) == ("u", b"\xff\x00", "not an event")
    assert at > 1e9


def test_erase_removes_one_user_everywhere(url):
    async def work(log):
        await log.append(messages(40, users=4))
        await log.set_aside((await log.read("g", ALL, 9, {}))[0]._replace(user="user 1"), "why")
        erased = await log.erase("user 1")
        left = {r.user for r in await log.read("g", ALL, 100, {})}
        return erased, left, len(await log.dead_letters(10)), await log.erase("user 1")

    three = {"user 0", "user 2", "user 3"}
    if url.startswith("kafka"):  # it says that it cannot
        assert run(url, work) == ((0, True), {*three, "user 1"}, 1, (0, True))
    else:
        assert run(url, work) == ((11, False), three, 0, (0, False))


def test_an_erased_user_is_not_in_the_file(tmp_path):
    async def work(log):
        await log.append([Message("remarkable-name", b"remarkable-event"), Message("other", b"x")])
        await log.erase("remarkable-name")

    run(f"sqlite:{tmp_path / 'e.sqlite'}", work)
    assert not any(b"remarkable" in path.read_bytes() for path in tmp_path.iterdir())


def test_trim_removes_what_is_old(url):
    async def work(log):
        await log.append(messages(30))
        kept = await log.trim(60)
        await asyncio.sleep(0.05)
        return kept, await log.trim(0.01), await log.read("g", ALL, 100, {})

    assert run(url, work) == (0, 30, [])


def test_sqlite_lets_others_write_while_much_is_trimmed(tmp_path):
    """A log that nobody trimmed for weeks holds millions of old events: not all go in one transaction."""

    async def work(log):
        await log.append(messages(5_000))
        await asyncio.sleep(0.05)
        said = []
        await log._run(lambda db: db.set_trace_callback(said.append))
        trimmed = await log.trim(0.01)
        await log._run(lambda db: db.set_trace_callback(None))
        return trimmed, said.count("commit") >= 5, [message async for message in log.dump()]

    assert run(f"sqlite:{tmp_path / 'e.sqlite'}", work) == (5_000, True, [])


def test_sqlite_keeps_events_and_commits(tmp_path):
    url = f"sqlite:{tmp_path / 'e.sqlite'}"

    async def first(log):
        await log.append([Message("u", b"1"), Message("u", b"2")])
        await log.lease("g", "a", 60)
        record = (await log.read("g", ALL, 1, {}))[0]
        await log.commit("g", "a", {record.partition: record.offset})

    run(url, first)
    assert [r.body for r in run(url, lambda log: log.read("g", ALL, 9, {}))] == [b"2"]


def test_sqlite_never_walks_the_whole_log(tmp_path):
    """Workers do it every few seconds, partly under the write lock; older files get the indexes, too."""
    path = tmp_path / "e.sqlite"
    with sqlite3.connect(path) as old:
        old.execute(
            "create table events(seq integer primary key autoincrement, part integer not null, "
            "user text not null, body blob not null, received real not null)"
        )

    async def work(log):
        said = []
        await log.append(messages(40))
        await log.lease("g", "a", 60)
        await log._run(lambda db: db.set_trace_callback(said.append))
        await log.read("g", ALL, 10, {})
        await log.backlog("g")
        await log.trim(60)
        await log.erase("user 1")
        await log._run(lambda db: db.set_trace_callback(None))
        asked = [text for text in said if "events" in text]
        plans = [
            await log._run(lambda db, t=text: db.execute(f"explain query plan {t}").fetchall())
            for text in asked
        ]
        return len(asked), [row[3] for plan in plans for row in plan if row[3].startswith("SCAN")]

    assert run(f"sqlite:{path}", work) == (3 * PARTITIONS + 2, [])


def test_the_backlog_of_a_group_that_has_not_begun(url):
    async def work(log):
        await log.append(messages(40))
        return await log.backlog("new")

    backlog = run(url, work)
    assert backlog.messages == 40
    assert 0 <= backlog.oldest_s < 10


def test_a_log_that_is_away_is_a_log_error(tmp_path):
    with pytest.raises(LogError):
        run(f"redis://127.0.0.1:{free_port()}", lambda log: log.append(messages(1)))
    with pytest.raises(LogError):
        run(f"kafka://127.0.0.1:{free_port()}/t", lambda log: log.append(messages(1)))
    (tmp_path / "file").write_text("not a database, and long enough to be taken for one" * 50)
    with pytest.raises(LogError):
        open_log(f"sqlite:{tmp_path / 'file'}")


def test_only_the_scheme_of_a_url_is_translated(redis_server):
    """A user, a password and a host may be called valkey, the host of deploy/docker/compose.yaml is."""
    redis_server.cli("acl", "setuser", "valkey", "on", ">valkey", "allkeys", "+@all")
    for scheme in ("redis", "valkey"):
        url = f"{scheme}://valkey:valkey@127.0.0.1:{redis_server.port}/0"
        run(url, lambda log: log.append(messages(1)))
    assert redis_url("redis://:p@valkey:6379/0") == redis_url("valkey://:p@valkey:6379/0")
    assert redis_url("valkeys://valkey:1") == "rediss://valkey:1"
    assert redis_url("rediss+cluster://valkey:1") == "rediss://valkey:1"


def test_wrong_urls_are_wrong_use():
    for url in ("nats://x", "sqlite:", "x", "redis://localhost:port", "redis://localhost/0?no=1"):
        with pytest.raises(UsageError):
            open_log(url)
