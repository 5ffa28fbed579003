"""Hints per second and their tail, beside a bare echo and a bare read of six keys through the same server.

    python benchmarks/serve.py --run runs/journey

Needs wrk, and redis-server for the rows of Redis. The run is published once (`aigq train ctr` must have made
a model), then its users are copied under new names up to the wanted number, each with a nearline list; x2q
gets 50,000 triggers. One server process, one load generator, at most 60 candidates per request, each ranked
by the CTR model. The deadline is a second here, so that no answer saves work by leaving something out; how
often something was left out all the same is in the results, and must be 0.

Bars: hints at least 0.25 of the echo on LMDB; p99 at half load at most 4 times the echo's at its half load.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aigq.config_serving import WEIGHTS

RESULTS = Path(__file__).parent / "results" / "serve.json"
TRIGGERS = 50_000
LISTED = 20
CONNECTIONS = 32
SECONDS = 8
KINDS = ("echo", "read", "hints")
SERVING = {"deadline_ms": 1000.0, "max_in_flight": 10_000, "ranker": "ctr", "weights": WEIGHTS}
SETTINGS = "AIGQ_SERVE_BENCHMARK"
SCRIPT = """
local users, wait, kind = {users}, {wait}, "{kind}"
math.randomseed(os.time() + tonumber(tostring({{}}):sub(8), 16) % 1000000)
request = function()
  return wrk.format("GET", "/" .. kind .. "?n=10&user=b" .. math.random(0, users - 1))
end
if wait > 0 then delay = function() return math.random(0, 2 * wait) end end
"""


def create() -> Any:
    """The application of the server process: the echo, the read, or the service."""
    from litestar import Litestar, get

    from aigq.config import parse
    from aigq.serving import keys
    from aigq.serving.app import create_app
    from aigq.serving.service import Service
    from aigq.serving.stores import open_store
    from aigq.serving.streams import open_log

    settings = json.loads(os.environ[SETTINGS])
    store, version = open_store(settings["store"]), settings["version"]

    @get("/echo")
    async def echo(user: str) -> dict[str, str]:
        return {"user": user}

    @get("/read")
    async def read(user: str) -> dict[str, int]:
        number = int(user[1:]) % TRIGGERS
        names = [keys.base(version, user), keys.live(user), keys.u2q(user)]
        names += [keys.x2q(version, "query", f"t{number + i}") for i in range(3)]
        values = await store.get(names)
        return {"bytes": sum(len(value) for value in values if value)}

    if settings["kind"] != "hints":
        return Litestar([{"echo": echo, "read": read}[settings["kind"]]], logging_config=None)
    return create_app(Service(parse(settings["config"]), store, open_log(settings["log"])))


def serve() -> None:
    """One granian process, with the settings of `aigq serve`."""
    from granian import Granian
    from granian.constants import Interfaces
    from granian.log import LogLevels

    Granian(
        "serve:create", address="127.0.0.1", port=json.loads(os.environ[SETTINGS])["port"],
        interface=Interfaces.ASGI, workers=1, factory=True, websockets=False, backlog=2048,
        log_level=LogLevels.warning,
    ).serve()  # fmt: skip


async def fill(run: Path, url: str, users: int) -> str:
    """Publish the run, then copy its users and lists; returns the version."""
    from aigq.config import load
    from aigq.serving import keys
    from aigq.serving.publish import publish
    from aigq.serving.run_tables import RunTables
    from aigq.serving.state import Generation, Neighbours, Suggestion, U2q, encode
    from aigq.serving.stores import open_store

    config, store, rng = load(run / "config.yaml"), open_store(url), random.Random(0)
    tables = RunTables(config, run)
    published = await publish(config, store, tables.families)
    version, day = published["version"], 86400.0
    queries = sorted(tables._allowed)
    scores = [1.0 / rank for rank in range(1, LISTED + 1)]
    pairs = (
        (keys.x2q(version, "query", f"t{i}"), encode(Neighbours(rng.sample(queries, LISTED), scores)))
        for i in range(TRIGGERS)
    )
    await put(store, pairs, day)
    categories = sorted(set(tables._prepared.category_of.values()))
    pairs = (
        (keys.x2q(version, "category", name), encode(Neighbours(rng.sample(queries, LISTED), scores)))
        for name in categories
    )
    await put(store, pairs, day)
    real = [encode(value) for _, value in tables.families(version)["base"]]
    now = time.time()

    def copies() -> Iterator[tuple[str, bytes]]:
        for i in range(users):
            name = f"b{i}"
            hints = [Suggestion(query, "fits what you look for") for query in rng.sample(queries, 20)]
            yield keys.base(version, name), real[i % len(real)]
            yield keys.u2q(name), encode(U2q([Generation("model", now, now, hints)]))

    await put(store, copies(), day)
    await store.close()
    return str(version)


async def put(store: Any, pairs: Iterator[tuple[str, bytes]], ttl: float) -> None:
    """Write pairs, some thousand at a time."""
    batch: dict[str, bytes] = {}
    for key, value in pairs:
        batch[key] = value
        if len(batch) == 5000:
            await store.put(batch, ttl)
            batch = {}
    await store.put(batch, ttl)


@contextlib.contextmanager
def running(settings: dict[str, Any], port: int) -> Iterator[None]:
    """The server, ready."""
    environment = os.environ | {SETTINGS: json.dumps(settings | {"port": port})}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    )
    process = subprocess.Popen([sys.executable, __file__, "--serve"], env=environment)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def load(port: int, kind: str, users: int, seconds: int, wait: float = 0) -> tuple[float, float]:
    """Answers per second and p99 in ms. `wait`: mean ms that each connection rests between requests."""
    path = {"hints": "v1/hints"}.get(kind, kind)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(SCRIPT.format(users=users, wait=round(wait), kind=path))
        script.flush()
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-s", script.name]
        output = subprocess.run(
            [*command, f"http://127.0.0.1:{port}"], check=True, capture_output=True, text=True
        ).stdout
    if "Non-2xx" in output:
        raise SystemExit(f"{kind}: not every answer was 200\n{output}")
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])
    amount, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", output).groups()
    return rate, float(amount) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def left_out(port: int) -> float:
    """Channels and rankings that answers did without."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    return sum(
        float(v) for v in re.findall(r"^aigq_(?:channel_left_out|shed)_total\S* ([\d.e+]+)$", text, re.M)
    )


