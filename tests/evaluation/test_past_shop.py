"""The serving path at moments of the past: what was known then, and nothing else."""

import asyncio
from dataclasses import replace
from datetime import date, datetime, time, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import recall_shop
from recall_shop import GROUPS, TEST

from aigq.config import parse
from aigq.errors import StageError
from aigq.evaluation.past_shop import PastShop
from aigq.evaluation.served import Served
from aigq.prepared import Moment
from aigq.recall.channel import Hint
from aigq.serving import channels
from aigq.tables import EXPOSURES, SUPPLY, X2Q

PREPARED = recall_shop.build()
CONFIG = parse(
    {
        "split": {"validation_from": "2026-01-31", "test_from": "2026-02-05"},
        "serving": {"nearline": {"count": 6}},
    }
)
ALL = [query for queries in GROUPS.values() for query in queries]


class Writer:
    """Writes one list for everybody, and remembers whom it was asked about."""

    name = "writer"

    def __init__(self):
        self.asked = []

    def fit(self, prepared):
        pass

    def recommend(self, moments, n):
        self.asked += [(m.sample_id, m.history.num_rows) for m in moments]
        queries = ["sled", "a secret of mine", "wool hat", "beach towel"]
        return [[Hint(q, 1 / r, "written") for r, q in enumerate(queries, 1)][:n] for _ in moments]


@pytest.fixture
def writer():
    return Writer()


@pytest.fixture
def shop(tmp_path, writer):
    """A shop with a u2q list for everybody and a table x2q: category sea -> flip flops, item -> sun cream."""

    def connect():
        path = tmp_path / "tables" / "x2q.parquet"
        path.parent.mkdir(exist_ok=True)
        rows = [("category", "sea", 1, "flip flops", 0.9), ("item", "item beach towel", 1, "sun cream", 0.5)]
        names = X2Q.names
        pq.write_table(
            pa.Table.from_pylist([dict(zip(names, r, strict=True)) for r in rows], schema=X2Q), path
        )
        return path

    return PastShop(CONFIG, lambda: writer, connect, tmp_path)


def row(name, shop, prepared=PREPARED, **serving):
    made = Served(name, shop, CONFIG.serving.model_copy(update=serving))
    made.fit(prepared)
    return made


def on_day(day=TEST):
    samples = PREPARED.split("test")
    return PREPARED.moments(samples.filter(pc.equal(samples["day"], day)))


def later(moment, minutes):
    """The same shopper on the same day, with what she did by then."""
    rows = PREPARED.behaviours.filter(pc.equal(PREPARED.behaviours["user_id"], moment.user_id))
    cut = np.datetime64(moment.day, "D").astype("datetime64[us]") + np.timedelta64(600 + minutes, "m")
    before = rows.filter(pc.less(rows["ts"], pa.scalar(cut.item(), pa.timestamp("us"))))
    return Moment(moment.sample_id, moment.user_id, cut, moment.day, before)


def queries(lists):
    return [[hint.query for hint in listed] for listed in lists]


def test_a_channel_alone_shows_its_own_list_without_what_may_not_be_shown(shop, writer):
    moments = on_day()
    lists = row("u2q", shop).recommend(moments, 3)
    assert queries(lists) == [["sled", "wool hat", "beach towel"]] * len(moments)
    assert lists[0][0].reason == "written"
    assert writer.asked == [(m.sample_id, m.history.num_rows) for m in moments]


def test_x2q_is_looked_up_with_the_latest_behaviours_item_first(shop):
    moments = on_day()
    for moment, listed in zip(moments, queries(row("x2q", shop).recommend(moments, 5)), strict=True):
        items = moment.history["item_id"].to_pylist()
        latest = list(dict.fromkeys(reversed(items)))[:5]  # of the five latest texts
        sea = moment.history["category"][-1].as_py() == "sea"
        wanted = {"flip flops", *(["sun cream"] if "item beach towel" in latest else [])} if sea else set()
        assert set(listed) == wanted


def test_rows_share_what_was_written(shop, writer):
    moments = on_day()
    row("u2q", shop).recommend(moments, 3)
    asked = len(writer.asked)
    row("blend", shop).recommend(moments, 3)
    assert len(writer.asked) == asked > 0


def test_the_blend_says_who_proposed_what_and_is_the_start_of_a_longer_one(shop):
    moments = on_day()
    blend = row("blend", shop)
    short = blend.recommend(moments, 4)
    supply = blend.supply()
    assert supply.schema == SUPPLY
    shown = supply.filter(pc.less_equal(supply["rank"], 4))
    assert shown["query"].to_pylist() == [query for listed in queries(short) for query in listed]
    by_query = dict(zip(supply["query"].to_pylist(), supply["channels"].to_pylist(), strict=True))
    assert {"u2q", "popular"} <= set(by_query["sled"])
    assert "a secret of mine" not in by_query
    longer = row("blend", shop).recommend(moments, 8)
    assert [listed[:4] for listed in queries(longer)] == queries(short)
    assert row("u2q", shop).supply() is None


