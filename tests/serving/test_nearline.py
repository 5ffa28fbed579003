"""The nearline worker, with a real channel; killed workers are real processes."""

import asyncio
import contextlib
import logging
import random
import time

import pytest
from prometheus_client import REGISTRY
from serving_helpers import Process, aigq, config, wait_for

from aigq.prepared import Prepared
from aigq.recall.channel import Hint
from aigq.recall.personal import Personal
from aigq.serving import background, keys
from aigq.serving.background import repeat
from aigq.serving.live_history import Histories
from aigq.serving.metrics import BACKLOG
from aigq.serving.nearline import GROUP, Worker
from aigq.serving.publish import publish
from aigq.serving.run_tables import RunTables
from aigq.serving.state import Event, Generation, Live, Suggestion, U2q, decode, encode
from aigq.serving.stores import StoreError, open_store
from aigq.serving.stores.memory import MemoryStore
from aigq.serving.streams import Message, open_log
from aigq.serving.users import erase

SNOW = ["ski gloves", "snow boots", "wool hat", "thermal socks", "sled"]


def search(user, query, at=None, id=None):
    at = at or time.time()
    return Event(id or f"{user}:{query}:{at}", user, at, "search", query)


def messages(*events):
    return [Message(event.user, encode(event)) for event in events]


class Bench:
    """A worker in this event loop, with a published table."""

    def __init__(self, shop_run, generate=None, **nearline):
        nearline = {"system": "personal", "debounce_s": 0.0, **nearline}
        self.config = config(nearline=nearline)
        self.store, self.log = MemoryStore(), open_log("memory:")
        self.prepared = Prepared.load(shop_run.folder / "prepared")
        self.run = shop_run
        self.calls = []
        self.inner = generate or self._personal()

    def _personal(self):
        channel = Personal(90.0, 5)
        channel.fit(self.prepared)
        return channel.recommend

    def generate(self, moments, n):
        self.calls.append([m.user_id for m in moments])
        return self.inner(moments, n)

    def worker(self, name="w"):
        return Worker(self.config, self.store, self.log, Histories(self.prepared), self.generate, "m@1", name)

    async def published(self, name="w"):
        await publish(self.config, self.store, RunTables(self.config, self.run.folder).families)
        worker = self.worker(name)
        await worker._catalogs.refresh()
        await worker.lease()
        return worker

    async def u2q(self, user):
        return decode(U2q, (await self.store.get([keys.u2q(user)]))[0]) or U2q()

    async def live(self, user):
        return decode(Live, (await self.store.get([keys.live(user)]))[0]) or Live()


async def steps(worker, n=4):
    for _ in range(n):
        await worker.step()


def test_a_search_becomes_a_list(shop_run):
    async def work():
        bench = Bench(shop_run)
        worker = await bench.published()
        await bench.log.append(messages(search("u01", "sun cream"), search("new", "sled")))
        await steps(worker)
        return await bench.u2q("u01"), await bench.u2q("new"), await bench.log.backlog(GROUP), bench.calls

    known, new, backlog, calls = asyncio.run(work())
    (run,) = known.runs
    assert run.model == "m@1"
    assert {hint.query for hint in run.hints} > {"sun cream", "ski gloves"}  # live and published
    assert [hint.query for hint in new.runs[0].hints] == ["sled"]
    assert backlog.messages == 0
    assert calls == [["new", "u01"]] or calls == [["u01", "new"]]


def test_a_repeated_event_is_no_second_list(shop_run):
    async def work():
        bench = Bench(shop_run)
        worker = await bench.published()
        event = search("u01", "sun cream", id="same")
        await bench.log.append(messages(event))
        await steps(worker)
        before = await bench.u2q("u01")
        other = bench.worker("second")  # reads all again, as after a death before the commit
        await other._catalogs.refresh()
        await other._take(await bench.log.read("another group", list(range(16)), 99, {}))
        pending = dict(other._pending)
        return before, await bench.u2q("u01"), pending, (await bench.live("u01")).past

    before, after, pending, past = asyncio.run(work())
    assert len(before.runs) == 1
    assert after == before
    assert pending == {}
    assert [p.text for p in past] == ["sun cream"]


def test_backlog_and_log_are_looked_after_while_the_pointer_is_damaged(shop_run, monkeypatch):
    async def work():
        bench, stop, trimmed = Bench(shop_run), asyncio.Event(), asyncio.Event()

        async def trim(older_than_s):
            trimmed.set()

        monkeypatch.setattr(bench.log, "trim", trim)
        BACKLOG.set(0)
        await bench.store.put({keys.CURRENT: b"\xc1"}, 60)
        await bench.log.append(messages(search("u01", "sun cream")))
        running = asyncio.ensure_future(bench.worker().run(stop))
        await asyncio.wait_for(trimmed.wait(), 5)
        stop.set()
        await running

    asyncio.run(work())
    assert REGISTRY.get_sample_value("aigq_backlog_messages") == 1


