"""Pairs of an item and a query: what is learned from, and what must not be."""

from datetime import timedelta

import pytest
from small_logs import START, event
from test_prepare import DAY, config, write

from aigq.history.item_prompt import Item
from aigq.samples.item_pairs import ItemLog, pairs, part_of, read_item_log

ITEMS = [{"item_id": f"i{n}", "title": f"Thing {n}", "category": ["a", f"leaf {n % 2}"]} for n in range(40)]


def visit(user, day, query, item, minute=0):
    return [
        event(user, day * DAY + minute, "search", query),
        event(user, day * DAY + minute + 1, "click", None, item),
    ]


def shop():
    """Three users want `thing`, two `other`, one `mine alone`; another word from the validation days on."""
    rows = []
    for n, item in enumerate(ITEMS):
        for user in ("u", "v", "w"):
            rows += visit(user, 0, "Thing", item["item_id"], n * 2)
        for user in ("u", "v"):
            rows += visit(user, 1, "other", item["item_id"], n * 2)
    rows += visit("u", 1, "mine alone", "i0", 100)
    for user in ("u", "v", "w"):
        rows += visit(user, 2, "later", "i1") + visit(user, 4, "latest", "i2")
    return rows


@pytest.fixture
def settings(tmp_path):
    return config(write(tmp_path / "t", shop(), ITEMS), k_users=2)


def test_pairs_are_of_training_days_and_targets_of_k_users(settings):
    log = read_item_log(settings)
    assert log.led["i0"] == {"thing": 3, "other": 2, "mine alone": 1}
    assert log.led["i1"] == {"thing": 3, "other": 2}
    assert log.later == {"i2": {"latest": 3}}
    assert log.servable == {"thing", "other"}
    made = [p for part in ("train", "valid", "test") for p in pairs(log, settings, part)]
    assert {p.query for p in made} == {"thing", "other"}
    assert {q for p in made for q in p.asked} <= {"thing", "other"}
    assert log.templates["i0"] == "thing"
    assert log.described["i0"] == "thing 0"


def test_nothing_after_the_training_days_changes_a_pair(settings, tmp_path):
    before = [r for r in shop() if r["ts"].date() < settings.split.validation_from]
    cut = config(write(tmp_path / "cut", before, ITEMS), k_users=2)
    for part in ("train", "valid", "test"):
        assert pairs(read_item_log(settings), settings, part) == pairs(read_item_log(cut), cut, part)
    assert START.date() + timedelta(days=2) == settings.split.validation_from


def test_every_item_has_one_part_and_pairs_are_equal_for_equal_seeds(settings):
    log = read_item_log(settings)
    parts = {
        part: {p.item.item_id for p in pairs(log, settings, part)} for part in ("train", "valid", "test")
    }
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == len(ITEMS)
    assert all(part_of(i, 0.1, 0) == part for part, ids in parts.items() for i in ids)
    assert pairs(log, settings, "train") == pairs(read_item_log(settings), settings, "train")
    other = settings.model_copy(update={"seed": 1})
    assert pairs(log, settings, "train") != pairs(log, other, "train")


def test_the_shares_of_the_parts_are_those_of_the_config():
    parts = [part_of(f"item {n}", 0.1, 0) for n in range(20_000)]
    assert parts.count("test") == pytest.approx(2000, rel=0.1)
    assert parts.count("valid") == pytest.approx(2000, rel=0.1)


def test_a_prompt_does_not_count_the_user_whom_it_predicts():
    log = ItemLog([Item("i")], {"i": {"a": 2, "b": 1, "c": 2, "rare": 9}}, {}, frozenset({"a", "b", "c"}), {})
    assert log.asked("i", 5) == ["a", "c", "b"]
    assert log.asked("i", 5, without="a") == ["c", "a", "b"]
    assert log.asked("i", 5, without="b") == ["a", "c"]
    assert log.asked("i", 1) == ["a"]
    assert log.asked("unknown", 5) == []


def test_an_item_draws_at_most_so_many_pairs_and_is_cold_only_with_a_title(settings):
    log = read_item_log(settings)
    change = {"pairs_per_item": 2, "cold": 1.0}
    few = settings.model_copy(update={"item_text": settings.item_text.model_copy(update=change)})
    made = pairs(log, few, "train")
    assert max([p.item.item_id for p in made].count(i) for i in log.led) == 2
    assert not any(p.asked for p in made)
    untitled = ItemLog([Item(i.item_id) for i in log.items], log.led, {}, log.servable, {})
    assert all(p.asked for p in pairs(untitled, few, "train"))
