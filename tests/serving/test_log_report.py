"""`aigq doctor --events`: what waits for the worker, what it set aside; Redis and Kafka are real servers."""

import asyncio
import json

import pytest
from serving_helpers import aigq

from aigq.serving.nearline import GROUP
from aigq.serving.streams import Message, open_log
from aigq.serving.streams.log import PARTITIONS


@pytest.fixture(params=["sqlite", "redis", "kafka"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'events.sqlite'}"
    return request.getfixturevalue(f"{request.param}_url")


def checks_of(url):
    return json.loads(aigq("doctor", "--events", url, "--json").stdout)["checks"]


async def fill(url, bodies):
    """Append events, set all but the last aside: two of three for one reason."""
    log = open_log(url)
    try:
        await log.append([Message(f"u{i}", body) for i, body in enumerate(bodies)])
        records = await log.read(GROUP, list(range(PARTITIONS)), 99, {})
        for record in sorted(records, key=lambda record: record.user)[:-1]:
            await log.set_aside(record, "no list" if record.user == "u0" else "not an event: [broken]")
    finally:
        await log.close()


def test_what_was_set_aside_is_told_by_reason(url):
    asyncio.run(open_log(url).close())
    assert [c["detail"] for c in checks_of(url)[1:]] == ["nothing"]
    asyncio.run(fill(url, [b"first", b"\xc1", b"x" * 500, b"good"]))
    events, *aside = checks_of(url)
    assert ": 4 wait for the worker, the oldest for " in events["detail"]
    assert "s3cret" not in events["detail"]
    assert [(c["name"], c["status"]) for c in aside] == [("set aside", "warning")] * 2
    broken, no_list = (c["detail"] for c in aside)
    assert broken.startswith("2 times not an event: [broken]; latest 20")
    assert ", user u2: 'xxxx" in broken
    assert broken.endswith("x'…")
    assert len(broken) < 250
    assert no_list.startswith("1 times no list; latest 20")
    assert no_list.endswith(", user u0: 'first'")
    assert "[broken]" in aigq("doctor", "--events", url).stdout


def test_a_log_that_does_not_answer_and_one_that_is_none():
    done = aigq("doctor", "--events", "redis://:pw@127.0.0.1:1/0", check=False)
    assert (done.returncode, "failed" in done.stdout, "pw" in done.stdout) == (1, True, False)
    done = aigq("doctor", "--events", "csv:here", check=False)
    assert (done.returncode, "no log has the scheme 'csv'" in done.stderr) == (2, True)


def test_a_mistyped_folder_is_no_empty_store(tmp_path):
    path = tmp_path / "runs" / "stor"
    done = aigq("doctor", "--store", f"lmdb:{path}", check=False)
    assert (done.returncode, f"no store at {path}" in done.stderr) == (2, True)
    assert not path.parent.exists()


def test_a_mistyped_file_is_no_empty_log(tmp_path):
    path = tmp_path / "runs" / "evens.sqlite"
    done = aigq("doctor", "--events", f"sqlite:{path}", check=False)
    assert (done.returncode, f"no event log at {path}" in done.stderr) == (2, True)
    assert not path.parent.exists()