def test_poisoned_events_are_set_aside_and_the_others_go_on(shop_run):
    async def work():
        bench = Bench(shop_run)
        worker = await bench.published()
        poison = [Message("u01", b"\xc1"), Message("u01", encode(["too", "short"])), Message("u01", b"")]
        await bench.log.append([*poison, *messages(search("u01", "sun cream"))])
        await steps(worker)
        return await bench.log.dead_letters(9), await bench.u2q("u01"), await bench.log.backlog(GROUP)

    dead, u2q, backlog = asyncio.run(work())
    assert len(dead) == 3
    assert all("not an event" in letter.reason for letter in dead)
    assert len(u2q.runs) == 1
    assert backlog.messages == 0


def test_a_user_whom_the_generator_cannot_take_does_not_stop_the_others(shop_run):
    def generate(moments, n):
        if any(m.user_id == "bad" for m in moments):
            raise ValueError("a bad prompt")
        return [[Hint("sled", 1.0, "r")] for _ in moments]

    async def work():
        bench = Bench(shop_run, generate)
        worker = await bench.published()
        await bench.log.append(messages(search("bad", "sled"), search("good", "sled")))
        await steps(worker)
        return await bench.u2q("good"), await bench.u2q("bad"), await bench.log.dead_letters(9)

    good, bad, dead = asyncio.run(work())
    assert [h.query for h in good.runs[0].hints] == ["sled"]
    assert bad.runs == []
    assert "a bad prompt" in dead[0].reason


def test_lists_are_guarded_and_bounded(shop_run):
    def generate(moments, n):
        return [[Hint(q, 1.0, "r") for q in ("a secret of mine", "sled", "x" * 200)] for _ in moments]

    async def work():
        bench = Bench(shop_run, generate)
        worker = await bench.published()
        for query in SNOW:
            await bench.log.append(messages(search("u", query)))
            await steps(worker, 2)
            await asyncio.sleep(0.002)
        return await bench.u2q("u")

    u2q = asyncio.run(work())
    assert len(u2q.runs) == config().serving.u2q_runs == 3
    assert [h.query for h in u2q.runs[0].hints] == ["sled"]


def test_the_budget_of_a_user(shop_run):
    async def work():
        bench = Bench(shop_run, budget_per_hour=2)
        worker = await bench.published()
        for query in SNOW:
            await bench.log.append(messages(search("u", query), search("other", query)))
            await steps(worker, 2)
            await asyncio.sleep(0.002)
        return bench.calls, await bench.log.backlog(GROUP)

    calls, backlog = asyncio.run(work())
    assert sum(call.count("u") for call in calls) == 2
    assert backlog.messages == 0


def test_an_idle_worker_takes_no_write_lock(shop_run):
    async def work():
        bench = Bench(shop_run)
        worker = await bench.published()
        await bench.log.append(messages(search("u01", "sun cream")))
        await steps(worker)
        said = []
        await bench.log._run(lambda db: db.set_trace_callback(said.append))
        await steps(worker)
        return said

    said = asyncio.run(work())
    assert said
    assert not any("begin immediate" in text for text in said)


def test_background_work_outlives_an_error_that_nobody_expected(caplog, monkeypatch):
    monkeypatch.setattr(background, "_AWAY_S", 0.1)
    done, away = [], [StoreError("the store is away")] * 2

    async def work():
        done.append(1)
        if len(done) == 1:
            raise KeyError("of a bug")
        if away:
            raise away.pop()

    async def main():
        task = asyncio.ensure_future(repeat(work, 0.01, logging.getLogger("aigq.test")))
        await asyncio.sleep(0.5)
        assert not task.done()
        task.cancel()

    asyncio.run(main())
    assert len(done) > 4
    failed, named = caplog.records  # a store that is away is named once
    assert failed.exc_info[0] is KeyError
    assert "the store is away" in named.getMessage()


def test_background_work_ends_although_what_it_waits_for_swallows_the_cancellation():
    async def work():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    async def main():
        task = asyncio.ensure_future(repeat(work, 60, logging.getLogger("aigq.test")))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait_for(task, 5)

    asyncio.run(main())


