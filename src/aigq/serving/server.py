"""`aigq serve`: granian processes around the ASGI application."""

import asyncio
import ipaddress
import json
import os
import re
import signal
import socket
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Final

from aigq.config import Config, parse
from aigq.errors import UsageError
from aigq.progress import note
from aigq.serving import logs, tracing
from aigq.serving.access import Refused, read_keys

_SETTINGS: Final = "AIGQ_SERVE"
"""How the parent tells its processes what to serve: they are started anew and import this module."""

_DRAIN_S: Final = 10


def run(
    config: Config, store: str, log: str, *, host: str, port: int, workers: int, demo: bool = False
) -> None:
    """Serve until SIGTERM or Ctrl-C; running requests are finished, impressions are written.

    Args:
        config: the run's config.
        store: URL of the store.
        log: URL of the event log.
        host: address to listen on; other than localhost needs `serving.keys_file`.
        port: TCP port.
        workers: processes.
        demo: also serve the storefront of `aigq.serving.demo`.

    Raises:
        UsageError: a wrong URL, keys file or word file, a public address without keys, or a demo for others.
    """
    if workers > 1:
        # prometheus-client adds up the processes' counters in a folder; it must be known before it is
        # imported
        os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", tempfile.mkdtemp(prefix="aigq-metrics-"))
    check(config, store, log, host, port, workers)
    if demo:
        _check_demo(config, host)
    settings = {"config": config.model_dump(mode="json"), "store": store, "log": log, "demo": demo}
    os.environ[_SETTINGS] = json.dumps(settings)
    from granian import Granian
    from granian.constants import Interfaces
    from granian.log import LogLevels

    logs.configure(config.serving.log_format)
    note(f"aigq serves http://{host}:{port}/v1/hints, {workers} process{'es' if workers > 1 else ''}")
    if demo:
        note(f"the storefront: http://{host}:{port}/demo/")
    # until a process listens to signals it has the parent's handler, which does nothing there: told to stop
    # while it loads, it would be waited for and killed
    os.register_at_fork(after_in_child=partial(signal.signal, signal.SIGTERM, signal.SIG_DFL))
    Granian(
        "aigq.serving.server:create",
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        workers=workers,
        factory=True,
        websockets=False,
        backlog=2048,
        respawn_failed_workers=True,
        workers_kill_timeout=_DRAIN_S,
        log_level=LogLevels.warning,
        log_dictconfig=logs.GRANIAN,
    ).serve()


def check(config: Config, store: str, log: str, host: str, port: int, workers: int) -> None:
    """What would make a process fail, or serve nothing, while the caller can still see it."""
    from aigq.serving.guards import Guards
    from aigq.serving.keys import user_names

    if workers > 1 and "memory:" in (store, log):
        raise UsageError("memory: is one process only; use lmdb:PATH and sqlite:PATH, or redis://")
    if read_keys(config.serving.keys_file) is None and not _is_local(host):
        raise UsageError(
            f"to listen on {host}, set serving.keys_file; without API keys only 127.0.0.1 is served"
        )
    user_names(config.serving.hash_users_with)
    Guards(config.serving)
    tracing.wanted()
    _check_free(host, port)
    asyncio.run(_look(store, log))


def _check_demo(config: Config, host: str) -> None:
    serving = config.serving
    if not _is_local(host) or serving.keys_file is not None or serving.hash_users_with is not None:
        raise UsageError(
            "--demo shows shoppers' histories to whoever opens it: it serves localhost only, without "
            "serving.keys_file and serving.hash_users_with"
        )


def _check_free(host: str, port: int) -> None:
    """Raise UsageError where nobody can listen: granian would share the port with another granian."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # old connections may linger
            probe.bind(address)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}, port {port}: {error.strerror}; see --port") from None


async def _look(store: str, log: str) -> None:
    """Open both once, and say so where there is nothing to serve yet."""
    from aigq.serving.catalog import current
    from aigq.serving.stores import StoreError, open_store, shown
    from aigq.serving.streams import open_log

    opened = open_store(store)
    try:
        if await current(opened) is None:
            note(f"no table is published in {shown(store)}: hints are empty until `aigq publish`")
    except StoreError as error:
        note(f"{error}; hints are empty until it is back")
    finally:
        await opened.close()
    await open_log(log).close()


def create() -> Any:
    """The application of one process, from the settings that `run` left in the environment."""
    from aigq.serving.app import create_app
    from aigq.serving.demo import routes
    from aigq.serving.service import Service
    from aigq.serving.stores import open_store
    from aigq.serving.streams import open_log

    settings = json.loads(os.environ[_SETTINGS])
    config = parse(settings["config"])
    logs.configure(config.serving.log_format)
    tracing.start("aigq-serve")
    api_keys = read_keys(config.serving.keys_file)
    service = Service(config, open_store(settings["store"]), open_log(settings["log"]), api_keys)
    if settings["demo"]:
        return create_app(service, routes(service), [local_names])
    return create_app(service)


def local_names(app: Any) -> Any:
    """ASGI middleware of the demo: a call must name this machine as its host.

    A page of anybody whose own name is made to lead to 127.0.0.1 (DNS rebinding) could read all histories.
    """

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
        if not _is_local(re.sub(r":\d+$", "", host).strip("[]")):
            raise Refused(403, f"--demo answers to localhost and 127.0.0.1, not to {host!r}")
        await app(scope, receive, send)

    return middleware


def default_urls(run_folder: Path) -> tuple[str, str]:
    """The embedded store and log of a run folder."""
    return f"lmdb:{run_folder}/store", f"sqlite:{run_folder}/events.sqlite"


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
