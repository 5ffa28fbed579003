"""The daily loop: what the service writes into its log becomes rows of the tables, and samples."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta

import pyarrow.parquet as pq
import pytest
from litestar.testing import TestClient
from serving_helpers import CONFIG

from aigq.cli import main
from aigq.config import parse
from aigq.errors import SourceError
from aigq.prepared import Prepared
from aigq.samples.prepare import prepare
from aigq.serving import keys
from aigq.serving.app import create_app
from aigq.serving.log_import import import_log
from aigq.serving.publish import publish
from aigq.serving.run_tables import RunTables
from aigq.serving.service import Service
from aigq.serving.state import Event, encode
from aigq.serving.stores.memory import MemoryStore
from aigq.serving.streams import Message, open_log
from aigq.sources import import_source

DAY = 86400.0
TODAY = datetime.now(UTC).date()


@pytest.fixture(params=["sqlite", "redis", "kafka"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:{tmp_path}/events.sqlite"
    return request.getfixturevalue(f"{request.param}_url")


def wrote(url, *messages):
    async def work():
        log = open_log(url)
        await log.append(messages)
        await log.close()

    asyncio.run(work())


def events(out, *actions):
    rows = pq.read_table(out / "events.parquet").to_pylist()
    return [row for row in rows if not actions or row["action"] in actions]


def titles(out):
    return {row["item_id"]: row["title"] for row in pq.read_table(out / "items.parquet").to_pylist()}


def served(shop_run, url, **serving):
    """The application over a published shop and this log."""
    config = parse({**CONFIG, "serving": {**CONFIG["serving"], **serving}})
    store, name = MemoryStore(), keys.user_names(config.serving.hash_users_with)
    asyncio.run(publish(config, store, RunTables(config, shop_run.folder, name).families))
    return TestClient(create_app(Service(config, store, open_log(url))))


def post(client, *sent):
    answer = client.post("/v1/events", json=list(sent)).json()
    assert answer["accepted"] == len(sent), answer
    return answer


def said(action, user, query=None, days_ago=0.0, **more):
    at = (time.time() - days_ago * DAY) * 1000
    return {"action_name": action, "user_id": user, "user_query": query, "timestamp": at, **more}


def loop(client):
    """Three weeks of six shoppers whom the page told of, and today's answers of the service itself."""
    for day in range(21, 0, -1):
        for n in range(6):
            user, request = f"u{n:02}", f"r{day}-{n}"
            shown = [
                said("hint_impression", user, query, day, query_id=request,
                     event_attributes={"position": {"ordinal": place}})
                for place, query in enumerate(("sled", "wool hat", "snow boots"), start=1)
            ]  # fmt: skip
            click = said("hint_click", user, ("sled", "wool hat")[n % 2], day - 0.001, query_id=request)
            search = said("search", user, click["user_query"], day - 0.001, query_id=f"{request}-search")
            item = {"event_attributes": {"object": {"object_id": f"item {n}", "description": "A Sled"}}}
            bought = said("purchase", user, None, day - 0.002, query_id=f"{request}-search", **item)
            post(client, *shown, click, search, bought)
    for n in range(6):
        answer = client.get("/v1/hints", params={"user": f"u{n:02}", "n": 4}).json()
        post(
            client, said("hint_click", f"u{n:02}", answer["hints"][1]["query"], query_id=answer["request_id"])
        )
    time.sleep(0.5)  # impressions are written together
    return answer


def test_what_was_shown_and_clicked_is_learned_from(shop_run, url, tmp_path):
    out = tmp_path / "tables"
    with served(shop_run, url) as client:
        last = loop(client)
    summary = import_log(url, out)
    assert summary.rows == summary.new_events + summary.duplicates + sum(summary.rejected.values())
    assert summary.rejected == {}
    assert summary.actions == {
        "hint_impression": 6 * (21 * 3 + 4), "hint_click": 6 * 22, "search": 6 * 21, "purchase": 6 * 21,
    }  # fmt: skip
    shown = [row for row in events(out, "hint_impression") if row["request_id"] == last["request_id"]]
    assert [row["query"] for row in sorted(shown, key=lambda row: row["position"])] == [
        hint["query"] for hint in last["hints"]
    ]
    bought = events(out, "purchase")[0]
    assert (bought["query"] is not None, bought["item_id"]) == (True, "item 0")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    again = import_log(url, out)
    assert (again.new_events, again.duplicates) == (0, summary.rows)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    split = {"validation_from": str(TODAY - timedelta(9)), "test_from": str(TODAY - timedelta(3))}
    samples = {"unit": "exposure", "k_users": 2, "train_min_history": 0, "min_history": 0}
    run = tmp_path / "run"
    prepare(parse({"name": "loop", "data": {"tables": str(out)}, "split": split, "samples": samples}), run)
    prepared = Prepared.load(run / "prepared")
    trained = prepared.split("train").to_pylist()
    assert len(trained) == 6 * 12
    assert trained[0]["shown"] == ["sled", "wool hat", "snow boots"]
    assert trained[0]["targets"] == ["sled"]
    exposures = pq.read_table(run / "prepared" / "exposures.parquet").to_pylist()
    newest = [row for row in exposures if row["shown"] == [hint["query"] for hint in last["hints"]]]
    assert [False, True, False, False] in [row["clicked"] for row in newest]


