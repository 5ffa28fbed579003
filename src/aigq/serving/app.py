"""The HTTP API: hints, events, erasure, health, metrics. Litestar and msgspec; no torch in the process."""

import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import unquote

import msgspec
from litestar import Litestar, MediaType, Request, Response, Router, delete, get, post
from litestar.config.cors import CORSConfig
from litestar.dto import AbstractDTO
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.params import Parameter
from litestar.types import ASGIApp, Middleware, Receive, Scope, Send
from litestar.typing import FieldDefinition
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest, multiprocess

from aigq import __version__
from aigq.config_serving import MOST_HINTS
from aigq.serving import tracing, users
from aigq.serving.access import Refused, Role
from aigq.serving.catalog import current
from aigq.serving.events import EventError, UbiEvent, read_event, shopper, split
from aigq.serving.hints import Ask
from aigq.serving.metrics import REJECTED, REQUESTS, SECONDS, SHED
from aigq.serving.service import Service
from aigq.serving.state import Event
from aigq.serving.stores import StoreError
from aigq.serving.streams import LogError

INLINE_EVENTS: Final = 20
_LOGGER: Final = logging.getLogger("aigq.serving")
_LATE: Final = "the user was erased after this event"
_ANSWERED: Final = REQUESTS.labels("hints", "200")
_JSON: Final = (b"content-type", b"application/json")
_encode: Final = msgspec.json.Encoder().encode
T = TypeVar("T")

Name = Annotated[str | None, Parameter(max_length=256)]


class Hint(msgspec.Struct):
    """One hint: what to show, where it came from, and why."""

    query: str
    position: int
    channel: str
    reason: str


class HintsAnswer(msgspec.Struct):
    """Hints by position. Send `request_id` back as `query_id` of events about them."""

    request_id: str
    hints: list[Hint]


class Rejection(msgspec.Struct):
    """An event of a batch that was not taken."""

    index: int
    reason: str


class EventsAnswer(msgspec.Struct):
    """How many events were taken, and which were not."""

    accepted: int
    rejected: list[Rejection]


class Erased(msgspec.Struct):
    """How many keys and messages were removed; for how many days the log keeps what it cannot remove."""

    removed: int
    log_kept_days: float


class Health(msgspec.Struct):
    """`ok`, or what is missing."""

    status: str
    version: str
    table: str = ""


class Problem(msgspec.Struct):
    """Every error: a status and one sentence."""

    status_code: int
    detail: str


