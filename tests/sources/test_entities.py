"""Files of items and users: ids as those of events, categories, and bad rows set aside with a reason."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_helpers import rows, write_json_lines

from aigq.errors import SourceError

LOG = "user_id,ts,action,item_id\nu1,2024-05-01,click, 1 \n"
ROLES = {"user_id": "user_id", "ts": "ts", "action": "action", "item_id": "item_id"}
ITEMS = {"item_id": "id", "title": "name", "category": "cat"}


@pytest.fixture
def catalogue(bring, tmp_path):
    """Import the log with a file of items; returns the summary."""

    def run(name, **users):
        (tmp_path / "log.csv").write_text(LOG)
        return bring(
            "files", tmp_path / "log.csv", columns={**ROLES, "items": {**ITEMS, "path": name}, **users}
        )

    return run


def categories(tmp_path):
    return {item["item_id"]: item["category"] for item in rows(tmp_path / "out", "items")}


def reasons(tmp_path):
    return [(row["file"], row["row"], row["reason"]) for row in rows(tmp_path / "out", "rejected")]


def test_categories_of_parquet_are_lists(catalogue, tmp_path):
    lists = pa.array([["Home", "Mugs"], ["Home", " ", None, " Mugs "], ["", " "], [], None])
    items = {"id": ["1", "2", "3", "4", "5"], "name": ["a"] * 5, "cat": lists}
    pq.write_table(pa.table(items), tmp_path / "items.parquet")
    catalogue("items.parquet")
    assert categories(tmp_path) == {
        "1": ["Home", "Mugs"],
        "2": ["Home", "Mugs"],
        **dict.fromkeys(("3", "4", "5")),
    }


@pytest.mark.parametrize("column", ["cat", "id", "name"])
def test_columns_of_parquet_that_are_structs(catalogue, tmp_path, column):
    item = {"id": "1", "name": "a", "cat": "b"} | {column: {"x": "y"}}
    pq.write_table(pa.Table.from_pylist([item]), tmp_path / "items.parquet")
    with pytest.raises(
        SourceError, match=rf"items.parquet: expected texts .* in column '{column}'; found STRUCT"
    ):
        catalogue("items.parquet")


def test_a_query_of_parquet_that_is_a_list(bring, tmp_path):
    row = {"user_id": "u", "ts": "2024-05-01", "action": "search", "query": ["tea"]}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "log.parquet")
    with pytest.raises(SourceError, match=r"expected texts or numbers in column 'query'; found VARCHAR\[\]"):
        bring("files", tmp_path / "log.parquet")


def test_blank_categories_of_csv_are_none(catalogue, tmp_path):
    lines = ["1,a,Home > Mugs", "2,b,", '3,c," "', "4,d, > ", "5,e,Home > > Mugs", "6,f,[New] > Mugs"]
    (tmp_path / "items.csv").write_text("id,name,cat\n" + "\n".join([*lines, '7,g,"[""Home"", "" ""]"\n']))
    catalogue("items.csv")
    assert categories(tmp_path) == {
        "1": ["Home", "Mugs"],
        **dict.fromkeys(("2", "3", "4")),
        "5": ["Home", "Mugs"],
        "6": ["[New]", "Mugs"],
        "7": ["Home"],
    }


def test_bad_rows_of_csv_are_set_aside_and_ids_join(catalogue, tmp_path):
    (tmp_path / "items.csv").write_bytes(b"id,name,cat\n 1 ,a,b\n,c,d\n\nNaN,e,f\n2,g,h,i,j\n\xff,k,l\n")
    (tmp_path / "users.csv").write_text("id,city\n u1\t,Delft\nnull,Ghent\nu2,x,y\n")
    summary = catalogue("items.csv", users={"path": "users.csv", "user_id": "id"})
    assert [item["item_id"] for item in rows(tmp_path / "out", "items")] == ["1"]
    assert [user["user_id"] for user in rows(tmp_path / "out", "users")] == ["u1"]
    assert reasons(tmp_path) == [
        ("items.csv", 3, "no item"),
        ("items.csv", 5, "no item"),
        ("items.csv", 6, "malformed CSV line"),
        ("items.csv", 7, "invalid UTF-8"),
        ("users.csv", 3, "no user"),
        ("users.csv", 4, "malformed CSV line"),
    ]
    assert (summary.rows, summary.rejected) == (1, {})
    assert summary.rejected_entities == {
        "malformed CSV line": 2,
        "no item": 2,
        "invalid UTF-8": 1,
        "no user": 1,
    }


def test_bad_rows_of_json_lines_are_set_aside(catalogue, tmp_path):
    items = [
        {"id": 1, "cat": ["Home", 7]},
        "broken",
        {"id": ["2"], "name": "b"},
        {"id": 3, "cat": [{"name": "Home"}]},
        {"id": 4, "cat": {"name": "Home"}},
        {"name": "c"},
    ]
    write_json_lines(tmp_path / "items.jsonl", items)
    catalogue("items.jsonl")
    assert categories(tmp_path) == {"1": ["Home", "7"]}
    assert [reason[1:] for reason in reasons(tmp_path)] == [
        (2, "not a JSON object"),
        (3, "no item"),
        (4, "category not understood"),
        (5, "category not understood"),
        (6, "no item"),
    ]


def test_bad_items_and_users_of_kuaisearch(bring, tmp_path):
    search = {"user_id": 1, "session_id": 7, "time_index": 90, "query": "大衣"}
    write_json_lines(tmp_path / "recall.jsonl", [search])
    write_json_lines(tmp_path / "users.jsonl", [{"user_id": " 1 ", "gender": "F"}, "{", {"gender": "M"}])
    write_json_lines(
        tmp_path / "items.jsonl", [{"item_id": 58, "category_level1_name": " "}, {"brand_name": "x"}]
    )
    bring("kuaisearch", tmp_path)
    assert [user["user_id"] for user in rows(tmp_path / "out", "users")] == ["1"]
    assert categories(tmp_path) == {"58": None}
    assert reasons(tmp_path) == [
        ("items.jsonl", 2, "no item"),
        ("users.jsonl", 2, "not a JSON object"),
        ("users.jsonl", 3, "no user"),
    ]
