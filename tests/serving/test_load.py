"""Faults under load: the store away, tables swapped, ten times as many shoppers as there should be."""

import os
import signal
import subprocess
import time

import pytest
from live_shop import counted, event, first_channel, hints, opened, put_on_line, searched
from load import get, load, percentile, post
from serving_helpers import RedisServer, serving, wait_for

from aigq.serving import keys
from aigq.serving.publish import publish
from aigq.serving.run_tables import RunTables
from aigq.serving.state import CatalogPart, Neighbours, QueryInfo

DEADLINE_S = 0.25


def options_of(shop_run, tmp_path, store):
    return ["--run", shop_run.folder, "--store", store, "--log", f"sqlite:{tmp_path}/log.sqlite"]


def test_redis_stopped_hung_and_started_again(shop_run, tmp_path):
    redis = RedisServer(tmp_path, "--appendonly", "yes")
    options = options_of(shop_run, tmp_path, redis.url)
    put_on_line(shop_run, redis.url)
    try:
        with (
            serving(*options, "--set", f"serving.deadline_ms={DEADLINE_S * 1000}") as (client, server),
            load(client, 8, lambda n: get(f"/v1/hints?user=u{n:02}&n=3"), per_second=20) as shoppers,
        ):

            def personal_since(at):
                return wait_for(lambda: any("personal" in a.channels for a in shoppers.since(at)))

            personal_since(0)
            stopped = time.monotonic()
            redis.stop()
            gone = time.monotonic()
            time.sleep(1.5)
            away = shoppers.since(gone)
            assert searched(client, "u00", "sled") == 202  # the log has it
            started = time.monotonic()
            redis.start()
            personal_since(started)
            os.kill(redis.process.pid, signal.SIGSTOP)
            hung = time.monotonic()
            time.sleep(1.5)
            hanging = shoppers.since(hung)
            os.kill(redis.process.pid, signal.SIGCONT)
            personal_since(time.monotonic())
            assert server.process.poll() is None  # it recovered without a restart
    finally:
        redis.stop()
    assert shoppers.errors == []
    assert {answer.status for answer in shoppers.answers} == {200}
    assert all(answer.hints for answer in shoppers.answers)
    for outage in (away, hanging):
        assert len(outage) > 30
        assert {channel for answer in outage for channel in answer.channels} == {"popular"}
    assert percentile(shoppers.since(stopped, started), 0.99) <= DEADLINE_S
    assert percentile(hanging, 0.99) <= 2 * DEADLINE_S  # the deadline passes, then the answer is made


LETTERS = ("a", "b")
PLACES = range(5)


def lettered(letter, families):
    """The tables of the tiny shop, with x2q and the popular list in the words of one letter."""

    def build(version):
        words = [f"{any_letter} {word}" for any_letter in LETTERS for word in ("hat", *PLACES)]
        queries, popular = [QueryInfo(word, None, 1) for word in words], [f"{letter} hat"]
        catalog = CatalogPart(queries, 1, popular, time.time())
        x2q = [
            (keys.x2q(version, "query", f"trigger {n}"), Neighbours([f"{letter} {n}"], [1.0])) for n in PLACES
        ]
        return {**families(version), "x2q": iter(x2q), "catalog": iter([(keys.catalog(version, 0), catalog)])}

    return build


@pytest.mark.parametrize("kind", ["lmdb", "redis"])
def test_x2q_swapped_is_never_seen_half(kind, shop_run, tmp_path, request):
    """Every answer comes from one table: x2q's queries for five triggers, and the popular one."""
    url = request.getfixturevalue("redis_url") if kind == "redis" else f"lmdb:{tmp_path}/store?map_gb=1"
    families, now = RunTables(shop_run.config, shop_run.folder).families, int(time.time())

    def swap(letter):
        return opened(url, lambda store: publish(shop_run.config, store, lettered(letter, families)))[
            "version"
        ]

    search = '{{"action_name":"search","user_query":"trigger+{}","timestamp":{}}}'
    events = ",".join(search.format(n, now - n) for n in PLACES).replace('"', "%22")
    settings = ["--set", "serving.deadline_ms=5000", "--set", "serving.near_duplicate=100"]
    swap("a")
    with (
        serving(*options_of(shop_run, tmp_path, url), *settings) as (client, _),
        load(client, 6, lambda n: get(f"/v1/hints?user=new{n}&events=[{events}]")) as shoppers,
    ):
        for letter in "bababa":
            version = swap(letter)
            wait_for(lambda: client.get("/readyz").json()["table"] == version)  # noqa: B023
    assert shoppers.errors == []
    assert len(shoppers.answers) > 100
    seen = {frozenset(hint["query"] for hint in answer.hints) for answer in shoppers.answers}
    assert seen == {
        frozenset([*(f"{letter} {word}" for word in ("hat", *PLACES)), "gift card"]) for letter in LETTERS
    }


def memory_mb(server):
    """Of the server and its processes together."""
    group = subprocess.run(
        ["pgrep", "-g", str(server.process.pid)], capture_output=True, text=True, check=True
    )
    pages = 0
    for pid in group.stdout.split():
        with open(f"/proc/{pid}/statm") as file:
            pages += int(file.read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.slow)])
def test_ten_times_the_load_sheds_and_recovers(seconds, shop_run, tmp_path, redis_url):
    """Ten times as many requests at a time as are answered in full, of hints and of events."""
    at_a_time = 8
    put_on_line(shop_run, redis_url)  # on the embedded store an answer never waits, so none are at a time
    settings = ["--set", f"serving.max_in_flight={at_a_time}", "--set", "serving.deadline_ms=5000"]
    with serving(*options_of(shop_run, tmp_path, redis_url), *settings) as (client, server):
        for _ in range(20):
            assert first_channel(client, "u00") == "personal"
        assert counted(client, "aigq_shed_total") == {}
        with (
            load(client, 10 * at_a_time, lambda n: get(f"/v1/hints?user=u{n % 16:02}&n=5")) as shoppers,
            load(client, 10 * at_a_time, lambda n: post("/v1/events", event(f"x{n}", "sled"))) as acting,
        ):
            time.sleep(1)
            before = memory_mb(server)
            time.sleep(seconds)
            grown = memory_mb(server) - before
            in_full = hints(client, user="u00", n=30)
        shed = counted(client, "aigq_shed_total")
        for _ in range(20):
            assert first_channel(client, "u00") == "personal"
        assert searched(client, "after", "sled") == 202
        assert counted(client, "aigq_shed_total") == shed  # nothing waits any more
    assert shoppers.errors == acting.errors == []
    assert len(in_full) > 5
    assert {answer.status for answer in shoppers.answers} == {200}
    assert all(answer.hints for answer in shoppers.answers)
    assert {answer.status for answer in acting.answers} == {202, 503}
    popular_only = sum("personal" not in answer.channels for answer in shoppers.answers)
    refused = sum(answer.status == 503 for answer in acting.answers)
    assert shed['what="hints"'] >= popular_only > 0
    assert shed['what="events"'] == refused
    assert grown < 30
    assert percentile(shoppers.answers, 0.99) < 5  # no request waits behind a queue that grows
    print(
        len(shoppers.answers),
        len(acting.answers),
        shed,
        before,
        grown,
        percentile(shoppers.answers, 0.99),
        percentile(acting.answers, 0.99),
    )