def test_what_waited_too_long_is_shed_and_committed(shop_run):
    async def work():
        bench = Bench(shop_run, max_age_s=0.05, debounce_s=5.0)
        worker = await bench.published()
        await bench.log.append(messages(search("u", "sled")))
        await worker.step()
        waiting = len(worker._pending), (await bench.log.backlog(GROUP)).messages
        await asyncio.sleep(0.1)
        await steps(worker, 2)
        return waiting, (await bench.log.backlog(GROUP)).messages, await bench.u2q("u")

    assert asyncio.run(work()) == ((1, 1), 0, U2q())


def test_nothing_is_committed_before_its_list_is_written(shop_run):
    async def work():
        bench = Bench(shop_run, debounce_s=0.15)
        worker = await bench.published()
        await bench.log.append(messages(search("u", "sled"), search("u", "sled"), search("u", "wool hat")))
        await worker.step()
        before = (await bench.log.backlog(GROUP)).messages
        await asyncio.sleep(0.2)
        await worker.step()
        return before, (await bench.log.backlog(GROUP)).messages

    assert asyncio.run(work()) == (3, 0)


def test_an_erased_user_gets_no_list_from_work_under_way(shop_run):
    async def work():
        bench = Bench(shop_run)

        def slow(moments, n):
            asyncio.run_coroutine_threadsafe(erase(bench.store, bench.log, "u02"), loop).result()
            return [[Hint("sled", 1.0, "r")] for _ in moments]

        loop = asyncio.get_running_loop()
        bench.inner = slow
        worker = await bench.published()
        await bench.log.append(messages(search("u02", "sled")))
        await steps(worker)
        return [e.key async for e in bench.store.scan("") if "u02" in e.key]

    assert asyncio.run(work()) == []


def test_nothing_of_an_erased_user_is_set_aside(shop_run):
    """Not what the worker has read already, and not what the generator fails on afterwards."""

    async def work():
        def failing(moments, n):
            asyncio.run_coroutine_threadsafe(erase(bench.store, bench.log, "u02"), loop).result()
            raise ValueError("a bad prompt")

        loop, bench = asyncio.get_running_loop(), Bench(shop_run, failing)
        worker = await bench.published()
        await bench.log.append([Message("u03", b"poison"), *messages(search("u02", "sled"))])
        records = await bench.log.read(GROUP, list(range(16)), 9, {})
        await erase(bench.store, bench.log, "u03")
        await worker._take(records)
        await worker.step()
        return await bench.log.dead_letters(9), worker._pending

    assert asyncio.run(work()) == ([], {})


@pytest.mark.parametrize("ahead", [0, 240])
def test_nothing_of_an_erased_user_is_applied(ahead, shop_run):
    """However far the shopper's clock is ahead; what comes after the erasure is a new start."""

    async def work():
        bench = Bench(shop_run)
        worker = await bench.published()
        await bench.log.append(messages(search("u02", "sled", time.time() + ahead)))
        records = await bench.log.read(GROUP, list(range(16)), 9, {})
        await erase(bench.store, bench.log, "u02")
        await worker._take(records)
        before = await bench.live("u02")
        await bench.log.append(messages(search("u02", "wool hat", time.time() + ahead)))
        await steps(worker)
        return before, [past.text for past in (await bench.live("u02")).past]

    assert asyncio.run(work()) == (Live(), ["wool hat"])


def test_an_erased_user_gets_no_list_from_a_signal_that_waits(shop_run):
    async def work():
        bench = Bench(shop_run, debounce_s=0.1)
        worker = await bench.published()
        await bench.log.append(messages(search("u02", "sled"), search("other", "sled")))
        await worker.step()
        await erase(bench.store, bench.log, "u02")
        await asyncio.sleep(0.2)
        await steps(worker)
        left = [e.key async for e in bench.store.scan("") if "u02" in e.key]
        await bench.log.append(messages(search("u02", "wool hat")))  # who comes back may
        await steps(worker, 2)
        await asyncio.sleep(0.2)
        await steps(worker)
        return left, bench.calls, await bench.log.backlog(GROUP)

    left, calls, backlog = asyncio.run(work())
    assert left == []
    assert calls == [["other"], ["u02"]]
    assert backlog.messages == 0


def test_a_worker_that_was_overtaken_changes_nothing(shop_run):
    """Its partition went to another worker while it wrote; the other's list has seen more."""

    async def work():
        bench = Bench(shop_run)
        newer = U2q([Generation("m@1", time.time(), time.time() + 1, [Suggestion("sled")])])

        def overtaken(moments, n):
            write = bench.store.put({keys.u2q("u"): encode(newer)}, 60)
            asyncio.run_coroutine_threadsafe(write, loop).result()
            return [[Hint("wool hat", 1.0, "r")] for _ in moments]

        loop = asyncio.get_running_loop()
        bench.inner = overtaken
        worker = await bench.published()
        await bench.log.append(messages(search("u", "wool hat")))
        await steps(worker)
        return newer, await bench.u2q("u"), (await bench.log.backlog(GROUP)).messages

    newer, found, backlog = asyncio.run(work())
    assert found == newer
    assert backlog == 0


