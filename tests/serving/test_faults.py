"""Faults under load, with real processes: `aigq serve`, `aigq nearline`, redis-server, LMDB, SQLite, a full disk."""

import asyncio
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from load import load, percentile
from serving_helpers import Process, RedisServer, config, run, serving, wait_for

from aigq.serving import keys
from aigq.serving.publish import publish
from aigq.serving.run_tables import RunTables
from aigq.serving.state import CatalogPart, Live, QueryInfo, Suggestion, U2q, decode
from aigq.serving.stores import open_store

DEADLINE_MS = 250


def put_on_line(shop_run, url):
    """Publish the tiny shop."""

    async def work():
        store = open_store(url)
        await publish(shop_run.config, store, RunTables(shop_run.config, shop_run.folder).families)
        await store.close()

    run(work())


def value(url, kind, key):
    async def work():
        store = open_store(url)
        (found,) = await store.get([key])
        await store.close()
        return decode(kind, found)

    return run(work())


def hints(client, **params):
    response = client.get("/v1/hints", params=params)
    assert response.status_code == 200, response.text
    return response.json()["hints"]


def searched(client, user, query, **more):
    """The status of an event."""
    event = {"action_name": "search", "user_id": user, "user_query": query, **more}
    return client.post("/v1/events", json=event).status_code


def counted(client, name):
    """A counter or gauge of the service, all labels together."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split()[0] == name)


def test_redis_stopped_hung_and_started_again_under_load(shop_run, tmp_path):
    redis = RedisServer(tmp_path, "--appendonly", "yes")
    options = ["--run", shop_run.folder, "--store", redis.url, "--log", f"sqlite:{tmp_path}/log.sqlite"]
    put_on_line(shop_run, redis.url)
    try:
        with (
            serving(*options, "--set", f"serving.deadline_ms={DEADLINE_MS}") as (client, server),
            load(client, 8, lambda n: f"/v1/hints?user=u{n:02}&n=3", per_second=20) as shoppers,
        ):
            wait_for(lambda: {"personal"} <= {c for a in shoppers.answers for c in a.channels})
            stopped = time.monotonic()
            redis.stop()
            gone = time.monotonic()
            time.sleep(1.5)
            away = shoppers.since(gone)
            assert searched(client, "u00", "sled") == 202  # the log has it
            back = time.monotonic()
            redis.start()
            wait_for(lambda: shoppers.answers[-1].channels & {"personal"})
            os.kill(redis.process.pid, signal.SIGSTOP)
            hung = time.monotonic()
            time.sleep(1.5)
            hanging = shoppers.since(hung + 0.05)
            os.kill(redis.process.pid, signal.SIGCONT)
            last = time.monotonic()
            wait_for(lambda: any(a.channels & {"personal"} for a in shoppers.since(last)))
            assert server.process.poll() is None
    finally:
        redis.stop()
    assert shoppers.errors == []
    assert {answer.status for answer in shoppers.answers} == {200}
    assert all(answer.hints for answer in shoppers.answers)
    assert len(away) > 100
    assert {c for answer in away for c in answer.channels} == {"popular"}
    assert {c for answer in hanging for c in answer.channels} == {"popular"}
    assert percentile(shoppers.since(stopped, back), 0.99) <= DEADLINE_MS / 1000
    assert percentile(hanging, 0.99) <= 2 * DEADLINE_MS / 1000  # the deadline passes first, then the answer is made


LETTERS = ("a", "b")
PLACES = range(5)


def lettered(version_letter, families):
    """The tables of the tiny shop, with x2q and the popular list in the words of one version."""

    def build(version):
        queries = [QueryInfo(f"{letter} {word}", None, 1) for letter in LETTERS for word in ("hat", *map(str, PLACES))]
        popular = [Suggestion(f"{version_letter} hat", 1.0)]
        made = dict(families(version))
        made["catalog"] = iter([(keys.catalog(version, 0), CatalogPart(queries, 1, popular, time.time()))])
        made["x2q"] = iter(
            [
                (keys.x2q(version, "query", f"trigger {n}"), [Suggestion(f"{version_letter} {n}", 1.0)])
                for n in PLACES
            ]
        )
        return made

    return build


@pytest.mark.parametrize("kind", ["lmdb", "redis"])
def test_x2q_swapped_under_load_is_never_seen_half(kind, shop_run, tmp_path, request):
    """Every answer has the whole list of one table: five triggers and the popular query of the same version."""
    url = request.getfixturevalue("redis_url") if kind == "redis" else f"lmdb:{tmp_path}/store?map_gb=1"
    options = ["--run", shop_run.folder, "--store", url, "--log", f"sqlite:{tmp_path}/log.sqlite"]
    events = ",".join(
        f'{{"action_name":"search","user_query":"trigger%20{n}","timestamp":{int(time.time()) - n}}}' for n in PLACES
    ).replace('"', "%22")
    families = RunTables(shop_run.config, shop_run.folder).families

    async def swap(letter):
        store = open_store(url)
        version = (await publish(shop_run.config, store, lettered(letter, families)))["version"]
        await store.close()
        return version

    run(swap("a"))
    settings = ["--set", "serving.deadline_ms=5000", "--set", "serving.near_duplicate=100"]
    with (
        serving(*options, *settings) as (client, _),
        load(client, 6, lambda n: f"/v1/hints?user=new{n}&n=10&events=[{events}]") as shoppers,
    ):
        for letter in "bababa":
            version = run(swap(letter))
            wait_for(lambda: client.get("/readyz").json()["table"] == version)  # noqa: B023
    assert shoppers.errors == []
    seen = {frozenset(hint["query"] for hint in answer.hints) for answer in shoppers.answers}
    whole = {letter: frozenset(f"{letter} {word}" for word in ("hat", *PLACES)) | {"gift card"} for letter in LETTERS}
    assert seen == set(whole.values())
    assert len(shoppers.answers) > 100