def test_what_came_later_changes_nothing(shop, tmp_path, writer):
    moments = on_day(TEST + 1)
    known = row("blend", shop).recommend(moments, 10)
    rows, days = PREPARED.behaviours, PREPARED.query_days
    before = replace(
        PREPARED,
        behaviours=rows.filter(pc.less(rows["day"], TEST + 1)),
        query_days=days.filter(pc.less(days["day"], TEST + 1)),
    )
    assert row("blend", shop, before).recommend(moments, 10) == known
    assert all(known)


def test_the_days_own_behaviours_are_live_and_a_fresh_search_rests(shop):
    morning = on_day()[0]
    soon, late = later(morning, 10), later(morning, 90)
    assert late.history.num_rows == soon.history.num_rows > morning.history.num_rows
    fresh = late.history.slice(morning.history.num_rows)["query"].to_pylist()
    assert fresh
    resting, awake = queries(row("personal", shop).recommend([soon, late], 10))
    assert not set(resting) & set(fresh)
    assert set(fresh) <= set(awake)


def test_strangers_get_the_popular_list_of_that_morning_and_no_written_one(shop, writer):
    moment = on_day()[0]
    stranger = Moment(-1, "nobody", moment.cut, moment.day, PREPARED.behaviours.slice(0, 0))
    blend = row("blend", shop)
    (listed,) = queries(blend.recommend([stranger], 5))
    assert len(listed) == 5
    assert set(listed) <= set(ALL)
    assert writer.asked == []
    assert set(blend.supply()["channels"].combine_chunks().flatten().to_pylist()) == {"popular"}


def test_a_hint_that_was_shown_often_without_a_click_makes_room(shop):
    moment = later(on_day()[0], 90)
    times = [moment.cut - np.timedelta64(hours, "h") for hours in (1, 2, 3, 4)]
    shown = [
        {
            **{"sample_id": i, "user_id": moment.user_id, "cut": at.item(), "day": moment.day},
            **{"split": "test", "first_row": 0, "n_before": 1},
            **{"shown": ["sled", "wool hat"], "clicked": [False, i == 0]},
        }
        for i, at in enumerate(times)
    ]
    seen = replace(PREPARED, exposures=pa.Table.from_pylist(shown, schema=EXPOSURES))
    assert queries(row("u2q", shop).recommend([moment], 3)) == [["sled", "wool hat", "beach towel"]]
    assert queries(row("u2q", shop, seen).recommend([moment], 3)) == [["wool hat", "beach towel"]]


def test_an_answer_that_went_without_something_is_no_result(shop, monkeypatch):
    monkeypatch.setattr(channels, "triggers", lambda *_: 1 / 0)
    with pytest.raises(StageError, match="went without"):
        row("blend", shop).recommend(on_day(), 3)


def test_what_queries_led_to_is_counted_up_to_the_evening_before(shop):
    """A query of the test days leads to items, too: `serving.min_results` takes it from the day after."""
    new, group = "sun hat", ["u00", "u02", "u04", "u06", "u08"]
    made = [
        {
            "user_id": user,
            "ts": datetime.combine(date(1970, 1, 1) + timedelta(days=TEST), time(23, n)),
            "day": TEST,
        }
        | {
            "session": 0,
            "action": "search",
            "text": new,
            "query": new,
            "item_id": "item h",
            "category": "sea",
        }
        for n, user in enumerate(group)
    ]
    rows = pa.concat_tables(
        [PREPARED.behaviours, pa.Table.from_pylist(made, schema=PREPARED.behaviours.schema)]
    )
    issued = {"query": new, "day": TEST, "issues": 5, "new_users": 5}
    days = pa.Table.from_pylist([issued], schema=PREPARED.query_days.schema)
    days = pa.concat_tables([PREPARED.query_days, days])
    order = [("user_id", "ascending"), ("ts", "ascending")]
    shop.fit(replace(PREPARED, behaviours=rows.sort_by(order), query_days=days))
    known = {day: asyncio.run(shop._published(day)).catalogs.now for day in (TEST, TEST + 1)}
    assert new not in known[TEST]
    assert new in known[TEST + 1]
    assert [known[day].results("sun cream") for day in known] == [1, 1]
    assert known[TEST + 1].results(new) == 1


def test_asking_before_fitting_is_refused(shop):
    with pytest.raises(StageError, match="before fit"):
        Served("blend", shop, CONFIG.serving).recommend([], 3)
