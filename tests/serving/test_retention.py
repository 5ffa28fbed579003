"""The service keeps the log to `serving.log_days`, whether or not a worker runs."""

import asyncio
import time

import pytest
from litestar.testing import TestClient
from serving_helpers import config, wait_for

from aigq.serving.app import create_app
from aigq.serving.service import Service
from aigq.serving.stores.memory import MemoryStore
from aigq.serving.streams import Message, open_log
from aigq.serving.streams.embedded import SqliteLog
from aigq.serving.streams.log import PARTITIONS, partition_of

DAY = 86400.0


@pytest.fixture(params=["sqlite", "redis"])
def kept(request, tmp_path):
    """URL of a log, and what writes an event of so many days ago into it."""
    if request.param == "sqlite":
        path = tmp_path / "events.sqlite"
        return f"sqlite:{path}", lambda user, days: _into_file(path, user, days)
    server = request.getfixturevalue("redis_server")
    return request.getfixturevalue("redis_url"), lambda user, days: _into_server(server, user, days)


def _into_file(path, user, days):
    async def work():
        log = SqliteLog(path, lambda: time.time() - days * DAY)
        await log.append([Message(user, b"event")])
        await log.close()

    asyncio.run(work())


def _into_server(server, user, days):
    """With the number that the server would have given it then."""
    at = time.time() - days * DAY
    stream = f"{{aigq:log}}:{partition_of(user)}"
    server.cli("xadd", stream, f"{int(at * 1000)}-0", "u", user, "b", "event")


def users_of(url, work=None):
    async def main():
        log = open_log(url)
        if work is not None:
            await work(log)
        users = [message.user async for message in log.dump()]
        waiting = [r.user for r in await log.read("nearline", list(range(PARTITIONS)), 99, {})]
        await log.close()
        return sorted(users), sorted(waiting)

    return asyncio.run(main())


def test_old_events_go_without_a_worker_and_what_a_worker_has_not_taken_stays(kept):
    url, write = kept
    write("u1", 8)
    write("u2", 6)
    users_of(url, lambda log: log.lease("nearline", "registered", 60))
    with TestClient(create_app(Service(config(log_days=7), MemoryStore(), open_log(url)))) as client:
        event = {"action_name": "search", "user_id": "u3", "user_query": "sled"}
        assert client.post("/v1/events", json=event).status_code == 202
        wait_for(lambda: "u1" not in users_of(url)[0], 5)
    assert users_of(url) == (["u2", "u3"], ["u2", "u3"])
