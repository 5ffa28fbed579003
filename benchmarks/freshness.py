"""How soon new u2q hints are served after an event, with a real server and a real nearline worker.

    python benchmarks/freshness.py RUN [--system direct_il_grpo] [--per-second 20] [--seconds 60]

Once with each engine for processors, a row each (`decoding.engine`; onnx needs the extra `onnx`);
`ratio_to_transformers` is that of `seconds_per_list`. A fresh store and log: the run is published, `aigq
serve` and `aigq nearline` are started on it. Every second so many shoppers of the log act, each once: a
POST of a search that is new to the shopper. Hints do not tell which list they are from, so a watcher looks
into the store every 0.05 seconds until `Generation.seen` of the shopper's newest list has reached the
event; then GETs of the hints, until they have u2q ones. (Asking all the time would measure the asking: 20
shoppers who wait for a second and ask ten times a second are 200 requests per second.) Seconds are from
before the POST to after that answer.

x2q is asked apart, of shoppers whom nobody knows: one GET with the event inline (parameter `events`), which
nobody has posted, must answer with the x2q hints of that very event (`x2q_in_the_same_request`), and so must
the first GET after a POST of it (`x2q_after_a_post`). A run without RUN/tables/x2q.parquet has none: null.

Bar: p95 at most 3 seconds at 20 active shoppers per second, on CPU.
"""

import argparse
import asyncio
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from aigq.config import Config
from aigq.runs import resolve
from aigq.serving import keys
from aigq.serving.catalog import Catalog, current, load
from aigq.serving.state import Base, U2q, intact
from aigq.serving.stores import Store, open_store

ENGINES = ("transformers", "onnx")
RESULTS = Path(__file__).parent / "results" / "freshness.json"
LOOK_S = 0.05
PATIENCE_S = 30.0
TRIGGERS = 200  # searches to which x2q should react, each once inline and once posted
WARM_UP = 40  # shoppers before the measured ones: the first batches load and trace


class Act(NamedTuple):
    """One shopper and a search that is new to them."""

    user: str
    query: str


class Fresh(NamedTuple):
    """Seconds until the list was in the store, and until it was served; None: not within PATIENCE_S."""

    stored: float | None
    served: float | None


def free_port() -> int:
    """A TCP port that nobody uses."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextmanager
def started(name: str, errors: Path, *arguments: str) -> Iterator[None]:
    """`aigq ...` as a process, stopped at the end; its messages go to a file."""
    with errors.open("wb") as file:
        command = [sys.executable, "-m", "aigq.cli", name, *arguments]
        process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            yield
            if process.poll() is not None:
                raise SystemExit(f"aigq {name} ended:\n{errors.read_text()}")
        finally:
            process.terminate()
            process.wait(30)


def wait_for(condition: Any, seconds: float, what: str) -> None:
    """Until it is true. Raises SystemExit when it does not happen."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"{what} did not happen within {seconds:g} seconds")
        time.sleep(0.2)


async def acts_of(store: Store, n: int) -> list[Act]:
    """Shoppers of the published table, each with a popular query that is not in their published history."""
    pointer = await current(store)
    assert pointer is not None
    catalog = await load(store, pointer.version)
    prefix = f"aigq:base:{pointer.version}:"
    names = sorted([entry.key async for entry in store.scan(prefix)])
    found = []
    for place, key in enumerate(names[:n]):
        base = intact(Base, (await store.get([key]))[0]) or Base()
        known = {own.query for own in base.own} | {past.text for past in base.past}
        fresh = [query for query in catalog.popular if query not in known]
        if fresh:
            found.append(Act(key.removeprefix(prefix)[3:-1], fresh[place % len(fresh)]))
    if len(found) < n:
        raise SystemExit(f"{len(found)} shoppers can act, {n} are needed; ask for fewer seconds")
    return found


async def seen(store: Store, user: str) -> float:
    """Up to when the newest list of a user has seen events."""
    runs = (intact(U2q, (await store.get([keys.u2q(user)]))[0]) or U2q()).runs
    return runs[0].seen if runs else 0.0


def search(act: Act) -> dict[str, object]:
    """The event of an act."""
    return {"action_name": "search", "user_id": act.user, "user_query": act.query}


async def follow(client: httpx.AsyncClient, store: Store, act: Act) -> Fresh:
    """Post the event of one shopper, wait for the list that knows it, ask until its hints are served."""
    posted, begun = time.time(), time.perf_counter()
    (await client.post("/v1/events", json=search(act))).raise_for_status()
    stored = None
    while time.perf_counter() - begun < PATIENCE_S:
        await asyncio.sleep(LOOK_S)
        if stored is None and await seen(store, act.user) < posted:
            continue
        stored = stored or time.perf_counter() - begun
        answer = (await client.get("/v1/hints", params={"user": act.user, "n": 10})).raise_for_status()
        if any(hint["channel"] == "u2q" for hint in answer.json()["hints"]):
            return Fresh(stored, time.perf_counter() - begun)
    return Fresh(stored, None)


async def act_all(client: httpx.AsyncClient, store: Store, acts: Sequence[Act], rate: float) -> list[Fresh]:
    """All acts at a steady rate, whatever the answers take."""
    begun, tasks = time.monotonic(), []
    for number, act in enumerate(acts):
        await asyncio.sleep(max(0.0, begun + number / rate - time.monotonic()))
        tasks.append(asyncio.ensure_future(follow(client, store, act)))
    return list(await asyncio.gather(*tasks))


