"""A log too large for the memory is worked on in parts; what is written must not show it."""

import random

import pyarrow.parquet as pq
import pytest
from small_logs import event
from test_prepare import DAY, config, write

from aigq.history import engine
from aigq.samples.item_pairs import read_item_log
from aigq.samples.prepare import prepare

ITEMS = [{"item_id": f"i{n}", "title": f"Thing {n}", "category": ["a", f"leaf {n % 3}"]} for n in range(9)]
USERS = ["", "a", "ab", "b", "it's", "u1", "u10", "u2", "ü", "\U0001f9e6", "no queries", "only hints"]


def shop(seed):
    """Visits with rows twice, private queries, days without searches, hints with and without clicks."""
    draw = random.Random(seed)
    rows = []
    for n in range(200):
        user, start = draw.choice(USERS), draw.randrange(6) * DAY + draw.randrange(DAY)
        for minute in range(draw.randrange(1, 5)):
            action = draw.choice(["search", "search", "click", "cart", "purchase", "hint"])
            query = draw.choice(["Red  shoe", "red shoe", "tent", "ＴＥＮＴ", "me@x.example", "sock", None])
            item = None if action == "search" else draw.choice(ITEMS)["item_id"]
            if action == "hint" and user != "no queries":
                shown = [("hint_impression", q) for q in ("tent", "sock", "shoe")]
                shown += [("hint_click", draw.choice(["tent", "sock"]))] * draw.randrange(2)
                rows += [
                    event(user, start + minute, a, q, None, f"r{n}", p) for p, (a, q) in enumerate(shown)
                ]
            elif action != "hint" and user != "only hints":
                query = None if user == "no queries" else query
                rows += [event(user, start + minute, action, query, item)] * draw.choice([1, 1, 2])
    return rows


def in_parts(monkeypatch, parts_wanted):
    """Every log of a few rows is from now on too large; returns a list of how many parts it came in."""
    came, divide = [], engine.divide

    def counted(*args):
        came.append(len(made := divide(*args)))
        return made

    monkeypatch.setattr("aigq.samples.clean.divide", counted)
    monkeypatch.setattr(engine, "ROW_BYTES", parts_wanted * 3 * 10**9 // 600)
    return came


@pytest.mark.parametrize(("unit", "parts"), [("user_day", 4), ("next_query", 3), ("exposure", 3)])
def test_parts_give_the_same_tables(tmp_path, monkeypatch, unit, parts):
    tables = write(tmp_path / "t", shop(parts), ITEMS, [{"user_id": user} for user in USERS])
    settings = config(tables, unit, k_users=2)
    whole = prepare(settings, tmp_path / "whole")
    came = in_parts(monkeypatch, parts)
    assert prepare(settings, tmp_path / "parts") == whole
    assert came[0] > 1
    assert came[0] <= len(USERS) + 1
    for name in whole["rows"]:
        one, many = (
            pq.read_table(tmp_path / run / "prepared" / f"{name}.parquet") for run in ("whole", "parts")
        )
        assert many.equals(one, check_metadata=True), name


def test_parts_give_the_same_item_log(tmp_path, monkeypatch):
    settings = config(write(tmp_path / "t", shop(1), ITEMS), k_users=2)
    whole = read_item_log(settings)
    came = in_parts(monkeypatch, 4)
    assert read_item_log(settings) == whole
    assert came[0] > 1