def measure(settings: dict[str, Any], users: int) -> dict[str, dict[str, float]]:
    """Rate at full load, then p99 at half of that rate, of each kind of answer."""
    found: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with running(settings | {"kind": kind}, port):
            load(port, kind, users, 3)  # warm
            rate, _ = load(port, kind, users, SECONDS)
            half, p99 = load(port, kind, users, SECONDS, wait=2000 * CONNECTIONS / rate)
            found[kind] = {"rate": rate, "half": half, "p99": p99}
            if kind == "hints":
                found[kind]["left_out"] = left_out(port)
        print(kind, {name: round(value, 2) for name, value in found[kind].items()}, flush=True)
    return found


def row(store: str, users: int, candidates: int, found: dict[str, dict[str, float]]) -> dict[str, Any]:
    """One row of the results."""
    echo, read, hints = (found[kind] for kind in KINDS)
    return {
        "store": store,
        "users": users,
        "candidates": candidates,
        "rps": round(hints["rate"]),
        "echo_rps": round(echo["rate"]),
        "store_read_rps": round(read["rate"]),
        "p99_ms_at_half": round(hints["p99"], 2),
        "echo_p99_ms_at_half": round(echo["p99"], 2),
        "p99_ratio_to_echo": round(hints["p99"] / echo["p99"], 2),
        "ratio_to_echo": round(hints["rate"] / echo["rate"], 3),
        "ratio_to_store_read": round(hints["rate"] / read["rate"], 3),
        "left_out": hints["left_out"],
    }


@contextlib.contextmanager
def opened(kind: str, folder: Path) -> Iterator[str]:
    """URL of an empty store."""
    if kind == "lmdb":
        yield f"lmdb:{folder / 'store'}?map_gb=40"
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        ["redis-server", "--port", str(port), "--save", "", "--dir", str(folder)], stdout=subprocess.DEVNULL
    )
    try:
        time.sleep(1)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait(30)


def main() -> None:
    """Measure every case, print and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, default=Path("runs/journey"))
    parser.add_argument("--users", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--redis-users", type=int, nargs="*", default=[100_000])
    parser.add_argument("--candidates", type=int, nargs="*", default=[15, 30, 120])
    asked = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt install wrk")

    from aigq.config import load as read

    config = read(asked.run / "config.yaml").model_dump(mode="json")
    cases = [("redis", n) for n in asked.redis_users] + [("lmdb", n) for n in asked.users]
    start = os.getloadavg()[0]
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} shared cores, load {start:.1f}"
    result: dict[str, Any] = {"machine": machine, "rows": []}
    for kind, users in cases:
        parent = os.environ.get("AIGQ_BENCH_DIR")
        with tempfile.TemporaryDirectory(dir=parent) as folder, opened(kind, Path(folder)) as url:
            began = time.perf_counter()
            version = asyncio.run(fill(asked.run, url, users))
            print(f"{kind}: {users:,} users written in {time.perf_counter() - began:.0f} s", flush=True)
            varied = asked.candidates if (kind, users) == ("lmdb", 100_000) else []
            for candidates in [60, *varied]:
                serving = config.get("serving", {}) | SERVING | {"candidates": candidates}
                settings = {
                    "store": url, "log": f"sqlite:{folder}/events.sqlite", "version": version,
                    "config": config | {"serving": serving},
                }  # fmt: skip
                result["rows"].append(row(kind, users, candidates, measure(settings, users)))
                print(json.dumps(result["rows"][-1]), flush=True)
                RESULTS.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["--serve"] else main()