async def x2q_shares(client: httpx.AsyncClient, store: Store, catalog: Catalog) -> dict[str, float | None]:
    """The shares of searches that x2q answers at once, among triggers that have a list."""
    prefix = f"aigq:x2q:{catalog.version}:query:"
    triggers = [entry.key.removeprefix(prefix) async for entry in store.scan(prefix)][:TRIGGERS]
    inline = posted = 0
    for number, query in enumerate(triggers):
        events = json.dumps([search(Act(f"stranger {number}", query))])
        inline += await reacts(client, f"stranger {number}", query, events=events)
        guest = Act(f"guest {number}", query)
        (await client.post("/v1/events", json=search(guest))).raise_for_status()
        posted += await reacts(client, guest.user, query)
    found = {"x2q_in_the_same_request": inline, "x2q_after_a_post": posted}
    return {name: round(n / len(triggers), 4) if triggers else None for name, n in found.items()}


async def reacts(client: httpx.AsyncClient, user: str, query: str, **params: str) -> bool:
    """Whether a shopper who searched for this gets x2q hints because of it."""
    answer = await client.get("/v1/hints", params={"user": user, "n": "20", **params})
    wanted = f"because you searched for “{query}”"
    hints = answer.raise_for_status().json()["hints"]
    return any(hint["channel"] == "x2q" and hint["reason"] == wanted for hint in hints)


def counter(text: str, name: str) -> float:
    """A counter of a Prometheus page, all its labels together; 0 when it is not there."""
    lines = [line for line in text.splitlines() if line.partition("{")[0].partition(" ")[0] == name]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def percentiles(values: Sequence[float | None]) -> dict[str, float | None]:
    """p50, p95, p99. What never came counts as slower than all: then a percentile may be None."""
    ordered = sorted(float("inf") if value is None else value for value in values)
    found = {f"p{p}_s": ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in (50, 95, 99)}
    return {name: round(value, 3) if value < float("inf") else None for name, value in found.items()}


async def measure(port: int, metrics: int, store_url: str, rate: float, seconds: float) -> dict[str, Any]:
    """Warm up, then one row."""
    store, n = open_store(store_url), round(rate * seconds)
    limits = httpx.Limits(max_connections=500, max_keepalive_connections=500)
    try:
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10, limits=limits) as client,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{metrics}") as worker,
        ):
            acts = await acts_of(store, WARM_UP + n)
            await act_all(client, store, acts[:WARM_UP], rate)
            before, begun = (await worker.get("/metrics")).text, time.monotonic()
            found = await act_all(client, store, acts[WARM_UP:], rate)
            took, after = time.monotonic() - begun, (await worker.get("/metrics")).text
            pointer = await current(store)
            assert pointer is not None
            x2q = await x2q_shares(client, store, await load(store, pointer.version))
            shed_hints = counter((await client.get("/metrics")).text, "aigq_shed_total")
    finally:
        await store.close()

    def more(name: str) -> float:
        return counter(after, name) - counter(before, name)

    batches, lists = more("aigq_generation_seconds_count"), more("aigq_generated_users_total")
    writing = more("aigq_generation_seconds_sum")
    return {
        "active_users_per_s": rate,
        "events": n,
        **percentiles([fresh.served for fresh in found]),
        "stored": percentiles([fresh.stored for fresh in found]),
        "never_stored": sum(fresh.stored is None for fresh in found),
        "never": sum(fresh.served is None for fresh in found),
        "generations_per_s": round(lists / took, 2),
        "users_per_batch": round(lists / batches, 1) if batches else None,
        "seconds_per_list": round(writing / lists, 4) if lists else None,
        "signals_shed": more("aigq_shed_total"),
        "requests_shed": shed_hints,
        **x2q,
    }


def row_of(
    run: Path, config: Config, system: str, engine: str, rate: float, seconds: float
) -> dict[str, Any]:
    """Publish, serve, measure with one engine."""
    with tempfile.TemporaryDirectory(prefix="aigq-freshness-") as name:
        folder, port, metrics = Path(name), free_port(), free_port()
        store, log = f"lmdb:{folder}/store?map_gb=4", f"sqlite:{folder}/log.sqlite"
        where = ["--run", str(run), "--store", store]
        subprocess.run([sys.executable, "-m", "aigq.cli", "publish", *where], check=True)
        where += ["--log", log, "--set", f"serving.nearline.system={system}"]
        worker = [*where, "--set", f"decoding.engine={engine}", "--metrics-port", str(metrics)]
        with (
            started("serve", folder / "serve", *where, "--port", str(port)),
            started("nearline", folder / "nearline", *worker),
        ):
            wait_for(lambda: "nearline worker" in (folder / "nearline").read_text(), 180, "a worker's start")
            wait_for(lambda: httpx.get(f"http://127.0.0.1:{port}/readyz").is_success, 30, "readiness")
            row = asyncio.run(measure(port, metrics, store, rate, seconds))
    return {"run": config.name, "system": system, "engine": engine, **row}


def main(run: Path, system: str | None, rate: float, seconds: float) -> None:
    """A row for each engine; the last one's p95 is what the bar is about."""
    config, _ = resolve(None, run, ())
    rows = [
        row_of(run, config, system or config.serving.nearline.system, engine, rate, seconds)
        for engine in ENGINES
    ]
    for row in rows:
        row["ratio_to_transformers"] = round(row["seconds_per_list"] / rows[0]["seconds_per_list"], 3)
    print(json.dumps(rows, indent=2))
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} shared cores, {threads} thread(s)"
    result = {"machine": machine, "p95_s": rows[-1]["p95_s"], "rows": rows}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/demo"))
    parser.add_argument("--system", help="row that writes the lists; default: serving.nearline.system")
    parser.add_argument("--per-second", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    main(given.run, given.system, given.per_second, given.seconds)
