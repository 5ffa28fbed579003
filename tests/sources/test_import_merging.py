"""Tables that are there: late rows, the same file again, a crash while writing."""

import pytest
from source_helpers import NOW, rows, write_json_lines

from aigq.errors import SourceError
from aigq.sources import import_source, importing, render, writing

FIRST = {"user_id": "u1", "ts": "2024-05-01", "action": "search", "query": "milk", "position": 2}
LATE = {
    "user_id": "u1",
    "ts": "2024-04-29",
    "action": "click",
    "query": "milk",
    "item_id": "7",
    "position": 1,
}


def contents(out):
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.suffix == ".parquet"}


def test_the_same_import_twice_gives_the_same_tables(bring, tmp_path):
    log = write_json_lines(tmp_path / "log.jsonl", [FIRST, LATE, FIRST, {"user_id": None}])
    first = bring("files", log)
    before = contents(tmp_path / "out")
    second = bring("files", log)
    assert first.duplicates == 1
    assert (second.new_events, second.duplicates, second.events) == (0, 3, 2)
    assert first.fingerprint == second.fingerprint
    assert contents(tmp_path / "out") == before


def test_late_rows_are_merged_in_any_order(bring, tmp_path):
    one = write_json_lines(tmp_path / "one.jsonl", [FIRST])
    two = write_json_lines(tmp_path / "two.jsonl", [LATE, FIRST])
    bring("files", one, tmp_path / "a")
    bring("files", two, tmp_path / "a")
    bring("files", two, tmp_path / "b")
    last = bring("files", one, tmp_path / "b")
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert last.events == 2


def test_equal_events_keep_the_smallest_position(bring, tmp_path):
    log = write_json_lines(
        tmp_path / "log.jsonl", [FIRST, FIRST | {"position": 1}, FIRST | {"position": None}]
    )
    bring("files", log)
    assert [event["position"] for event in rows(tmp_path / "out")] == [1]


def test_a_crash_while_writing_leaves_the_old_tables(bring, tmp_path, monkeypatch):
    bring("files", write_json_lines(tmp_path / "one.jsonl", [FIRST]))
    before = contents(tmp_path / "out")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writing.os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        import_source("files", write_json_lines(tmp_path / "two.jsonl", [LATE]), tmp_path / "out", now=NOW)
    assert contents(tmp_path / "out") == before
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_two_imports_into_one_folder(bring, tmp_path, monkeypatch):
    one = write_json_lines(tmp_path / "one.jsonl", [FIRST])
    two = write_json_lines(tmp_path / "two.jsonl", [LATE])
    real = importing.write_tables

    def meanwhile(*arguments):
        with pytest.raises(SourceError, match="another `aigq import` or `aigq erase-user` works in"):
            bring("files", two)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(importing, "write_tables", meanwhile)
        bring("files", one)
    assert bring("files", two).events == 2
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("out", ["file", "file/sub"])
def test_tables_are_not_written_into_a_file(bring, tmp_path, out):
    (tmp_path / "file").write_text("mine")
    log = write_json_lines(tmp_path / "one.jsonl", [FIRST])
    with pytest.raises(SourceError, match="give --out a folder"):
        bring("files", log, tmp_path / out)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_with_other_tables_is_left_alone(bring, tmp_path):
    log = write_json_lines(tmp_path / "one.jsonl", [FIRST])
    bring("files", log)
    (tmp_path / "out" / "items.parquet").unlink()
    with pytest.raises(SourceError, match=r"items is missing"):
        bring("files", log)


def test_summary_as_json_and_as_table(bring, tmp_path):
    from rich.console import Console

    summary = bring("files", write_json_lines(tmp_path / "log.jsonl", [FIRST, {"user_id": None}]))
    as_dict = summary.to_dict()
    assert as_dict["first_ts"] == "2024-05-01 00:00:00"
    assert as_dict["rejected"] == {"no user": 1}
    console = Console(record=True, width=100)
    console.print(render(summary))
    assert "rejected: no user" in console.export_text()


def test_a_later_log_that_is_silent_about_an_item_leaves_what_is_known(bring, tmp_path):
    event = {"user_id": "u", "query_id": "q", "user_query": "tv"}

    def day(number, **thing):
        line = event | {"timestamp": f"2024-05-0{number}", "action_name": "click"}
        path = tmp_path / f"day{number}.jsonl"
        return write_json_lines(path, [line | {"event_attributes": {"object": {"object_id": "5"} | thing}}])

    known = {"description": "Sony TV", "object_detail": {"brand": "Sony", "price": 5}}
    bring("ubi", day(1, **known))
    bring("ubi", day(2))
    bring("ubi", day(3, object_detail={"price": 4}))
    bring("ubi", day(3, object_detail={"price": 4}))
    (item,) = rows(tmp_path / "out", "items")
    assert (item["title"], item["brand"], item["price"]) == ("Sony TV", "Sony", 4)


def test_a_later_log_that_is_silent_about_a_user_leaves_the_profile(bring, tmp_path):
    log = write_json_lines(tmp_path / "log.jsonl", [FIRST])
    roles = {name: name for name in ("user_id", "ts", "action", "query")}
    roles["users"] = {"path": "users.jsonl", "user_id": "id", "profile": ["city"]}
    for user in ({"id": "u1", "city": "Wien"}, {"id": "u1"}):
        write_json_lines(tmp_path / "users.jsonl", [user, {"id": "u2", "city": "Graz"}])
        bring("files", log, columns=roles)
    assert {user["user_id"]: user["profile"] for user in rows(tmp_path / "out", "users")} == {
        "u1": [("city", "Wien")],
        "u2": [("city", "Graz")],
    }
