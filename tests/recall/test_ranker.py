from dataclasses import replace
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from channel_contract import K_USERS, check
from recall_shop import GROUPS

pytest.importorskip("lightgbm")

from aigq.config_recall import RankerConfig
from aigq.errors import StageError
from aigq.models.columns import NEVER
from aigq.prepared import Moment, Prepared
from aigq.recall.features import FEATURES, FeatureMaker
from aigq.recall.ranker import Ranker
from aigq.tables import BEHAVIOURS

SMALL = RankerConfig(trees=30, leaves=7, min_pairs_in_leaf=2)


def make(folder=None, seed=0) -> Ranker:
    return Ranker(SMALL, K_USERS, seed, folder)


def moment(prepared: Prepared, *behaviours: tuple[int, str]) -> Moment:
    """A shopper on the last day of the shop who did these (days ago, query)."""
    day = prepared.moments(prepared.split("test"))[-1].day
    noon = np.datetime64(day, "D").astype("datetime64[us]")
    rows = [
        dict(user_id="x", ts=(noon - np.timedelta64(ago, "D")).astype(datetime), day=day - ago, session=0)
        | dict(action="search", text=query, query=query, item_id=None, category=None)
        for ago, query in behaviours
    ]
    return Moment(0, "x", noon, day, pa.Table.from_pylist(rows, schema=BEHAVIOURS))


def test_contract(prepared: Prepared) -> None:
    check(make(), prepared)


def test_own_features_by_hand(prepared: Prepared) -> None:
    maker = FeatureMaker(prepared, prepared.training_rows(), K_USERS)
    asked = [(30, "sled"), (10, "sled"), (10, "wool hat")]
    pairs = maker.pairs([moment(prepared, *asked)])
    value = {name: i for i, name in enumerate(FEATURES)}
    (sled,) = np.flatnonzero(maker.vocabulary[pairs.query] == "sled")
    expected = {
        "own_30d": 0.5 + 0.5 ** (1 / 3),
        "own_count": 2,
        "own_age": 10,
        "own_first": 30,
        "own_gap": 20,
        "own_due": 0.5,
        "own_rate": 1.0,  # two issues on two active days
        "category_60d": 0.5**0.5 + 2 * 0.5 ** (1 / 6),  # three issues in the category snow
        "behaviours": 3,
        "active_days": 2,
        "idle_days": 10,
    }
    for name, number in expected.items():
        assert pairs.values[sled, value[name]] == pytest.approx(number, rel=1e-5), name
    (towel,) = np.flatnonzero(maker.vocabulary[pairs.query] == "beach towel")
    assert pairs.values[towel, value["own_age"]] == NEVER
    assert pairs.values[towel, value["similar"]] < pairs.values[sled, value["similar"]]


def test_an_empty_history_has_only_what_the_shop_knows(prepared: Prepared) -> None:
    maker = FeatureMaker(prepared, prepared.training_rows(), K_USERS)
    pairs = maker.pairs([moment(prepared), moment(prepared, (1, "sled"))])
    empty = pairs.values[pairs.moment == 0]
    assert len(empty)
    assert np.isfinite(empty).all()
    assert (empty[:, FEATURES.index("own_count")] == 0).all()


