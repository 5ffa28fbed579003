"""A full disk, damaged values, a clock that jumps: `aigq serve` and `aigq nearline` as real processes."""

import contextlib
import os
import time

import pytest
from live_shop import (
    behaviours,
    counted,
    event,
    first_channel,
    hints,
    lists,
    opened,
    published,
    put_on_line,
    searched,
)
from serving_helpers import Process, serving, wait_for

from aigq.serving import keys
from aigq.serving.catalog import current


@contextlib.contextmanager
def shop(shop_run, tmp_path, store, log, *settings, workers=1):
    """A server and nearline workers; yields an HTTP client, the server and the workers' processes."""
    put_on_line(shop_run, store)
    options = ["--run", shop_run.folder, "--store", store, "--log", log, *settings]
    errors = tmp_path / "errors"
    working = [Process("nearline", *options, errors=errors) for _ in range(workers)]
    try:
        with serving(*options) as (client, server):
            wait_for(lambda: errors.read_text().count("nearline worker") == workers)
            yield client, server, working
    finally:
        codes = [worker.stop() for worker in working if worker.process.poll() is None]
    assert set(codes) == {0}, errors.read_text()


def fill(path):
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass


def test_a_full_disk_refuses_events_and_loses_none(shop_run, tmp_path, disk):
    """Store and log on one disk: what was refused was said to be, what was accepted is served in the end."""
    folder = disk("size=12m")
    store = f"lmdb:{folder}/store?map_gb=0.005"
    with shop(shop_run, tmp_path, store, f"sqlite:{folder}/log.sqlite") as (client, server, (worker,)):
        assert searched(client, "before", "sled") == 202
        wait_for(lambda: lists(store, "before"))
        filler = folder / "filler"
        with pytest.raises(OSError, match="No space"):
            fill(filler)
        batches = [[event(f"{n}-{i}", "wool hat") for i in range(50)] for n in range(40)]
        answers = [client.post("/v1/events", json=batch) for batch in batches]
        accepted = [n for n, answer in enumerate(answers) if answer.status_code == 202]
        assert {answer.status_code for answer in answers} >= {503}
        assert {answer.status_code for answer in answers} <= {202, 503}
        assert "cannot keep this now" in answers[-1].json()["detail"]
        assert first_channel(client, "u00") == "personal"
        filler.unlink()
        wait_for(lambda: searched(client, "after", "wool hat") == 202)
        for user in ("after", *(f"{n}-{i}" for n in accepted for i in (0, 49))):
            wait_for(lambda: lists(store, user) == [{"wool hat"}])  # noqa: B023
            assert behaviours(store, user) == ["wool hat"]
        assert server.process.poll() is None
        assert worker.process.poll() is None


@pytest.mark.parametrize("kind", ["lmdb", "redis"])
def test_damaged_values_are_left_out_and_written_anew(kind, shop_run, tmp_path, request):
    store = request.getfixturevalue("redis_url") if kind == "redis" else f"lmdb:{tmp_path}/store?map_gb=1"
    settings = ("--set", "serving.deadline_ms=5000")
    with shop(shop_run, tmp_path, store, f"sqlite:{tmp_path}/log.sqlite", *settings) as (
        client,
        server,
        (worker,),
    ):
        assert searched(client, "u00", "sled") == 202
        wait_for(lambda: lists(store, "u00"))
        version = opened(store, current).version
        own = [keys.base(version, "u00"), keys.live("u00"), keys.u2q("u00")]
        bad = dict.fromkeys([*own, keys.coclick(version, "sled"), keys.gone("u00")], b"\xc1 no msgpack")
        opened(store, lambda opened: opened.put(bad, 600))
        assert first_channel(client, "u00") == "popular"
        damaged = counted(client, "aigq_damaged_values_total")
        assert {label: n for label, n in damaged.items() if n} == {
            f'family="{family}"': 1.0 for family in ("base", "live", "u2q")
        }
        assert searched(client, "u00", "wool hat") == 202
        assert behaviours(store, "u00") == ["wool hat"]
        wait_for(lambda: lists(store, "u00") == [{"wool hat"}])
        opened(store, lambda opened: opened.put({keys.CURRENT: b"\xc1"}, 600))
        wait_for(lambda: client.get("/readyz").status_code == 503)
        assert first_channel(client, "u01") == "personal"  # the table in memory goes on
        before = published(client)
        put_on_line(shop_run, store)
        wait_for(lambda: client.get("/readyz").status_code == 200)
        wait_for(lambda: published(client) > before)  # asked for hints meanwhile, they would rest as seen
        assert "personal" in {hint["channel"] for hint in hints(client, user="u00", n=30)}
        assert server.process.poll() is None
        assert worker.process.poll() is None


CLOCK = """
import os, time
_now = time.time
def ahead():
    with open(os.environ["CLOCK_AHEAD"]) as file:
        return float(file.read())
time.time = lambda: _now() + ahead()
"""


@pytest.mark.parametrize(("jump", "kind"), [(3600, "embedded"), (-3600, "embedded"), (-3600, "redis")])
def test_the_clock_jumps_by_an_hour(jump, kind, shop_run, tmp_path, request, monkeypatch):
    """All clocks at once, and a worker dies in the same moment: soon every list is new again."""
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    ahead = tmp_path / "ahead"
    ahead.write_text("0")
    monkeypatch.setenv("CLOCK_AHEAD", str(ahead))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    if kind == "redis":
        store = log = request.getfixturevalue("redis_url")
    else:
        store, log = f"lmdb:{tmp_path}/store?map_gb=1", f"sqlite:{tmp_path}/log.sqlite"
    settings = ("--set", "serving.deadline_ms=5000", "--set", "serving.nearline.debounce_s=0.5")
    with shop(shop_run, tmp_path, store, log, *settings, workers=2) as (client, _, workers):
        users = [f"j{n}" for n in range(32)]  # of all partitions
        assert {searched(client, user, "sled") for user in users} == {202}
        for user in users:
            wait_for(lambda: lists(store, user) == [{"sled"}])  # noqa: B023
        assert searched(client, "waiting", "sled") == 202
        workers[0].kill()
        written = ahead.with_suffix(".new")
        written.write_text(str(jump))
        written.replace(ahead)
        begun = time.monotonic()
        assert {searched(client, user, "wool hat") for user in (*users, "waiting")} == {202}
        for user in (*users, "waiting"):
            wait_for(lambda: lists(store, user)[:1] == [{"sled", "wool hat"}])  # noqa: B023
        assert time.monotonic() - begun < 15
        for user in users:
            assert sorted(behaviours(store, user)) == ["sled", "wool hat"]
        assert "wool hat" not in {hint["query"] for hint in hints(client, user="j0", n=30)}  # just searched
