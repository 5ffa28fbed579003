"""`aigq generate u2q` for everybody: resumable, and published with the table."""

import asyncio
import dataclasses
import json
import time
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from serving_helpers import aigq, make_run

from aigq import generation
from aigq.errors import StageError
from aigq.recall import build_channel
from aigq.recall.personal import Personal
from aigq.serving import keys
from aigq.serving.publish import publish
from aigq.serving.run_tables import RunTables, _items_per_query, read_table
from aigq.serving.state import Base, decode
from aigq.serving.stores.memory import MemoryStore
from aigq.tables import BEHAVIOURS, U2Q, X2Q


class Counting(Personal):
    """Counts the users it was asked for, and may be interrupted."""

    def __init__(self, stop_after=10**9):
        super().__init__(90.0, 5)
        self.asked, self.stop_after = 0, stop_after

    def recommend(self, moments, n):
        if self.asked >= self.stop_after:
            raise KeyboardInterrupt
        self.asked += len(moments)
        return super().recommend(moments, n)


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def test_an_interrupted_backfill_goes_on_where_it_was(run, monkeypatch):
    monkeypatch.setattr(generation, "CHUNK", 5)
    with pytest.raises(KeyboardInterrupt):
        generation.backfill(run, Counting(stop_after=10), "personal", 3)
    assert not (run.folder / "tables" / "u2q.parquet").exists()
    second = Counting()
    result = generation.backfill(run, second, "personal", 3)
    assert second.asked == 16 - 10
    assert (result["users"], result["users_with_hints"], result["rows"]) == (16, 16, 48)
    table = read_table(run.folder / "tables" / "u2q.parquet", U2Q)
    assert table.schema == U2Q
    assert not (run.folder / "tables" / "u2q.parts").exists()


def test_another_length_starts_anew(run, monkeypatch):
    monkeypatch.setattr(generation, "CHUNK", 5)
    with pytest.raises(KeyboardInterrupt):
        generation.backfill(run, Counting(stop_after=10), "personal", 3)
    other = Counting()
    generation.backfill(run, other, "personal", 2)
    assert other.asked == 16


def test_another_blocklist_starts_anew(run, monkeypatch, tmp_path):
    words = tmp_path / "words"
    words.write_text("nothing\n")
    serving = run.config.serving.model_copy(update={"blocklist": words})
    run = dataclasses.replace(run, config=run.config.model_copy(update={"serving": serving}))
    monkeypatch.setattr(generation, "CHUNK", 5)
    with pytest.raises(KeyboardInterrupt):
        generation.backfill(run, Counting(stop_after=10), "personal", 30)
    words.write_text("sled\n")
    other = Counting()
    generation.backfill(run, other, "personal", 30)
    assert other.asked == 16
    assert "sled" not in u2q_queries(run)


def test_the_backfill_is_published_with_the_histories(run):
    done = aigq("generate", "u2q", "--run", run.folder, "--system", "popular", "-n", "4", "--json")
    result = json.loads(done.stdout)
    assert result["rows"] == 16 * 4
    store = MemoryStore()
    table = asyncio.run(publish(run.config, store, RunTables(run.config, run.folder).families))
    base = decode(Base, asyncio.run(store.get([keys.base(table["version"], "u00")]))[0])
    assert base.backfill.model == f"popular@{run.begun('prepare')}"
    assert len(base.backfill.hints) == 4
    assert base.backfill.hints[0].reason == "popular in the shop these days"


def test_blocked_words_are_in_no_generated_list_and_in_no_published_table(run, tmp_path):
    (tmp_path / "words").write_text("sled\n")
    blocked = {"serving": run.config.serving.model_copy(update={"blocklist": tmp_path / "words"})}
    guarded = dataclasses.replace(run, config=run.config.model_copy(update=blocked))
    listed = ("u2q", "x2q", "coclick", "catalog")
    assert b"sled" in b"".join(value for key, value in stored(run) if key.split(":")[1] in listed)
    for system in ("popular", "personal"):
        generation.backfill(run, build_channel(system, run.config, run.folder), system, 30)
        assert "sled" in u2q_queries(run)
        generation.backfill(guarded, build_channel(system, run.config, run.folder), system, 30)
        assert u2q_queries(run) & {"sled", "wool hat"} == {"wool hat"}
        hints = generation.hints_for(
            guarded, build_channel(system, run.config, run.folder), system, ["u00"], 30
        )
        assert "sled" not in {hint["query"] for hint in hints["users"][0]["hints"]}
    generation.backfill(run, build_channel("popular", run.config, run.folder), "popular", 30)
    rows = [{"kind": "item", "trigger": "i", "rank": 1, "query": "sled", "score": 0.4}]
    pq.write_table(x2q_table(rows), run.folder / "tables" / "x2q.parquet")  # both made before it was blocked
    for key, value in stored(guarded):
        family = key.split(":")[1]
        assert family != "x2q"
        assert family not in listed or b"sled" not in value
        if family == "base":
            base = decode(Base, value)
            hints = base.backfill.hints if base.backfill else []
            assert "sled" not in {each.query for each in (*base.own, *hints)}