def test_similarities_are_what_a_moment_may_know(prepared: Prepared) -> None:
    rows, moments = prepared.training_rows(), prepared.moments(prepared.split("train"))
    day = moments[len(moments) // 2].day
    asked = [m for m in moments if m.day == day and m.history.num_rows]
    known = FeatureMaker(prepared, rows, K_USERS).pairs(asked)
    without = rows.filter(pc.not_equal(rows["day"], day))
    assert rows.num_rows > without.num_rows
    blind = FeatureMaker(prepared, without, K_USERS).pairs(asked)
    np.testing.assert_array_equal(known.query, blind.query)
    np.testing.assert_array_equal(known.values, blind.values)
    later = [moment(prepared, (1, "sled"))]
    columns = [FEATURES.index(name) for name in ("similar", "similar_to_last")]
    of_all = FeatureMaker(prepared, rows, K_USERS).pairs(later).values[:, columns]
    assert not np.array_equal(
        of_all, FeatureMaker(prepared, without, K_USERS).pairs(later).values[:, columns]
    )


def test_what_k_users_have_not_issued_is_no_candidate(prepared: Prepared) -> None:
    maker = FeatureMaker(prepared, prepared.training_rows(), K_USERS)
    pairs = maker.pairs([moment(prepared, (1, "a secret of mine"), (1, "sled"))])
    assert "a secret of mine" not in maker.vocabulary[pairs.query]


def test_learns_the_groups_and_orders_own_queries(prepared: Prepared) -> None:
    ranker = make()
    ranker.fit(prepared)
    who = moment(prepared, (3, "sled"), (2, "sled"), (1, "wool hat"), (1, "a secret of mine"))
    top = [hint.query for hint in ranker.recommend([who], 3)[0]]
    assert set(top) <= set(GROUPS["snow"])
    assert sorted(ranker.own([who, moment(prepared)])[0]) == ["sled", "wool hat"]
    assert ranker.own([moment(prepared)]) == [[]]


def test_is_trained_once_for_the_same_data_and_settings(prepared: Prepared, tmp_path) -> None:
    first = make(tmp_path)
    first.fit(prepared)
    (kept,) = tmp_path.iterdir()
    written = kept.stat().st_mtime_ns
    again = make(tmp_path)
    again.fit(prepared)
    assert kept.stat().st_mtime_ns == written
    moments = prepared.moments(prepared.split("test"))
    assert again.recommend(moments, 5) == first.recommend(moments, 5)
    make(tmp_path, seed=1).fit(prepared)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("table", "column", "place"),
    [("queries", "category", -1), ("behaviours", "query", 5), ("query_days", "issues", -1)],
)
def test_is_trained_again_when_any_cell_that_it_reads_differs(
    prepared: Prepared, tmp_path, table: str, column: str, place: int
) -> None:
    make(tmp_path).fit(prepared)
    rows = getattr(prepared, table).to_pylist()
    rows[place][column] = 99 if column == "issues" else "sled"
    other = pa.Table.from_pylist(rows, schema=getattr(prepared, table).schema)
    make(tmp_path).fit(replace(prepared, **{table: other}))
    assert len(list(tmp_path.iterdir())) == 2


def test_before_fit(prepared: Prepared) -> None:
    with pytest.raises(StageError, match="before fit"):
        make().recommend([moment(prepared)], 3)


def test_the_trend_in_the_shoppers_order(prepared: Prepared) -> None:
    """The same queries as the day's trend, in the order of the shopper's own list."""
    ranker = make()
    ranker.fit(prepared)
    snow = moment(prepared, (1, "sled"), (1, "wool hat"))
    (mine,), everybodys = ranker.trending([snow]), ranker.trend(snow.day)
    assert sorted(mine) == sorted(everybodys)
    listed = [hint.query for hint in ranker.recommend([snow], 1000)[0]]
    assert mine == [query for query in listed if query in set(everybodys)]
    assert mine != everybodys


def test_own_queries_and_trend_in_one_list(prepared: Prepared) -> None:
    ranker = make()
    ranker.fit(prepared)
    snow, nobody = moment(prepared, (1, "sled"), (1, "a secret of mine")), moment(prepared)
    both = ranker.own_and_trending([snow, nobody])
    for who, queries in zip((snow, nobody), both, strict=True):
        (own,), (trend,) = ranker.own([who]), ranker.trending([who])
        listed = [hint.query for hint in ranker.recommend([who], 1000)[0]]
        assert queries == [query for query in listed if query in {*own, *trend}]
    assert sorted(both[0]) == sorted(both[1])
