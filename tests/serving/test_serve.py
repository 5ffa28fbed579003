"""`aigq serve` as real processes: granian, LMDB, SQLite, a real Redis that is stopped and started again."""

import json
import subprocess
import sys
import threading
import time

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from serving_helpers import Process, RedisServer, aigq, free_port, run, serving, wait_for

from aigq.serving.streams import open_log


def search(user, query):
    return {"action_name": "search", "user_id": user, "user_query": query}


def hints(client, **params):
    response = client.get("/v1/hints", params=params)
    assert response.status_code == 200, response.text
    return response.json()["hints"]


@pytest.fixture(scope="module")
def published(shop_run, tmp_path_factory):
    """Options of `aigq serve` for an embedded store with a table."""
    folder = tmp_path_factory.mktemp("embedded")
    options = ["--run", shop_run.folder, "--store", f"lmdb:{folder}/store?map_gb=1"]
    answer = json.loads(aigq("publish", *options, "--json").stdout)
    assert answer["families"]["base"]["keys"] == 16
    return [*options, "--log", f"sqlite:{folder}/log.sqlite"]


@pytest.fixture(scope="module")
def live(published):
    with serving(*published, "--workers", "2", "--set", "serving.deadline_ms=2000") as (client, server):
        yield client, server


def test_two_processes_serve_one_state(live):
    client, _ = live
    assert client.get("/readyz").status_code == 200
    assert hints(client, user="u00", n=3)[0]["channel"] == "personal"
    assert client.post("/v1/events", json=search("both", "sled")).status_code == 202
    for _ in range(20):  # whichever process answers
        with httpx.Client(base_url=client.base_url) as fresh:
            assert hints(fresh, user="both", n=1)[0]["reason"] == "goes with “sled”"
    text = client.get("/metrics").text
    served = [line for line in text.splitlines() if line.startswith('aigq_requests_total{route="hints"')]
    assert sum(float(line.split()[-1]) for line in served) >= 21  # of both processes


