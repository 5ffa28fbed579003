import asyncio
import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import recall_shop

from aigq.config import parse
from aigq.runs import Run
from aigq.tables import BEHAVIOURS, PREPARED_TABLES

CONFIG = {
    "name": "tiny",
    "split": {"validation_from": "2026-01-31", "test_from": "2026-02-05"},
    "samples": {"k_users": 5},
    "serving": {
        "refresh_s": 0.1,
        "fallback": {"": ["gift card"], "de": ["gutschein"]},
        "nearline": {"system": "personal", "debounce_s": 0.1, "lease_s": 1.5, "count": 10},
    },
}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def listening(port: int, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens on port {port}")


class RedisServer:
    """A real redis-server process with a password."""

    password = "s3cret"

    def __init__(self, folder: Path, *options: str) -> None:
        self.port, self.folder, self.options = free_port(), folder, options
        self.url = f"redis://:{self.password}@127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--dir", str(self.folder), "--save", ""]
        command += ["--requirepass", self.password, "--loglevel", "warning", *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        listening(self.port)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)

    def cli(self, *command: str) -> str:
        program = ["redis-cli", "-p", str(self.port), "-a", self.password, "--no-auth-warning", *command]
        return subprocess.run(program, capture_output=True, text=True, check=True).stdout


class KafkaServer:
    """A real broker of Kafka's protocol, in a process of its own: noida-db, or the one of AIGQ_TEST_KAFKA."""

    def __init__(self, folder: Path) -> None:
        self.address, self.folder, self.process = os.environ.get("AIGQ_TEST_KAFKA"), folder, None
        if self.address is None:
            self.port = free_port()
            self.address = f"127.0.0.1:{self.port}"
            self.start()

    def start(self) -> None:
        import noida_db

        command = [str(Path(noida_db.__file__).parent / "noida-db"), "start", "--only", "kafka"]
        command += ["--kafka-port", str(self.port), "--data-dir", str(self.folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        listening(self.port)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)


def config(**serving):
    return parse({**CONFIG, "serving": {**CONFIG["serving"], **serving}})


def make_run(folder: Path) -> Run:
    """A run folder whose stage `prepare` is finished."""
    run, prepared = Run.open(folder, config()), recall_shop.build()
    actions = ["click" if row % 3 == 0 else "search" for row in range(prepared.behaviours.num_rows)]
    column = prepared.behaviours.schema.get_field_index("action")
    behaviours = prepared.behaviours.set_column(column, BEHAVIOURS.field("action"), pa.array(actions))
    prepared = dataclasses.replace(prepared, behaviours=behaviours)
    with run.stage("prepare"):
        (folder / "prepared").mkdir()
        for name in PREPARED_TABLES:
            pq.write_table(getattr(prepared, name), folder / "prepared" / f"{name}.parquet")
    return run


def aigq(*arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "aigq.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=check)


class Process:
    """`aigq ...` as a process of its own."""

    def __init__(self, *arguments: str, errors: Path | None = None) -> None:
        command = [sys.executable, "-m", "aigq.cli", *map(str, arguments)]
        self.errors = open(errors, "ab") if errors is not None else subprocess.DEVNULL  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stderr=self.errors, stdout=subprocess.DEVNULL, start_new_session=True
        )

    def kill(self) -> None:
        """kill -9, with its children."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(20)


@contextlib.contextmanager
def serving(*arguments: str, errors: Path | None = None):
    """`aigq serve` and a client of it."""
    port = free_port()
    server = Process("serve", "--port", port, *arguments, errors=errors)
    try:
        listening(port)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            wait_for(lambda: client.get("/healthz").status_code == 200)
            yield client, server
    finally:
        if server.process.poll() is None:
            server.stop()


def wait_for(condition, seconds: float = 20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def run(work):
    return asyncio.run(work)
