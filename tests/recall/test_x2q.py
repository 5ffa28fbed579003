import math

import pyarrow as pa
import pytest

from aigq.config import X2qConfig
from aigq.recall.think import Interest, Trigger
from aigq.recall.x2q import LINKS, links_of, trigger_table

NOW = Trigger(1, "search", "tent", "tent", None, "camping")
BOUGHT = Trigger(3, "purchase", "stove", None, "i7", "cooking")
PRIVATE = Trigger(2, "search", "my secret", "my secret", None, None)


def links(*rows):
    names = ("user_id", "kind", "trigger", "query")
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows], schema=LINKS)


def test_a_trigger_maps_to_the_whole_list_of_its_interest_under_each_of_its_keys():
    interests = [Interest((NOW, BOUGHT), ("sleeping bag", "tent")), Interest((), ("sled",))]
    rows = {(r["kind"], r["trigger"], r["query"]) for r in links_of("u", interests, {"tent"})}
    assert rows == {
        ("query", "tent", "sleeping bag"),  # and not the query itself
        ("category", "camping", "sleeping bag"),
        ("category", "camping", "tent"),
        ("item", "i7", "sleeping bag"),
        ("item", "i7", "tent"),
        ("category", "cooking", "sleeping bag"),
        ("category", "cooking", "tent"),
    }, "discovery has no trigger"


def test_what_one_person_typed_is_no_key():
    assert list(links_of("u", [Interest((PRIVATE,), ("tent",))], {"tent"})) == []


def test_scores_by_hand():
    table = trigger_table(
        links(
            *[(u, "query", "tent", "stove") for u in "abcd"], *[(u, "query", "tea", "cup") for u in "abcd"]
        ),
        {"stove": 10, "cup": 1},
        {},
        X2qConfig(alpha=0.5, support=4.0, min_users=2),
    )
    # n = 4 of N = 8, n_x = n_q = 4: ln(4 * 8 / 16) / -ln(1/2) = 1, times 4 / (4 + 4)
    assert table["trigger"].to_pylist() == ["tea", "tent"]
    assert table["score"].to_pylist() == pytest.approx(
        [0.5 * 0.5 + 0.5 * math.log(2) / math.log(11), 0.5 * 0.5 + 0.5 * 1.0], abs=1e-6
    )


def test_a_query_that_everything_leads_to_is_less_relevant():
    rows = [(f"u{i}", "item", f"i{i % 4}", "milk") for i in range(16)]
    rows += [(f"u{i}", "item", "i0", "oat flakes") for i in range(0, 16, 4)]
    table = trigger_table(links(*rows), {}, {}, X2qConfig(alpha=1.0))
    first = [row for row in table.to_pylist() if row["trigger"] == "i0"]
    assert [row["query"] for row in first] == ["oat flakes", "milk"]
    assert [row["rank"] for row in first] == [1, 2]


def test_one_shoppers_links_are_left_out_and_counted_once():
    rows = [("a", "item", "i1", "tent")] * 3 + [("b", "item", "i1", "stove"), ("c", "item", "i1", "stove")]
    table = trigger_table(links(*rows), {}, {}, X2qConfig())
    assert table["query"].to_pylist() == ["stove"]


def test_click_probabilities_count_where_there_are_some():
    rows = [(u, "item", "i1", q) for u in "ab" for q in ("tent", "stove")]
    table = trigger_table(
        links(*rows), {"tent": 5, "stove": 5}, {"tent": 0.1, "stove": 0.2}, X2qConfig(alpha=0)
    )
    assert table["query"].to_pylist() == ["stove", "tent"]
    assert table["score"].to_pylist() == pytest.approx([1.0, 0.75])


def test_nothing_gives_an_empty_table():
    assert trigger_table(links(), {}, {}, X2qConfig()).num_rows == 0
