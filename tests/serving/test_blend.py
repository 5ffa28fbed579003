"""The blend, against numbers computed by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigq.serving.blend import (
    Candidate,
    Hint,
    Proposals,
    Shopper,
    candidates_of,
    explained,
    in_turn,
    pick,
    reciprocal_ranks,
    resting,
)
from aigq.serving.state import Past, Shown

WEIGHTS = {"u2q": 1.0, "popular": 0.5}


def candidate(query, category=None, **ranks):
    return Candidate(query, category, ranks or {"u2q": 1})


def shopper(now=1000.0, past=(), shown=()):
    return Shopper(now, past, {}, shown)


PROPOSALS = [
    Proposals("popular", ["milk"], lambda _query: "popular"),
    Proposals("u2q", ["tea", *"abcdefgh", "milk"], lambda query: f"{query} for you"),
]


def test_channels_take_turns_by_their_ranks():
    assert list(in_turn(PROPOSALS, WEIGHTS)) == ["tea", "milk", *"abcdefgh"]
    assert list(in_turn([], WEIGHTS)) == []


def test_a_candidate_keeps_every_channel():
    tea, milk = candidates_of(["tea", "milk"], PROPOSALS, {"milk": "dairy"})
    assert tea == Candidate("tea", None, {"u2q": 1})
    assert milk == Candidate("milk", "dairy", {"popular": 1, "u2q": 10})


def test_the_strongest_channel_explains():
    # 1 / (60 + 10) = .0143 beats .5 / (60 + 1) = .0082, but not 1.2 / 61 = .0197
    milk = candidates_of(["milk"], PROPOSALS, {"milk": "dairy"})
    assert explained(milk, PROPOSALS, WEIGHTS) == [
        Hint("milk", "dairy", {"popular": 1, "u2q": 10}, "u2q", "milk for you")
    ]
    assert explained(milk, PROPOSALS, {"popular": 1.2, "u2q": 1.0})[0][3:] == ("popular", "popular")


def test_reciprocal_ranks_are_added_up():
    scores = reciprocal_ranks([candidate("a", u2q=1, popular=3), candidate("b", other=1)], WEIGHTS)
    assert scores == [pytest.approx(1 / 61 + 0.5 / 63), 0.0]


FOODS = {"milk": "dairy", "yoghurt": "dairy", "rice": "grain"}


def test_a_crowded_category_makes_room():
    three, scores = list(FOODS), [1.0, 0.9, 0.75]
    # yoghurt: .9 * (1 - .2) = .72 < .75
    assert pick(three, scores, FOODS, 3, 0.2, 90) == ["milk", "rice", "yoghurt"]
    assert pick(three, scores, FOODS, 2, 0.0, 90) == ["milk", "yoghurt"]
    assert pick(["a", "bb", "ccc"], scores, {"ccc": "c"}, 3, 0.5, 90) == ["a", "bb", "ccc"]


def test_near_duplicates_are_said_once():
    three = ["white breads", "white bread", "rice"]
    assert pick(three, [1.0, 0.9, 0.1], {}, 3, 0.0, 90) == ["white breads", "rice"]


@given(
    st.lists(
        st.tuples(st.text("ab ", min_size=1), st.floats(0, 1), st.sampled_from("xyz")),
        unique_by=lambda t: t[0],
    ),
    st.integers(1, 8),
)
def test_pick_gives_distinct_queries_and_the_best_first(rows, n):
    categories = {query: category for query, _, category in rows}
    chosen = pick([q for q, _, _ in rows], [score for _, score, _ in rows], categories, n, 0.3, 100)
    assert len(set(chosen)) == len(chosen) == min(n, len(rows))
    if chosen:
        assert dict((q, s) for q, s, _ in rows)[chosen[0]] == max(s for _, s, _ in rows)


def test_what_rests():
    shown = [
        Shown(999.0, "1", "hint_impression", "often"),
        Shown(998.0, "2", "hint_impression", "often"),
        Shown(999.0, "3", "hint_impression", "clicked"),
        Shown(998.0, "4", "hint_impression", "clicked"),
        Shown(998.0, "5", "hint_click", "clicked"),
        Shown(999.0, "6", "hint_impression", "once"),
        Shown(-9000.0, "7", "hint_impression", "once"),  # too long ago
        Shown(1.0, "8", "hint_dismiss", "no"),
    ]
    past = [
        Past(990.0, "a", "search", "now"),
        Past(985.0, "b", "click", "an item"),
        Past(700.0, "c", "search", "five minutes ago"),
    ]
    rest = resting(shopper(1000.0, past, shown), times=2, hours=1.0, searched_minutes=1.0)
    assert rest == {"often": "seen", "no": "dismissed", "now": "searched"}
