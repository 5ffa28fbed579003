import ibis
import pyarrow as pa
import pytest
from small_logs import event, history

from aigq.history import queries, surrogates
from aigq.history.engine import put, read
from aigq.tables import ITEMS


@pytest.fixture
def con():
    connection = ibis.duckdb.connect()
    yield connection
    connection.disconnect()


def test_query_days_count_first_time_users_once(con):
    rows = [event("u", 0, "search", "a"), event("u", 1, "search", "a"), event("u", 1440, "search", "a"),
            event("v", 1440, "search", "a")]  # fmt: skip
    days = read(queries.query_days(queries.searches(history(con, rows)[0])).order_by("day"))
    assert [(d["issues"], d["new_users"]) for d in days] == [(2, 1), (2, 1)]


def test_an_item_event_is_led_to_by_its_own_query_or_the_sessions_last(con):
    rows = [event("u", 0, "click", None, "i0"), event("u", 1, "search", "a"),
            event("u", 2, "click", None, "i1"),
            event("u", 3, "click", "b", "i2"), event("u", 90, "click", None, "i3")]  # fmt: skip
    led = read(queries.led_to(history(con, rows)[0]).order_by("item_id"))
    assert [(r["query"], r["item_id"]) for r in led] == [("a", "i1"), ("b", "i2")]


def test_ties_go_to_the_smallest(con):
    pairs = put(con, pa.table({"query": ["q"] * 3 + ["r"], "leaf": ["b", "a", "b", "c"], "n": [1, 2, 1, 1]}))
    best = read(queries.most_frequent(pairs, "query", "leaf").order_by("query"))
    assert best == [{"query": "q", "leaf": "a"}, {"query": "r", "leaf": "c"}]


def items(con, *rows):
    return put(
        con,
        pa.Table.from_pylist([{"item_id": i, "title": t, "category": c} for i, t, c in rows], schema=ITEMS),
    )


def test_the_item_is_the_leaf_where_categories_tell_nothing_apart(con):
    same = items(con, ("i1", None, ["games", "xbox"]), ("i2", None, ["games", "xbox"]))
    assert queries.leaf_categories(same) is None
    pairs = put(con, pa.table({"query": ["q"], "item_id": ["i1"], "n": [1]}))
    assert read(queries.query_categories(pairs, None)) == [{"query": "q", "category": "i1"}]
    assert queries.leaf_categories(items(con)) is None
    two = items(con, ("i1", None, ["a", "b"]), ("i2", None, ["c"]), ("i3", None, []), ("i4", None, None))
    leaves = queries.leaf_categories(two)
    assert read(leaves.order_by("item_id")) == [
        {"item_id": "i1", "leaf": "b"},
        {"item_id": "i2", "leaf": "c"},
    ]


def test_item_text_is_a_common_query_then_the_title_then_the_leaf(con):
    described = put(con, pa.table({
        "item_id": ["i1", "i2", "i3", "i4", "i5", "i6"],
        "title": ["Red Shoe (Size 9)", "Tent", None, None, "a@b.example", "bulb 4007249012345"],
        "brand": ["ACME", None, None, None, None, None],
        "leaf": ["shoes", "camp", "Lamps", None, None, "bulbs"],
    }))  # fmt: skip
    pairs = {"query": ["2 man tent", "my own words"], "item_id": ["i2", "i1"], "n": [2, 1]}
    askers = {"query": ["2 man tent", "my own words"], "users": [2, 1]}
    led = queries.Led(put(con, pa.table(pairs)), put(con, pa.table(askers)))
    texts = read(surrogates.template(described, led, 2).order_by("item_id"))
    assert {t["item_id"]: t["text"] for t in texts} == {
        "i1": "acme red shoe",
        "i2": "2 man tent",
        "i3": "lamps",
        "i6": "bulbs",  # so many digits may be a telephone number
    }