def test_a_list_from_before_the_clock_was_set_back_stops_nothing(shop_run):
    async def work():
        bench = Bench(shop_run, budget_per_hour=30)
        ahead = time.time() + 86400
        before = U2q([Generation("m@1", ahead, ahead, [])], [ahead - n for n in range(30)])
        await bench.store.put({keys.u2q("u"): encode(before)}, 60)
        worker = await bench.published()
        await bench.log.append(messages(search("u", "wool hat")))
        await steps(worker)
        return await bench.u2q("u")

    u2q = asyncio.run(work())
    assert [h.query for h in u2q.runs[0].hints] == ["wool hat"]
    assert len(u2q.times) == 1


def test_a_search_that_a_machine_whose_clock_is_behind_took_brings_a_list(shop_run):
    async def work():
        bench = Bench(shop_run)
        worker = await bench.published()
        await bench.log.append(messages(search("u", "sled")))
        await steps(worker)
        bench.log._clock = lambda: time.time() - 20
        await bench.log.append(messages(search("u", "wool hat")))
        await steps(worker)
        return await bench.u2q("u")

    assert len(asyncio.run(work()).runs) == 2


@pytest.mark.parametrize("deaths", [2, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
@pytest.mark.parametrize("kind", ["embedded", "redis"])
def test_kill_9_loses_nothing_and_repeats_nothing(kind, deaths, shop_run, tmp_path, request):
    """Two workers, killed again and again while events come in; at the end every user is up to date, once."""
    if kind == "redis":
        store_url = log_url = request.getfixturevalue("redis_url")
    else:
        store_url, log_url = f"lmdb:{tmp_path}/store?map_gb=1", f"sqlite:{tmp_path}/log.sqlite"
    options = ["--run", shop_run.folder, "--store", store_url, "--log", log_url]
    options += ["--set", "serving.nearline.budget_per_hour=1000"]
    aigq("publish", *options[:4])
    rng = random.Random(0)
    users = [f"k{n}" for n in range(12)]
    sent = {user: [] for user in users}
    errors = tmp_path / "errors"

    async def feed():
        log = open_log(log_url)
        for _ in range(8):
            batch = []
            for user in users:
                event = search(user, rng.choice(SNOW), id=f"{user}:{len(sent[user])}")
                sent[user].append(event)
                batch += [event] * rng.choice([1, 1, 2])  # at least once
            await log.append([*messages(*batch), Message("k0", b"poison")])
            await asyncio.sleep(0.05)
        await log.close()

    def working(started):
        return wait_for(lambda: errors.read_text().count("nearline worker") == started)

    workers = [Process("nearline", *options, errors=errors) for _ in range(2)]
    try:
        for death in range(deaths):
            working(2 + death)
            asyncio.run(feed())
            time.sleep(rng.uniform(0.0, 0.4))
            workers.pop(0).kill()
            workers.append(Process("nearline", *options, errors=errors))
        working(2 + deaths)
        settled = asyncio.run(_settled(store_url, log_url, sent))
    finally:
        codes = [worker.stop() for worker in workers]
    assert settled, errors.read_text()
    assert codes == [0, 0]
    letters = asyncio.run(_dead_letters(log_url))
    assert {letter.body for letter in letters} == {b"poison"}
    assert all(letter.reason.startswith("not an event") for letter in letters)
    for user, (live, u2q) in settled.items():
        assert [p.id for p in live.past] == [e.id for e in sent[user]][-30:]  # each once, in order
        searched = {e.query for e in sent[user]}
        assert {h.query for h in u2q.runs[0].hints} == searched
        seen = [run.seen for run in u2q.runs]
        assert seen == sorted(set(seen), reverse=True)  # no event made two lists


async def _dead_letters(log_url):
    log = open_log(log_url)
    try:
        return await log.dead_letters(1000)
    finally:
        await log.close()


async def _settled(store_url, log_url, sent, seconds=40):
    """All states once the group has caught up, or None when it does not."""
    store, log = open_store(store_url), open_log(log_url)
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if (await log.backlog(GROUP)).messages == 0:
                return {
                    user: (
                        decode(Live, (await store.get([keys.live(user)]))[0]) or Live(),
                        decode(U2q, (await store.get([keys.u2q(user)]))[0]) or U2q(),
                    )
                    for user in sent
                }
            await asyncio.sleep(0.1)
        return None
    finally:
        await store.close()
        await log.close()
