"""What comes late about an erased user is left out of the log and the live states; a new start is taken."""

import asyncio
import time
from urllib.parse import quote

import msgspec
import pytest
from litestar.testing import TestClient
from prometheus_client import REGISTRY
from serving_helpers import config, serving

from aigq.serving import keys, users
from aigq.serving.app import create_app
from aigq.serving.blend import Hint
from aigq.serving.impressions import Impressions
from aigq.serving.service import Service
from aigq.serving.state import Event, encode
from aigq.serving.stores import StoreError, open_store
from aigq.serving.stores.memory import MemoryStore
from aigq.serving.streams import Message, open_log
from aigq.serving.streams.memory import MemoryLog
from aigq.serving.users import erase

HINTS = [Hint("sled", None, {}, "popular", "popular")]


@pytest.fixture(params=["embedded", "redis"])
def urls(request, tmp_path):
    """Of a store and a log."""
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
        return url, url
    return f"lmdb:{tmp_path}/store?map_gb=1", f"sqlite:{tmp_path}/log.sqlite"


def with_both(urls, work):
    async def main():
        store, log = open_store(urls[0]), open_log(urls[1])
        try:
            return await work(store, log)
        finally:
            await store.close()
            await log.close()

    return asyncio.run(main())


def search(user, query, at):
    return Event(f"{user}:{query}:{at}", user, at, "search", query)


def timed(*events):
    return [(event.at, Message(event.user, encode(event))) for event in events]


async def logged(log):
    """Users and actions of the whole log."""
    events = [msgspec.msgpack.decode(m.body, type=Event) async for m in log.dump()]
    return [(event.user, event.action) for event in events]


def said(user, at=None):
    return {"action_name": "search", "user_id": user, "user_query": "sled", "timestamp": at}


def refused():
    return REGISTRY.get_sample_value("aigq_events_rejected_total", {"why": "erased"}) or 0


def test_an_event_from_before_the_erasure_is_refused_and_one_from_after_it_is_taken(urls):
    late, before = time.time() - 60, refused()
    service = Service(config(), open_store(urls[0]), open_log(urls[1]))
    with TestClient(create_app(service)) as client:
        assert client.post("/v1/events", json=said("u02", late)).json()["accepted"] == 1
        client.delete("/v1/users/u02")
        batch = [said("other", late), said("u02", late), {"action_name": "fly"}, said("u02")]
        answer = client.post("/v1/events", json=batch).json()
        assert (answer["accepted"], [r["index"] for r in answer["rejected"]]) == (2, [1, 2])
        assert "erased" in answer["rejected"][0]["reason"]
        alone = client.post("/v1/events", json=said("u02", late))
        assert (alone.status_code, "erased" in alone.json()["detail"]) == (400, True)
        assert refused() == before + 2

    async def found(store, log):
        live = await store.get([keys.live("u02")])
        return await logged(log), msgspec.msgpack.decode(live[0])[0]

    events, past = with_both(urls, found)
    assert sorted(events) == [("other", "search"), ("u02", "search")]
    assert [at > late for at, *_ in past] == [True]


def test_impressions_that_wait_in_another_process_are_not_written_after_the_erasure(urls):
    async def work(store, log):
        impressions = Impressions(store, log)
        for user in ("u02", "other", ""):
            impressions.add(user, f"request of {user}", HINTS, None)
        await erase(store, log, "u02")  # by another process
        await impressions.flush()
        before = await logged(log)
        impressions.add("u02", "a new start", HINTS, None)
        await impressions.flush()
        return before, await logged(log)

    before, after = with_both(urls, work)
    assert sorted(before) == [("", "hint_impression"), ("other", "hint_impression")]
    assert sorted(after) == [*sorted(before), ("u02", "hint_impression")]


IDS = [
    "shop/42",
    "a/b/c",
    "/a",
    "//a",
    "a/",
    "a//b",
    "a%b",
    "a%2Fb",
    "a?b#c",
    " a ",
    "🛒/🧦",
    "買い物客",
    "u02",
]


