"""OpenTelemetry traces of `aigq serve` and `aigq nearline`, only where the environment names a receiver.

The variables are OpenTelemetry's own: OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT) switches traces
on; OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER and the others are read by its SDK. Without them nothing
of it is imported. Litestar's own plugin is not used: it writes addresses with user ids into spans. A span of
ours holds a route, a status and times, and no exception's message.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from functools import wraps
from importlib.util import find_spec
from typing import Any, Final, TypeVar

from aigq import __version__
from aigq.errors import UsageError

Work = TypeVar("Work", bound=Callable[..., Any])
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_provider: Any = None
_tracer: Any = None


def wanted() -> bool:
    """Whether the environment asks for traces. Raises UsageError when it asks for what cannot be sent."""
    asked = (
        any(os.environ.get(name) for name in _ENDPOINTS)
        and os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true"
        and os.environ.get("OTEL_TRACES_EXPORTER", "otlp") != "none"
    )
    if not asked:
        return False
    protocol = next((os.environ[name] for name in _PROTOCOLS if os.environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        raise UsageError(f"traces are sent by http/protobuf; OTEL_EXPORTER_OTLP_PROTOCOL asks for {protocol}")
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        raise UsageError("OTEL_EXPORTER_OTLP_ENDPOINT is set, but there is no SDK: pip install 'aigq[otel]'")
    return True


def start(name: str) -> None:
    """Trace this process from here on, if the environment asks for it. `name`: unless OTEL_SERVICE_NAME."""
    global _provider, _tracer
    if not wanted():
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    os.environ.setdefault("OTEL_SERVICE_NAME", name)
    _provider = TracerProvider()
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = _provider.get_tracer("aigq", __version__)


@asynccontextmanager
async def running(_app: object = None) -> AsyncIterator[None]:
    """Sends what is left when the block ends."""
    try:
        yield
    finally:
        if _provider is not None:
            await asyncio.to_thread(_provider.shutdown)


def span(name: str, **options: Any) -> AbstractContextManager[Any]:
    """A span around the block, inside the present one."""
    if _tracer is None:
        return nullcontext()
    found: AbstractContextManager[Any] = _tracer.start_as_current_span(
        name, record_exception=False, set_status_on_exception=False, **options
    )
    return found


def traced(name: str) -> Callable[[Work], Work]:
    """Decorator of a coroutine function: each call is a span."""

    def decorate(work: Work) -> Work:
        async def inside(*args: Any, **options: Any) -> Any:
            with span(name):
                return await work(*args, **options)

        @wraps(work)
        def later(*args: Any, **options: Any) -> Any:
            return (work if _tracer is None else inside)(*args, **options)

        return later  # type: ignore[return-value]

    return decorate


def requests(app: Any) -> Any:
    """ASGI middleware: a server span per call of the API, named by its route, in the caller's trace."""

    async def middleware(scope: Any, receive: Any, send: Any) -> None:
        route = str(scope.get("path_template", ""))
        if _tracer is None or scope["type"] != "http" or not route.startswith("/v1/"):
            await app(scope, receive, send)
            return
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, StatusCode

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        about = {"http.request.method": scope["method"], "http.route": route}
        name = f"{scope['method']} {route}"
        with span(name, context=extract(headers), kind=SpanKind.SERVER, attributes=about) as request:

            async def answer(message: Any) -> None:
                if message["type"] == "http.response.start":
                    request.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        request.set_status(StatusCode.ERROR)
                await send(message)

            await app(scope, receive, answer)

    return middleware