def stored(run):
    """Key and value of everything that a run would publish."""
    store = MemoryStore()
    asyncio.run(publish(run.config, store, RunTables(run.config, run.folder).families))

    async def every():
        return [(key.decode(), value) async for key, value in store.dump()]

    return asyncio.run(every())


def u2q_queries(run):
    return set(read_table(run.folder / "tables" / "u2q.parquet", U2Q)["query"].to_pylist())


def test_the_time_of_a_backfill_is_utc_on_every_machine(run, monkeypatch):
    row = {"user_id": "u00", "rank": 1, "query": "sled", "reason": "", "model": "m"}
    row["generated_at"] = datetime(2026, 2, 6, 12)
    (run.folder / "tables").mkdir()
    pq.write_table(pa.Table.from_pylist([row], schema=U2Q), run.folder / "tables" / "u2q.parquet")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        bases = dict(RunTables(run.config, run.folder).families("v")["base"])
    finally:
        monkeypatch.undo()
        time.tzset()
    assert bases[keys.base("v", "u00")].backfill.at == datetime(2026, 2, 6, 12, tzinfo=UTC).timestamp()


def test_what_a_query_led_to_is_counted_within_the_session():
    """As most logs have it: a search, then clicks that do not say which query they belong to."""
    said = [
        ("a", 0, None, "i0"), ("a", 0, "sled", None), ("a", 0, None, "i1"), ("a", 0, None, "i2"),
        ("a", 1, None, "i3"), ("a", 1, "hat", "i4"), ("b", 1, None, "i5"), ("b", 2, "sled", "i1"),
    ]  # fmt: skip
    columns = dict(zip(("user_id", "session", "query", "item_id"), zip(*said, strict=True), strict=True))
    assert _items_per_query(pa.table(columns)) == {"sled": 2, "hat": 1}
    assert _items_per_query(pa.table(columns).slice(0, 0)) == {}


def test_x2q_is_published_under_the_k_user_rule(run):
    rows = [
        {"kind": "item", "trigger": "i", "rank": 2, "query": "sled", "score": 0.4},
        {"kind": "item", "trigger": "i", "rank": 1, "query": "a secret of mine", "score": 0.9},
        {"kind": "category", "trigger": "snow", "rank": 1, "query": "wool hat", "score": None},
    ]
    (run.folder / "tables").mkdir()
    pq.write_table(x2q_table(rows), run.folder / "tables" / "x2q.parquet")
    families = RunTables(run.config, run.folder).families("v")
    found = {
        key: [(q, round(s, 3)) for q, s in zip(v.queries, v.scores, strict=True)]
        for key, v in families["x2q"]
    }
    assert found == {
        keys.x2q("v", "category", "snow"): [("wool hat", 1.0)],
        keys.x2q("v", "item", "i"): [("sled", 0.4)],
    }


def test_no_item_is_called_what_fewer_than_k_users_asked_for(run):
    """The words of an item without a better text are the query of its click, and others would read them."""
    last = run_rows(run).slice(0, 1).to_pylist()[0] | {"action": "click"}
    said = [
        ("only", "a gift for my lover", "a gift for my lover"), ("both", "a gift", "a gift"),
        ("both", "sled", "sled"), ("titled", "zebra lamp", None), ("titled", "a gift", "a gift"),
    ]  # fmt: skip
    extra = [last | dict(item_id=i, text=text, query=query, category="c") for i, text, query in said]
    rows = pa.concat_tables([run_rows(run), pa.Table.from_pylist(extra, schema=BEHAVIOURS)])
    pq.write_table(rows, run.folder / "prepared" / "behaviours.parquet")
    items = dict(RunTables(run.config, run.folder).families("v")["item"])
    found = {name: items[keys.item("v", name)] for name in ("only", "both", "titled")}
    assert {name: info.text for name, info in found.items()} == {
        "only": None, "both": "sled", "titled": "zebra lamp"
    }  # fmt: skip
    assert {info.category for info in found.values()} == {"c"}
    assert not [info for info in items.values() if info.text and "secret" in info.text]


def run_rows(run):
    return pq.read_table(run.folder / "prepared" / "behaviours.parquet")


def test_a_table_with_other_columns_is_refused(run):
    (run.folder / "tables").mkdir()
    pq.write_table(x2q_table([]).drop_columns(["score"]), run.folder / "tables" / "x2q.parquet")
    with pytest.raises(StageError, match="is not the table"):
        list(RunTables(run.config, run.folder).families("v")["x2q"])


def x2q_table(rows):
    return pa.Table.from_pylist(rows, schema=X2Q)
