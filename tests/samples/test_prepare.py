import json
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_logs import START, event

from aigq.config import SamplesConfig, parse
from aigq.errors import ConfigError, EmptyLogError, SourceError
from aigq.prepared import Prepared
from aigq.samples.prepare import fingerprint_of, prepare
from aigq.tables import EVENTS, ITEMS, PREPARED_TABLES, USERS

DAY = 1440


def write(folder, rows, items=None, users=None):
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=EVENTS), folder / "events.parquet")
    if items is not None:
        pq.write_table(pa.Table.from_pylist(items, schema=ITEMS), folder / "items.parquet")
    if users is not None:
        pq.write_table(pa.Table.from_pylist(users, schema=USERS), folder / "users.parquet")
    (folder / "import.json").write_text(json.dumps({"provenance": "constructed"}))
    return folder


def config(tables, unit="user_day", validation=2, test=4, **samples):
    first = START.date()
    split = {"validation_from": first + timedelta(days=validation), "test_from": first + timedelta(days=test)}
    return parse(
        {"data": {"tables": tables}, "split": split, "samples": {"unit": unit, "k_users": 1, **samples}}
    )


def asking(tables, key, fields):
    section, name = key.split(".")
    return parse(config(tables).model_dump() | {section: {name: fields}})


def one_user(days=6):
    return [event("u", d * DAY, "search", q) for d in range(days) for q in ("Red  Shoe", f"day {d}")]


def test_one_user_without_items_or_clicks(tmp_path):
    summary = prepare(config(write(tmp_path / "t", one_user())), tmp_path / "run")
    prepared = Prepared.load(tmp_path / "run" / "prepared")
    for name, schema in PREPARED_TABLES.items():
        assert getattr(prepared, name).schema.equals(schema), name
    assert summary["samples"] == {"train": 2, "valid": 2, "test": 2}
    assert (summary["queries"], summary["mode"]) == ("constructed", "bootstrap")
    assert prepared.validation_day == 19783 + 2
    assert prepared.queries["query"].to_pylist() == ["day 0", "day 1", "red shoe"]
    assert prepared.queries["category"].null_count == 3
    assert prepared.samples["novel"].to_pylist()[-1] == [True, False]
    assert [len(m.history) for m in prepared.moments(prepared.samples)] == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize("unit", ["user_day", "next_query"])
def test_histories_are_the_users_own_and_earlier(tmp_path, unit):
    rows = [event(u, d * DAY + m, a, q, i) for u in ("u", "ü", "v") for d in range(6) for m, a, q, i in [
        (0, "search", "a", None), (1, "click", "a", "i1"), (2, "search", f"b{d}", None),
        (3, "purchase", None, "i2"),
    ]]  # fmt: skip
    items = [
        {"item_id": "i1", "title": "One", "category": ["x", "y"]},
        {"item_id": "i2", "title": "Two", "category": ["z"]},
    ]
    prepare(config(write(tmp_path / "t", rows * 2, items, [{"user_id": "u"}]), unit), tmp_path / "run")
    prepared = Prepared.load(tmp_path / "run" / "prepared")
    keys = list(
        zip(prepared.behaviours["user_id"].to_pylist(), prepared.behaviours["ts"].to_pylist(), strict=True)
    )
    assert keys == sorted(keys)
    assert prepared.samples["sample_id"].to_pylist() == list(range(prepared.samples.num_rows))
    for moment in prepared.moments(prepared.samples):
        mine = [ts for user, ts in keys if user == moment.user_id and ts < moment.cut.item()]
        assert moment.history["ts"].to_pylist() == mine
    assert prepared.category_of["a"] == "y"


def test_contact_data_is_set_aside_and_counted(tmp_path):
    rows = [
        *one_user(),
        event("u", 3, "search", "jane@example.com"),
        event("u", 5, "click", "jane@example.com", "i1"),
    ]
    summary = prepare(config(write(tmp_path / "t", rows)), tmp_path / "run")
    assert summary["events"]["private_queries"] == 2
    for name in PREPARED_TABLES:
        assert "jane@" not in str(
            pq.read_table(tmp_path / "run" / "prepared" / f"{name}.parquet").to_pylist()
        )


def test_events_of_items_without_words_are_counted(tmp_path):
    items = [{"item_id": "named", "title": "Red hat"}, {"item_id": "mute"}]
    rows = [
        event("v", 3, "click", None, "mute"),
        event("v", 4, "purchase", None, "mute"),
        event("v", 5, "click", "jane@example.com", "unknown"),
        event("v", 6, "search", "jane@example.com"),  # counted as private alone
        event("v", 7, "click", None, "named"),
        event("v", 5 * DAY, "click", "a hat", "mute"),  # its own query; too late to name the item
    ]
    summary = prepare(config(write(tmp_path / "t", [*one_user(), *rows], items)), tmp_path / "run")
    assert summary["events"]["items_without_words"] == 3