def test_any_id_can_be_erased(shop_run, urls):
    """Over a real server: slashes and percent signs are as they were, whatever a server makes of paths."""
    neighbours = ["a", "b", "a/b", "shop", "/", "42"]
    with serving("--run", shop_run.folder, "--store", urls[0], "--log", urls[1]) as (client, _):
        assert client.post("/v1/events", json=[said(user) for user in [*IDS, *neighbours]]).json() == {
            "accepted": len(IDS) + len(neighbours), "rejected": []
        }  # fmt: skip
        for user in IDS:
            answer = client.delete(f"/v1/users/{quote(user, safe='')}", params={"a": "b"})
            assert (answer.status_code, answer.json()) == (200, {"removed": 2, "log_kept_days": 0.0}), user
        assert client.delete("/v1/users/").status_code == 404
        described = client.get("/schema/openapi.json").json()["paths"]["/v1/users/{user}"]["delete"]
    (user,) = described["parameters"]
    assert (user["in"], user["required"], "percent-encoded" in user["description"]) == ("path", True, True)
    left = with_both(urls, lambda _, log: logged(log))
    assert sorted(left) == sorted((user, "search") for user in neighbours)


class ErasingLog(MemoryLog):
    """Another process erases u02 when the log is written to, after the writer looked who is erased."""

    store = MemoryStore()

    async def append(self, messages):
        await users.erase(self.store, self, "u02")
        await super().append(messages)


def test_an_erasure_between_the_look_and_the_write_counts():
    async def work():
        log, at = ErasingLog(), time.time() - 1
        written = await users.append(
            log.store, log, timed(search("u02", "sled", at), search("other", "sled", at))
        )
        return written, await logged(log)

    assert asyncio.run(work()) == ([False, True], [("other", "search")])


class ErasingStore(MemoryStore):
    """Another process erases u02 when it is first looked up who is erased."""

    def __init__(self, log):
        super().__init__()
        self.log, self.erased = log, False

    async def get(self, names):
        if not self.erased:
            self.erased = True
            await users.erase(self, self.log, "u02")
        return await super().get(names)


def test_an_event_of_a_clock_that_is_ahead_is_from_when_it_came():
    async def work():
        log = MemoryLog()
        service = Service(config(), ErasingStore(log), log)
        taken = [await service.take([search("u02", "sled", time.time() + 240)]) for _ in range(2)]
        return taken, len(await logged(log)), await service.store.get([keys.live("u02")]) != [None]

    assert asyncio.run(work()) == ([[False], [True]], 1, True)  # the second is a new start


def test_a_write_that_is_cancelled_is_done_by_the_next(urls):
    """As at the end of a process, which stops its background work and then writes what waits."""

    async def work(store, log):
        impressions = Impressions(store, log)
        impressions.add("u02", "request", HINTS, None)
        flush = asyncio.ensure_future(impressions.flush())
        await asyncio.sleep(0)
        flush.cancel()
        await asyncio.wait([flush])
        await impressions.flush()
        return set(await logged(log))

    assert with_both(urls, work) == {("u02", "hint_impression")}


def test_events_are_taken_while_the_store_is_away():
    class Away(MemoryStore):
        async def get(self, _):
            raise StoreError("away")

    async def work():
        log = MemoryLog()
        written = await users.append(Away(), log, timed(search("u02", "sled", time.time())))
        return written, await logged(log)

    assert asyncio.run(work()) == ([True], [("u02", "search")])


def test_a_batch_waits_for_a_store_that_is_away_as_long_as_one_event():
    class Away(MemoryStore):
        asked = 0

        async def get(self, names):
            if not names:
                return []
            self.asked += 1  # each may take the time-out of a host that does not answer
            raise StoreError("away")

    async def work(n):
        log = MemoryLog()
        service = Service(config(), Away(), log)
        taken = await service.take([search(f"u{i}", "sled", time.time()) for i in range(n)])
        return taken == [True] * n, len(await logged(log)), service.store.asked

    one, batch = (asyncio.run(work(n)) for n in (1, 10))
    assert one == (True, 1, 2)
    assert batch == (True, 10, 2)
