"""Traces of real processes, sent to a receiver of OTLP over HTTP on this machine."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from serving_helpers import Process, aigq, serving, wait_for

SHOPPER, QUERY = "shopper-7351", "very rare words"
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Receiver(ThreadingHTTPServer):
    """Keeps the spans that arrive at /v1/traces, as (service, span)."""

    def __init__(self):
        self.spans, self.bodies = [], []
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def named(self, name):
        return [span for _, span in self.spans if span.name == name]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        assert self.path == "/v1/traces"
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.bodies.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.server.spans += [(attributes["service.name"], span) for span in scope.spans]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        return


@pytest.fixture
def receiver(monkeypatch):
    server = Receiver()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    yield server
    server.shutdown()


@pytest.fixture
def published(shop_run, tmp_path):
    options = ["--run", shop_run.folder, "--store", f"lmdb:{tmp_path}/store?map_gb=1"]
    aigq("publish", *options)
    return [*options, "--log", f"sqlite:{tmp_path}/log.sqlite"]


def attributes(span):
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


def test_request_reading_and_ranking_are_spans_without_shoppers(published, receiver):
    with serving(*published) as (client, server):
        caller = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
        inline = json.dumps([{"action_name": "search", "user_query": QUERY}])
        ask = {"user": SHOPPER, "events": inline}
        assert client.get("/v1/hints", params=ask, headers=caller).status_code == 200
        assert client.delete(f"/v1/users/{SHOPPER}").status_code == 200
        assert client.get("/healthz").status_code == 200
        assert server.stop() == 0  # what is not sent yet is sent now
    (request,) = receiver.named("GET /v1/hints")
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, CALLER)
    assert attributes(request) == {
        "http.request.method": "GET",
        "http.route": "/v1/hints",
        "http.response.status_code": 200,
    }
    of_request = [span for _, span in receiver.spans if span.parent_span_id == request.span_id]
    assert {span.name for span in of_request} == {"store.get", "rank"}
    assert all(
        request.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        for span in of_request
    )
    assert {service for service, _ in receiver.spans} == {"aigq-serve"}
    assert receiver.named("DELETE /v1/users/{user}")
    assert not [span for _, span in receiver.spans if "health" in span.name]
    sent = b"".join(receiver.bodies)
    assert SHOPPER.encode() not in sent
    assert QUERY.encode() not in sent


def test_the_worker_traces_its_batches(published, receiver, monkeypatch):
    with serving(*published, "--set", "serving.refresh_s=0.1") as (client, _):
        event = {"action_name": "search", "user_id": "u00", "user_query": "sled"}
        assert client.post("/v1/events", json=event).status_code == 202
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    worker = Process("nearline", *published)
    wait_for(lambda: receiver.named("nearline.lists"))
    assert worker.stop() == 0
    assert "ours" in {service for service, _ in receiver.spans}


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "x", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_nothing_is_imported_unless_configured(variables, monkeypatch):
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code = (
        "import sys, aigq.serving.app, aigq.serving.server\nfrom aigq.serving import tracing\n"
        "tracing.start('x')\nwith tracing.span('y'): pass\n"
        "print(*[m for m in sys.modules if m.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_another_protocol_is_refused(published, receiver, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    done = aigq("serve", *published, check=False)
    assert (done.returncode, "OTEL_EXPORTER_OTLP_PROTOCOL" in done.stderr) == (2, True)