def test_no_torch_in_the_service(live):
    _, server = live
    children = subprocess.run(
        ["pgrep", "-g", str(server.process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(children) >= 3
    for pid in children:
        with open(f"/proc/{pid}/maps") as maps:
            assert "torch" not in maps.read()


def test_the_report_of_the_store(published, live):
    live[0].post("/v1/events", json=search("someone", "sled"))
    url = published[published.index("--store") + 1]
    checks = json.loads(aigq("doctor", "--store", url, "--json").stdout)["checks"]
    details = {check["name"]: check["detail"] for check in checks}
    assert details["store"].startswith(url)
    assert details["base"].startswith("16 keys")
    assert "keys" in details["live"]
    assert all(check["status"] in ("ok", "missing") for check in checks)


def test_published_again_and_rolled_back_under_load(published, live):
    client, _ = live
    answers, stop = [], threading.Event()

    def ask():
        with httpx.Client(base_url=client.base_url) as own:
            while not stop.is_set():
                answers.append(own.get("/v1/hints", params={"user": "u00", "n": 3}))

    thread = threading.Thread(target=ask)
    thread.start()
    before = client.get("/readyz").json()["table"]
    aigq("publish", *published[:4])
    wait_for(lambda: client.get("/readyz").json()["table"] != before)
    aigq("publish", *published[:4], "--rollback")
    wait_for(lambda: client.get("/readyz").json()["table"] == before)
    stop.set()
    thread.join()
    assert len(answers) > 20
    assert {answer.status_code for answer in answers} == {200}
    firsts = {answer.json()["hints"][0]["channel"] for answer in answers}
    assert firsts == {"personal"}  # no request saw a table without its users


def test_the_api_keeps_to_its_document(live):
    """schemathesis: valid and invalid calls of every operation; no 5xx, only documented answers."""
    schema = schemathesis.openapi.from_url(f"{live[0].base_url}/schema/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert {o.path for o in operations} >= {"/v1/hints", "/v1/events", "/v1/users/{user}", "/readyz"}
    for operation in operations:
        for mode in GenerationMode:
            _check(operation.as_strategy(generation_mode=mode))


def _check(cases):
    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=cases)
    def check(case):
        # an event may fit the document and still say nothing: "a click without an object" is a 400
        excluded = [positive_data_acceptance]
        if isinstance(case.body, list):  # the answer names the events that do not fit
            excluded.append(negative_data_rejection)
        case.call_and_validate(excluded_checks=excluded)

    try:
        check()
    except Unsatisfiable:
        return  # an operation without parameters has no invalid call


def test_a_graceful_end(published):
    with serving(*published) as (client, server):
        for _ in range(5):
            hints(client, user="leaving", n=2)
        assert server.stop() == 0

    async def logged():
        log = open_log(published[-1])
        records = await log.read("reader", list(range(16)), 10_000, {})
        await log.close()
        return [r for r in records if r.user == "leaving"]

    assert len(run(logged())) == 5  # also those of the last 0.2 seconds


def test_stopped_while_it_starts_it_ends_at_once(published):
    server = Process("serve", "--port", free_port(), *published, "--workers", "2")
    children = ["pgrep", "-P", str(server.process.pid)]
    wait_for(lambda: len(subprocess.run(children, capture_output=True, check=False).stdout.split()) == 2)
    begun = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begun < 8  # not when the processes are killed


def test_redis_stops_and_starts_again_under_load(shop_run, tmp_path):
    server = RedisServer(tmp_path, "--appendonly", "yes")
    options = ["--run", shop_run.folder, "--store", server.url, "--log", f"sqlite:{tmp_path}/log.sqlite"]
    try:
        aigq("publish", *options[:4])
        with serving(*options) as (client, _):
            assert hints(client, user="u00", n=1)[0]["channel"] == "personal"
            server.stop()
            answers = []
            for _ in range(30):
                start = time.monotonic()
                answers.append(hints(client, user="u00", n=1)[0]["channel"])
                assert time.monotonic() - start < 1.0
            assert set(answers) == {"popular"}
            assert client.get("/readyz").status_code == 503
            assert client.post("/v1/events", json=search("u00", "sled")).status_code == 202  # the log has it
            server.start()
            wait_for(lambda: hints(client, user="u00", n=1)[0]["channel"] == "personal")
            assert client.get("/readyz").status_code == 200
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "keys_file"),
        (["--store", "mongo://x"], "no store is called"),
        (["--log", "amqp://x"], "no log has the scheme"),
        (["--workers", "2", "--store", "memory:"], "one process only"),
        (["--workers", "0"], "workers"),
        (["--port", "99999"], "port"),
        (["--set", "serving.keys_file=nothing.yaml"], "keys file"),
        (["--set", "serving.blocklist=nothing.txt"], "cannot be read"),
        (["--set", "serving.hash_users_with=NOT_SET_ANYWHERE"], "NOT_SET_ANYWHERE"),
        (["--set", "serving.deadline=5"], "did you mean deadline_ms"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(shop_run, options, message):
    done = aigq("serve", "--run", shop_run.folder, *options, check=False)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_is_not_shared_with_another_service(shop_run, live):
    port = live[0].base_url.port
    done = aigq("serve", "--run", shop_run.folder, "--port", port, check=False)
    assert (done.returncode, f"cannot listen on 127.0.0.1, port {port}" in done.stderr) == (2, True)
    assert "aigq serves" not in done.stderr


def test_a_worker_whose_port_of_metrics_is_taken_is_wrong_use(shop_run, live):
    port = live[0].base_url.port
    done = aigq("nearline", "--run", shop_run.folder, "--metrics-port", port, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"port {port}: Address already in use; see --metrics-port" in done.stderr


def test_a_store_without_a_table_is_said_at_the_start(shop_run, tmp_path):
    errors = tmp_path / "errors"
    with serving("--run", shop_run.folder, "--store", f"lmdb:{tmp_path}/new?map_gb=1", errors=errors):
        assert f"no table is published in lmdb:{tmp_path}/new" in errors.read_text()


def test_nothing_to_roll_back_and_no_store(shop_run, tmp_path):
    options = ["--run", shop_run.folder, "--store", f"lmdb:{tmp_path}/s?map_gb=1"]
    done = aigq("publish", *options, "--rollback", check=False)
    assert (done.returncode, f"no store at {tmp_path}/s" in done.stderr) == (2, True)
    (tmp_path / "s").mkdir()
    done = aigq("publish", *options, "--rollback", check=False)
    assert (done.returncode, "no earlier table" in done.stderr) == (1, True)
    away = ["--run", shop_run.folder, "--store", "redis://127.0.0.1:1/0"]
    done = aigq("publish", *away, check=False)
    assert (done.returncode, "did not answer" in done.stderr) == (1, True)
    done = aigq("doctor", "--store", "redis://:pw@127.0.0.1:1/0", check=False)
    assert done.returncode == 1
    assert "pw" not in done.stdout


@pytest.mark.parametrize("module", ["aigq.serving.app", "aigq.serving.server", "aigq.cli_serving"])
def test_importing_the_service_loads_no_torch(module):
    code = f"import sys, {module}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "transformers", "duckdb", "ibis", "lightgbm", "pyarrow"}.isdisjoint(done.stdout.split())
