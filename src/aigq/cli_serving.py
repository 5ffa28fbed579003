"""The verbs of the online part: publish, serve, nearline."""

import asyncio
import os
import signal
import socket
import sys
import uuid
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from aigq.cli_common import COMMON, DONE, Common, show
from aigq.errors import UsageError
from aigq.progress import note
from aigq.runs import Run
from aigq.stages import channel_of, need
from aigq.systems import GENERATORS, base, stage_of

if TYPE_CHECKING:
    from aigq.serving.nearline import Worker
    from aigq.serving.stores import Store

StoreUrl = Annotated[
    str | None,
    Parameter(
        env_var="AIGQ_STORE",
        help="lmdb:PATH, redis://[:PASSWORD@]HOST:PORT/DB, rediss://... Default: lmdb:RUN/store.",
    ),
]
LogUrl = Annotated[
    str | None,
    Parameter(
        env_var="AIGQ_LOG",
        help="sqlite:PATH, redis://... or kafka://HOST:PORT/TOPIC. Default: sqlite:RUN/events.sqlite.",
    ),
]


def publish(
    *,
    common: Common = COMMON,
    store: StoreUrl = None,
    rollback: Annotated[bool, Parameter(help="Serve the table before this one again.")] = False,
) -> int:
    """Load the run's tables into the store as a new version, and switch it on.

    Popular queries, co-click neighbours, the k-user catalogue, histories, and RUN/tables/u2q.parquet and
    x2q.parquet where they exist.
    """
    from aigq.serving.server import default_urls
    from aigq.serving.stores import need_store, open_store

    run = common.open()
    url = store or default_urls(run.folder)[0]
    if rollback:
        need_store(url)
    else:
        need(run, "prepare")
    show(asyncio.run(_publish(run, open_store(url), rollback)), None, as_json=common.json)
    return DONE


def serve(
    *,
    common: Common = COMMON,
    store: StoreUrl = None,
    log: LogUrl = None,
    host: Annotated[
        str, Parameter(help="Address; other than localhost needs serving.keys_file.")
    ] = "127.0.0.1",
    port: Annotated[int, Parameter(help="TCP port.", validator=Number(gte=1, lte=65535))] = 8080,
    workers: Annotated[int, Parameter(help="Processes.", validator=Number(gte=1))] = 1,
    demo: Annotated[
        bool, Parameter(help="Also serve a storefront to try hints in, under /demo; localhost only.")
    ] = False,
) -> int:
    """Serve hints over HTTP and take events in. Ends on SIGTERM or Ctrl-C after the running requests."""
    from aigq.serving.server import default_urls, run

    opened = common.open()
    default_store, default_log = default_urls(opened.folder)
    urls = (store or default_store, log or default_log)
    run(opened.config, *urls, host=host, port=port, workers=workers, demo=demo)
    return DONE


def nearline(
    *,
    common: Common = COMMON,
    store: StoreUrl = None,
    log: LogUrl = None,
    metrics_port: Annotated[
        int | None,
        Parameter(help="Serve Prometheus metrics on this port.", validator=Number(gte=1, lte=65535)),
    ] = None,
    metrics_host: Annotated[
        str, Parameter(help="Address of that port; metrics name no shoppers.")
    ] = "127.0.0.1",
) -> int:
    """Write new lists for shoppers soon after they did something that matters. Start as many as needed."""
    from aigq.serving import logs, tracing
    from aigq.serving.server import default_urls

    run = common.open()
    need(run, "prepare")
    default_store, default_log = default_urls(run.folder)
    logs.configure(run.config.serving.log_format)
    tracing.start("aigq-nearline")
    if metrics_port is not None:
        _serve_metrics(metrics_host, metrics_port)
    worker, close = _worker(run, store or default_store, log or default_log)
    asyncio.run(_until_stopped(worker, close))
    return DONE


def _serve_metrics(host: str, port: int) -> None:
    from prometheus_client import start_http_server

    try:
        start_http_server(port, host)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}, port {port}: {error.strerror}; see --metrics-port"
        ) from None


async def _publish(run: Run, store: "Store", rollback: bool) -> dict[str, Any]:
    from aigq.serving import publish as work
    from aigq.serving.keys import base as base_key
    from aigq.serving.keys import user_names
    from aigq.serving.run_tables import RunTables
    from aigq.serving.users import erased_at

    try:
        if rollback:
            return await work.rollback(run.config, store)
        tables = RunTables(run.config, run.folder, user_names(run.config.serving.hash_users_with))
        names = tables.users()
        gone = set(await erased_at(store, names))
        done = await work.publish(run.config, store, lambda version: tables.families(version, gone))
        # whoever was erased since: a version is out of an erasure's reach until it is switched on
        late = set(await erased_at(store, names)) - gone
        await store.delete([base_key(done["version"], name) for name in late])
        return done
    finally:
        await store.close()


def _worker(run: Run, store_url: str, log_url: str) -> tuple["Worker", Any]:
    """The worker, with its model loaded, and what closes its connections."""
    from aigq.generation import version_of
    from aigq.prepared import Prepared
    from aigq.serving.keys import user_names
    from aigq.serving.live_history import Histories
    from aigq.serving.nearline import Worker
    from aigq.serving.stores import open_store, shown
    from aigq.serving.streams import open_log

    system = run.config.serving.nearline.system
    if base(system) in GENERATORS:
        need(run, stage_of(base(system)))
    prepared = Prepared.load(run.folder / "prepared")
    with redirect_stdout(sys.stderr):
        channel = channel_of(run, system)
        channel.fit(prepared)
    histories = Histories(prepared, user_names(run.config.serving.hash_users_with))
    store, log = open_store(store_url), open_log(log_url)
    name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
    model = version_of(run, system)
    worker = Worker(run.config, store, log, histories, channel.recommend, model, name)
    note(f"nearline worker {name} with {model}; store {shown(store_url)}, log {shown(log_url)}")

    async def close() -> None:
        await store.close()
        await log.close()

    return worker, close


async def _until_stopped(worker: "Worker", close: Any) -> None:
    from aigq.serving import tracing

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with tracing.running():
        try:
            await worker.run(stop)
        finally:
            await close()
