"""Logs of real processes whose event log is away, and tracebacks."""

import json
import logging
import re
import sys

import pytest
from serving_helpers import Process, aigq, free_port, serving, wait_for

from aigq.serving import logs

FIELDS = {"time", "level", "logger", "process", "message"}
SHOPPER, QUERY = "shopper-7351", "very rare words"


@pytest.fixture
def away(shop_run, tmp_path):
    """Options of a published run whose event log is at a port that nobody listens on."""
    options = ["--run", shop_run.folder, "--store", f"lmdb:{tmp_path}/store?map_gb=1"]
    aigq("publish", *options)
    return [*options, "--log", f"redis://127.0.0.1:{free_port()}/0", "--set", "serving.log_format=json"]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_service_writes_one_object_a_line_and_no_shopper(away, tmp_path, workers):
    errors = tmp_path / "errors.log"
    with serving(*away, "--workers", workers, errors=errors) as (client, server):
        event = {"action_name": "search", "user_id": SHOPPER, "user_query": QUERY}
        assert client.post("/v1/events", json=event).status_code == 503
        assert client.get("/v1/hints", params={"user": SHOPPER}).status_code == 200
        assert server.stop() == 0
    found = lines(errors)
    assert all(line.keys() >= FIELDS for line in found)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", line["time"]) for line in found)
    kinds = {(line["level"], line["logger"]) for line in found}
    assert {("INFO", "aigq"), ("WARNING", "aigq.serving")} <= kinds
    assert any("did not answer" in line["message"] for line in found)
    assert SHOPPER not in errors.read_text()
    assert QUERY not in errors.read_text()


def test_the_worker_writes_one_object_a_line(away, tmp_path):
    errors = tmp_path / "errors.log"
    worker = Process("nearline", *away, errors=errors)
    wait_for(lambda: errors.exists() and "did not answer" in errors.read_text())
    assert worker.stop() == 0  # the log is still away
    found = lines(errors)
    assert all(line.keys() >= FIELDS for line in found)
    assert {"aigq", "aigq.nearline"} <= {line["logger"] for line in found}


def failure():
    try:
        try:
            raise KeyError(SHOPPER)
        except KeyError as error:
            raise RuntimeError(QUERY) from error
    except RuntimeError:
        return sys.exc_info()


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_names_frames_and_types_but_no_message(form, capsys):
    before = logging.root.handlers[:], logging.root.level
    try:
        logs.configure("text")
        formatter = logs._json() if form == "json" else logging.root.handlers[0].formatter
    finally:
        logging.root.handlers[:] = before[0]
        logging.captureWarnings(False)
    record = logging.LogRecord("aigq.x", logging.ERROR, "", 1, "it failed", (), failure())
    written = formatter.format(record)
    error = json.loads(written)["error"] if form == "json" else written
    assert error.endswith("RuntimeError")
    assert error.index("KeyError") < error.index("RuntimeError")
    assert "in failure" in error
    assert SHOPPER not in written
    assert QUERY not in written


def test_other_formats_are_refused(shop_run):
    done = aigq("serve", "--run", shop_run.folder, "--set", "serving.log_format=xml", check=False)
    assert (done.returncode, "log_format" in done.stderr) == (2, True)