def test_the_same_input_is_not_prepared_twice(tmp_path):
    tables, run = write(tmp_path / "t", one_user()), tmp_path / "run"
    first = prepare(config(tables), run)
    before = {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in (run / "prepared").iterdir()}
    assert prepare(config(tables), run) == first
    assert {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in (run / "prepared").iterdir()} == before
    assert prepare(config(tables), run, force=True) == first
    after = {p.name: p.read_bytes() for p in (run / "prepared").iterdir()}
    assert after == {name: content for name, (_, content) in before.items()}
    assert prepare(config(tables, min_history=3), run)["fingerprint"] != first["fingerprint"]
    assert [p.name for p in run.iterdir()] == ["prepared"]


def test_a_key_of_a_later_version_leaves_a_run_as_it_is(tmp_path):
    tables, run = write(tmp_path / "t", one_user()), tmp_path / "run"
    known = fingerprint_of(config(tables), run)
    later = type("Later", (SamplesConfig,), {"__annotations__": {"younger": int}, "younger": 3})
    settings = later.model_validate(config(tables).samples.model_dump())
    assert fingerprint_of(config(tables).model_copy(update={"samples": settings}), run) == known
    changed = settings.model_copy(update={"younger": 4})
    assert fingerprint_of(config(tables).model_copy(update={"samples": changed}), run) != known


def test_an_empty_split_names_the_dates_present_and_keeps_what_was_there(tmp_path):
    tables, run = write(tmp_path / "t", one_user()), tmp_path / "run"
    prepare(config(tables), run)
    with pytest.raises(EmptyLogError, match=r"no samples for test: .* 2024-03-01 to 2024-03-06"):
        prepare(config(tables, test=30), run)
    assert Prepared.load(run / "prepared").samples.num_rows == 6
    with pytest.raises(EmptyLogError, match="user_day, which needs searches"):
        prepare(config(write(tmp_path / "t2", [event("u", 0, "click", None, "i1")])), run)
    with pytest.raises(EmptyLogError, match="exposure, which needs hints"):
        prepare(config(tables, unit="exposure"), run)


def test_without_events_the_message_says_what_to_run(tmp_path):
    with pytest.raises(SourceError, match="aigq import"):
        prepare(config(tmp_path), tmp_path / "run")


def test_exposures_make_the_mode(tmp_path):
    rows = one_user()
    for d in range(6):
        rows += [event("u", d * DAY + 9, "hint_impression", q, None, f"r{d}", p) for p, q in enumerate("xyz")]
        rows += [event("u", d * DAY + 10, "hint_click", "y", None, f"r{d}", 1)]
    summary = prepare(config(write(tmp_path / "t", rows), "exposure"), tmp_path / "run")
    assert summary["mode"] == "exposure"
    samples = Prepared.load(tmp_path / "run" / "prepared").samples
    assert samples["shown"].to_pylist() == [["x", "y", "z"]] * 6
    assert samples["n_before"].to_pylist() == [2, 4, 6, 8, 10, 12]


def test_a_cut_off_run_leaves_nothing_half_done(tmp_path, monkeypatch):
    tables, run = write(tmp_path / "t", one_user()), tmp_path / "run"

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("aigq.samples.prepare._in_order", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(config(tables), run)
    assert list(run.iterdir()) == []


@pytest.mark.parametrize("key", ["prompt.profile", "ctr.profile"])
def test_a_profile_field_that_no_user_has_is_refused(tmp_path, key):
    people = [{"user_id": "u", "profile": {"city": "delft"}}, {"user_id": "v", "profile": {"age": "40"}}]
    tables = write(tmp_path / "t", one_user(), users=[*people, {"user_id": "w", "profile": None}])
    prepare(asking(tables, key, ["city", "age"]), tmp_path / "run")  # some users have them
    with pytest.raises(ConfigError, match=f"{key}: no user has 'cty'; did you mean city"):
        prepare(asking(tables, key, ["age", "cty"]), tmp_path / "other")
    with pytest.raises(ConfigError, match=f"{key}: no user has 'street'; known: age, city"):
        prepare(asking(tables, key, ["street"]), tmp_path / "other")
    (tables / "users.parquet").unlink()
    with pytest.raises(ConfigError, match=f"{key}: no user has 'city'; the users table has no fields"):
        prepare(asking(tables, key, ["city"]), tmp_path / "other")
    assert not list((tmp_path / "other").iterdir())