class Ready(Response[T]):
    """An answer in JSON. Litestar's own responses cost as much as an echo, for settings that are not used."""

    def __init__(self, content: T) -> None:
        self._body = _encode(content)

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIApp:  # type: ignore[override]
        """The answer as it is."""
        return self._send

    async def _send(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [_JSON, (b"content-length", b"%d" % len(self._body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._body, "more_body": False})


def _needs(role: Role) -> Callable[[Request[Any, Any, Any]], Awaitable[None]]:
    # before_request, since Litestar copies the route for each call of a guard; async, since others are run in
    # a thread
    async def check(request: Request[Any, Any, Any]) -> None:
        access = service(request).access
        if access.open:
            _check_page(request)
        else:
            access.check(_secret(request), role)

    return check


def _check_page(request: Request[Any, Any, Any]) -> None:
    """Without keys, a page of anybody that is open in a browser on this machine could post events.

    Reading the answer is what CORS prevents; sending a text, it does not. Raises Refused with 403.
    """
    origin, cors = request.headers.get("origin"), request.app.cors_config
    if origin is None or origin.partition("://")[2] == request.headers.get("host"):
        return
    if cors is None or not cors.is_origin_allowed(origin):
        raise Refused(403, f"without API keys, pages of {origin} may not call: see serving.cors_origins")


def _secret(request: Request[Any, Any, Any]) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key")


class _Unread(AbstractDTO[bytes]):
    """The body as it came, described as events. Read by Litestar, one bad event would refuse a whole list."""

    @classmethod
    def create_for_field_definition(cls, *_: Any, **__: Any) -> None:
        """Nothing is generated."""

    @classmethod
    def create_openapi_schema(
        cls, field_definition: FieldDefinition, handler_id: str, schema_creator: Any
    ) -> Any:
        """One event or a list of them."""
        return schema_creator.for_field_definition(FieldDefinition.from_annotation(UbiEvent | list[UbiEvent]))

    def decode_bytes(self, value: bytes) -> bytes:
        """The bytes."""
        return value


def service(connection: Any) -> Service:
    """The service of a request."""
    found: Service = connection.app.state.service
    return found


_PROBLEMS: Final = {
    status: ResponseSpec(Problem, description=text, generate_examples=False)
    for status, text in {
        400: "The request is wrong.",
        401: "No valid API key.",
        403: "The API key lacks the role; without keys, the calling page is of another origin.",
        413: "The body is too large.",
        414: "The address is too long.",
        429: "Too many requests.",
        503: "The event log or the store is away, or too many events came at a time.",
    }.items()
}


@get("/v1/hints", before_request=_needs("read"), responses=_PROBLEMS, summary="Hints for a shopper")
async def get_hints(
    request: Request[Any, Any, Any],
    user: Name = None,
    session: Name = None,
    surface: Name = None,
    n: Annotated[int, Parameter(ge=1, le=MOST_HINTS, description="hints, at most")] = 10,
    locale: Annotated[str | None, Parameter(max_length=35)] = None,
    events: Annotated[
        str | None, Parameter(max_length=4000, description="JSON list of UBI events that just happened")
    ] = None,
) -> Ready[HintsAnswer]:
    """At most n hints. Without a user and a session: what is popular."""
    here, start = service(request), time.perf_counter()
    who = shopper(user, session)
    name = here.name(who) if who else None
    inline = _inline(events, here.name, name) if events else []
    n = min(n, here.config.serving.max_hints)
    answer = await here.hints.answer(Ask(name, n, surface, locale, inline))
    here.impressions.add(name or "", answer.request_id, answer.hints, surface)
    SECONDS.observe(time.perf_counter() - start)
    _ANSWERED.inc()
    hints = [Hint(h.query, place, h.channel, h.reason) for place, h in enumerate(answer.hints, start=1)]
    return Ready(HintsAnswer(answer.request_id, hints))


@post(
    "/v1/events",
    before_request=_needs("write"),
    responses=_PROBLEMS,
    status_code=202,
    summary="Events of shoppers",
    dto=_Unread,
    return_dto=None,
)
async def post_events(request: Request[Any, Any, Any], data: bytes) -> EventsAnswer:
    """One UBI 1.3.0 event or a list of them. Taken events are on disk when this returns."""
    here, now = service(request), time.time()
    if here.taking >= here.config.serving.max_in_flight:
        SHED.labels("events").inc()
        raise Refused(503, "too many events at a time; send it again")
    several = data.lstrip().startswith(b"[")
    batch = split(data) if several else [data]
    if len(batch) > here.config.serving.max_events:
        raise Refused(413, f"at most {here.config.serving.max_events} events in one request")
    good: dict[int, Event] = {}
    rejected: list[Rejection] = []
    for index, raw in enumerate(batch):
        try:
            good[index] = read_event(raw, now, here.name)
        except EventError as error:
            rejected.append(Rejection(index, str(error)))
            REJECTED.labels("event").inc()
    taken = await here.take(list(good.values()))
    late = [Rejection(index, _LATE) for index, new in zip(good, taken, strict=True) if not new]
    REJECTED.labels("erased").inc(len(late))
    rejected = sorted([*rejected, *late], key=lambda each: each.index)
    if rejected and not several:
        raise Refused(400, rejected[0].reason)
    REQUESTS.labels("events", "202").inc()
    return EventsAnswer(sum(taken), rejected)


@delete(
    "/v1/users/{user:path}",
    before_request=_needs("admin"),
    responses=_PROBLEMS,
    status_code=200,
    summary="Erase a shopper",
)
async def delete_user(
    request: Request[Any, Any, Any],
    user: Annotated[str, Parameter(description="the id, percent-encoded; it may have slashes")],
) -> Erased:
    """Remove a shopper from store and log. A session without a user is called `session:ID`.

    From a Kafka log nothing can be removed singly: what is in it is not used any more, and goes with time.
    """
    here = service(request)
    # as it was sent: `user` has a slash in front, and lost those at its end and double ones
    raw = request.scope["raw_path"].partition(b"/v1/users/")[2]
    name = here.name(unquote(raw))
    removed, kept = await users.erase(here.store, here.log, name)
    REQUESTS.labels("users", "200").inc()
    return Erased(removed, here.config.serving.log_days if kept else 0.0)


@get("/healthz", summary="The process lives")
async def healthz() -> Health:
    """Always 200."""
    return Health("ok", __version__)


@get("/readyz", responses={503: _PROBLEMS[503]}, summary="Hints can be served from a table")
async def readyz(request: Request[Any, Any, Any]) -> Health:
    """503 while the store is away or nothing was published. Requests for hints are answered even then."""
    here = service(request)
    try:
        pointer = await current(here.store)
    except StoreError as error:
        raise Refused(503, "the store does not answer") from error
    if pointer is None or not here.catalogs.now.version:
        raise Refused(503, "no table is published; run `aigq publish`")
    return Health("ok", __version__, here.catalogs.now.version)


@get("/metrics", before_request=_needs("admin"), media_type=MediaType.TEXT, include_in_schema=False)
async def metrics() -> Response[bytes]:
    """Prometheus text of all processes of this service."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def create_app(
    here: Service, others: Sequence[Router] = (), middleware: Sequence[Middleware] = ()
) -> Litestar:
    """The ASGI application of a service, with `others` beside the API and `middleware` before all."""
    serving = here.config.serving
    app = Litestar(
        [get_hints, post_events, delete_user, healthz, readyz, metrics, *others],
        lifespan=[tracing.running, here.running],
        middleware=[*middleware, *([tracing.requests] if tracing.wanted() else [])],
        request_max_body_size=serving.max_body_kb * 1024,
        cors_config=_cors(serving.cors_origins),
        openapi_config=OpenAPIConfig("aigq", __version__, render_plugins=[JsonRenderPlugin()]),
        exception_handlers={
            Refused: _refused,
            EventError: _no_events,
            HTTPException: _http_error,
            LogError: _away,
            StoreError: _away,
            Exception: _unexpected,
        },
        logging_config=None,
        debug=False,
    )
    app.state.service = here
    return app


def _cors(origins: list[str]) -> CORSConfig | None:
    if not origins:
        return None
    return CORSConfig(
        allow_origins=origins,
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type", "x-api-key"],
    )


def _inline(text: str, name: Callable[[str], str], user: str | None) -> list[Event]:
    """The events of the query parameter, oldest first. Raises Refused with 400."""
    try:
        batch = split(text)
        if len(batch) > INLINE_EVENTS:
            raise Refused(400, f"at most {INLINE_EVENTS} events in the parameter events")
        now = time.time()
        return [read_event(raw, now, name, user or "") for raw in batch]
    except EventError as error:
        raise Refused(400, f"the parameter events: {error}") from None


def _problem(request: Request[Any, Any, Any], status: int, detail: str) -> Response[Problem]:
    path = str(request.scope.get("path_template", ""))
    REQUESTS.labels(path.removeprefix("/v1/").partition("/")[0] or "other", str(status)).inc()
    headers = {"retry-after": "1"} if status in (429, 503) else {}
    return Response(Problem(status, detail), status_code=status, headers=headers, media_type=MediaType.JSON)


def _refused(request: Request[Any, Any, Any], error: Refused) -> Response[Problem]:
    return _problem(request, error.status, error.detail)


def _no_events(request: Request[Any, Any, Any], error: EventError) -> Response[Problem]:
    return _problem(request, 400, str(error))


def _http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    """Litestar's own refusals: no such path, wrong method, a parameter or a body that does not fit."""
    extra = error.extra
    where = (
        [str(e.get("message", "")) for e in extra if isinstance(e, dict)] if isinstance(extra, list) else []
    )
    response = _problem(request, error.status_code, "; ".join([error.detail, *where]))
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


def _away(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    _LOGGER.warning("%s", error)
    return _problem(request, 503, "the service cannot keep this now; send it again")


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """The caller learns nothing of the inside; the log has the traceback."""
    _LOGGER.error("a request failed", exc_info=error)
    return _problem(request, 500, "internal error")