def test_hashed_users_are_known_again(shop_run, url, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "of the shop")
    name, out = keys.user_names("SECRET"), tmp_path / "tables"
    rows = [{"user_id": "u00", "ts": "2026-01-01", "action": "search", "query": "Sled", "item_id": "7"}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_source("files", tmp_path / "log.jsonl", out)
    with served(shop_run, url, hash_users_with="SECRET") as client:
        post(client, said("search", "u00", "sled"), said("search", "u01", "sled"))
    summary = import_log(url, out, hash_users_with="SECRET")
    assert {row["user_id"] for row in events(out)} == {"u00", name("u01")}
    assert (summary.events, name(name("u01")), name("u00") != "u00") == (3, name("u01"), True)


def test_a_damaged_event_is_rejected_and_what_follows_it_is_not(url, tmp_path):
    at, out = time.time() - 60, tmp_path / "tables"
    good = [Event(f"e{n}", "u", at + n, "search", "sled") for n in range(3)]
    asyncio.run(_poisoned(url, good))
    summary = import_log(url, out)
    assert (summary.events, summary.rejected["not an event"]) == (3, 4)
    contents = [row["content"] for row in pq.read_table(out / "rejected.parquet").to_pylist()]
    assert any("poison" in content for content in contents)
    before = (out / "rejected.parquet").read_bytes()
    import_log(url, out)
    assert (out / "rejected.parquet").read_bytes() == before


async def _poisoned(url, good):
    log = open_log(url)
    bodies = [
        encode(good[0]),
        b"poison",
        b"\x93",
        encode(good[1]),
        encode(Event("x", "u", 1e300, "search", "a")),
    ]
    await log.append([Message("u", body) for body in [*bodies, encode(good[2])]])
    (record,) = [r for r in await log.read("g", range(16), 99, {}) if r.body == b"poison"]
    await log.set_aside(record, "not an event")  # its dead letter is another message
    await log.set_aside(record._replace(body=b""), "no list could be written")
    await log.close()


def test_a_repeat_a_stranger_and_a_dismissal(url, tmp_path):
    at, out = time.time() - 60, tmp_path / "tables"
    shown = [("sled", "popular"), ("hat", "popular")]
    told = [
        Event("same", "u", at, "search", "sled"),
        Event("same", "u", at + 5, "search", "sled"),  # sent again, without a time of its own
        Event("r", "", at, "hint_impression", request="r", hints=shown),
        Event("d", "u", at, "hint_dismiss", "hat", request="r"),
    ]
    wrote(url, *(Message(event.user, encode(event)) for event in told))
    summary = import_log(url, out)
    assert summary.rejected == {"no user": 1, "unknown action": 1}
    (row,) = events(out)
    assert row["ts"].replace(tzinfo=UTC).timestamp() == pytest.approx(at, abs=1e-5)


def test_hints_join_an_export_whose_catalogue_stays(tmp_path):
    url, out, at = f"sqlite:{tmp_path}/log.sqlite", tmp_path / "tables", time.time() - 60
    rows = [{"user_id": "u", "ts": "2026-01-01", "action": "click", "query": "sled", "item_id": "7"}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    items = {"item_id": "7", "title": "A sled of wood", "category": ["toys", "sleds"]}
    (tmp_path / "items.jsonl").write_text(json.dumps(items) + "\n")
    columns = {"items": {"path": "items.jsonl", "title": "title", "category": "category"}}
    columns |= {name: name for name in rows[0]} | {"provenance": "constructed"}
    import_source("files", tmp_path / "log.jsonl", out, columns=columns)
    told = [
        Event("1", "u", at, "click", "sled", "7", text="sled!"),
        Event("2", "u", at, "click", "hat", "8", text="wool hat"),
        Event("3", "u", at, "hint_impression", request="r", hints=[("sled", "x2q")]),
        Event("4", "u", at + 1, "hint_click", "sled", request="r", position=1),
        Event("5", "u", at, "click", "hat", "9"),
    ]
    wrote(url, *(Message(event.user, encode(event)) for event in told))
    assert import_log(url, out, hints_only=True).actions == {
        "click": 1,
        "hint_click": 1,
        "hint_impression": 1,
    }
    summary = import_log(url, out)
    assert (summary.events, summary.provenance) == (6, "constructed")
    assert titles(out) == {"7": "A sled of wood", "8": "wool hat", "9": None}
    wrote(url, Message("u", encode(Event("6", "u", at + 2, "click", "hat", "9", text="red hat"))))
    import_log(url, out)
    assert titles(out) == {"7": "A sled of wood", "8": "wool hat", "9": "red hat"}
    about = (out / "import.json").read_bytes()
    import_source(
        "files", tmp_path / "log.jsonl", out, columns=columns
    )  # as a daily job that is run again does
    assert (out / "import.json").read_bytes() == about


def test_the_command(tmp_path, capsys, monkeypatch):
    url, out = f"sqlite:{tmp_path}/log.sqlite", tmp_path / "tables"
    monkeypatch.delenv("AIGQ_LOG", raising=False)
    assert main(["import", "log", "--out", str(out)]) == 2
    assert "AIGQ_LOG" in capsys.readouterr().err
    monkeypatch.setenv("AIGQ_LOG", url)
    assert main(["import", "log", "--out", str(out)]) == 2
    assert f"no event log at {tmp_path}/log.sqlite" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    wrote(url)
    assert main(["import", "log", "--out", str(out)]) == 1
    assert "no events are left" in capsys.readouterr().err
    wrote(url, Message("u", encode(Event("1", "u", time.time() - 60, "search", "sled"))))
    assert main(["import", "log", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["source"] == "log"


def test_simulated_clicks_are_not_mixed_with_real_ones(tmp_path):
    url, out = f"sqlite:{tmp_path}/log.sqlite", tmp_path / "tables"
    wrote(url, Message("u", encode(Event("1", "u", time.time() - 60, "search", "sled"))))
    import_log(url, out)
    (out / "simulation.parquet").write_bytes(b"")
    with pytest.raises(SourceError, match="simulated"):
        import_log(url, out)
