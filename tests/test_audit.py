"""tools/audit.py against a real pip-audit, which asks an advisory service on this machine."""

import importlib.util
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
VULNERABLE = {
    "id": "PYSEC-2026-1",
    "aliases": ["CVE-2026-0001"],
    "affected": [
        {
            "package": {"name": "redis", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}],
        }
    ],
}


class Service(BaseHTTPRequestHandler):
    """The protocol of osv.dev: one vulnerability, of redis."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        found = {"vulns": [VULNERABLE]} if asked["package"]["name"] == "redis" else {}
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        return


@pytest.fixture(scope="module")
def audit():
    spec = importlib.util.spec_from_file_location("audit", ROOT / "tools" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def service():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield ["-s", "osv", "--osv-url", f"http://127.0.0.1:{server.server_port}/v1/query"]
    server.shutdown()


@pytest.fixture
def answer(audit, tmp_path, monkeypatch, capsys):
    """Exit code and output, with a list of accepted vulnerabilities of its own."""
    requirements = tmp_path / "constraints.txt"
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    requirements.write_text("\n".join(line for line in pinned if line.startswith(("redis=", "pyyaml="))))

    def run(accepted, *options):
        (tmp_path / "accepted.yaml").write_text(accepted)
        monkeypatch.setattr(audit, "ACCEPTED", tmp_path / "accepted.yaml")
        monkeypatch.setattr(audit, "ROOT", tmp_path)
        return audit.main(options), capsys.readouterr().out

    return run


def test_a_vulnerability_fails(answer, service):
    code, out = answer("", *service)
    assert code == 1
    assert "audited 2 of 2 packages" in out
    assert "PYSEC-2026-1, CVE-2026-0001, fixed in 99.0" in out
    assert "FAILED" in out


def test_an_accepted_one_does_not_and_an_old_entry_is_named(answer, service):
    code, out = answer("CVE-2026-0001: only servers with it\nCVE-2020-1: gone\n", *service)
    assert code == 0
    assert "accepted: redis" in out
    assert "only servers with it" in out
    assert "lists CVE-2020-1, which is not found any more" in out


@pytest.mark.parametrize(("options", "code"), [((), 0), (("--required",), 1)])
def test_a_service_that_is_away_is_told(answer, options, code):
    away = ["-s", "osv", "--osv-url", "http://127.0.0.1:1/v1/query"]
    found, out = answer("", *options, *away)
    assert found == code
    assert "audit: NOT DONE" in out
    assert "no vulnerability" not in out


def test_packages_that_the_service_does_not_know_are_no_good_news(audit):
    skipped = {"name": "redis", "skip_reason": "Dependency not found on PyPI"}
    asked = {"name": "pyyaml", "version": "6.0", "vulns": []}
    assert audit.judge({"dependencies": [skipped]}, {}).well is None
    verdict = audit.judge({"dependencies": [skipped, asked]}, {})
    assert verdict.well is True
    assert "not audited: Dependency not found on PyPI" in verdict.lines


def test_every_accepted_vulnerability_has_a_reason(audit):
    accepted = yaml.safe_load((ROOT / ".ci" / "accepted-vulnerabilities.yaml").read_text()) or {}
    assert all(isinstance(reason, str) and len(reason) > 20 for reason in accepted.values())
