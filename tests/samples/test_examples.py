from datetime import datetime, timedelta
from random import Random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from small_logs import FAR, START, behaviour_rows, event, sample_rows


def test_a_user_day_holds_the_distinct_queries_in_log_order():
    rows = [event("u", m, "search", q) for m, q in [(0, "b"), (1, "a"), (2, "b"), (130, "c"), (131, "a")]]
    first, second = sample_rows(rows, "user_day")
    assert (first["targets"], first["n_before"], first["cut"]) == (["b", "a"], 0, datetime(2024, 3, 1))
    assert (second["targets"], second["novel"], second["n_before"]) == (["c", "a"], [True, False], 2)
    assert (second["first_row"], second["shown"]) == (0, None)


def test_a_day_without_a_query_is_no_sample():
    assert sample_rows([event("u", 0, "purchase", None, "i1")], "user_day") == []


def test_the_next_query_differs_from_the_previous_one():
    rows = [event("u", m, "search", q) for m, q in [(0, "a"), (1, "a"), (2, "b"), (3, "a")]]
    rows += [event("v", 0, "search", "a")]
    columns = ("user_id", "targets", "novel", "first_row", "n_before")
    made = [tuple(sample[c] for c in columns) for sample in sample_rows(rows, "next_query")]
    assert made == [
        ("u", ["a"], [True], 0, 0), ("u", ["b"], [True], 0, 1), ("u", ["a"], [False], 0, 2),
        ("v", ["a"], [True], 3, 0),
    ]  # fmt: skip


def test_an_exposure_counts_when_it_was_clicked():
    rows = [event("u", 0, "search", "b")]
    rows += [event("u", 5, "hint_impression", q, None, "r1", p) for p, q in enumerate(["c", "a", "b"], 1)]
    rows += [event("u", 6, "hint_click", "b", None, "r1", 3), event("u", 7, "search", "b")]
    rows += [event("u", 9, "hint_impression", "c", None, "r2", 1)]
    (sample,) = sample_rows(rows, "exposure")
    assert (sample["shown"], sample["targets"], sample["novel"]) == (["c", "a", "b"], ["b"], [False])
    assert sample["cut"] == START + timedelta(minutes=5)
    assert sample["n_before"] == 1


def test_exposures_are_judged_by_all_that_was_wanted_on_the_day_after_the_first_one():
    rows = [event("u", 0, "search", "b")]
    rows += [event("u", 5, "hint_impression", q, None, "r1", p) for p, q in enumerate(["c", "a"], 1)]
    rows += [event("u", 7, "search", "d"), event("u", 8, "hint_impression", "e", None, "r2", 1)]
    rows += [event("u", 9, "hint_click", "e", None, "r2", 1), event("u", 10, "search", "b")]
    rows += [event("u", 121, "search", "z")]  # after midnight, without an exposure
    rows += [event("v", 3, "hint_impression", "a", None, "r3", 1)]
    (sample,) = sample_rows(rows, "exposure", judged_from=0)
    assert (sample["targets"], sample["novel"]) == (["d", "e", "b"], [True, True, False])
    assert (sample["cut"], sample["request_id"]) == (START + timedelta(minutes=5), "r1")
    assert (sample["shown"], sample["n_before"]) == (["c", "a"], 1)


def test_an_exposure_began_no_later_than_its_first_click():
    rows = [event("u", 0, "search", "a")]
    rows += [event("u", 3, "hint_click", "b", None, "r1", 1), event("u", 3, "search", "b")]  # another clock
    rows += [event("u", 5, "hint_impression", q, None, "r1", p) for p, q in enumerate(["b", "a"], 1)]
    for judged_from in (FAR, 0):
        (sample,) = sample_rows(rows, "exposure", judged_from)
        assert sample["cut"] == START + timedelta(minutes=3)
        assert (sample["targets"], sample["novel"], sample["n_before"]) == (["b"], [True], 1)


FIELDS = {
    "user": ["u", "v"],
    "minutes": [0, 1, 2, 20, 60, 100, 119, 120, 121, 150, 1600],  # midnight is minute 120
    "action": ["search", "click", "purchase", "hint_impression", "hint_click"],
    "query": [None, "a", "b", "red shoe"],
    "item": [None, "i1", "i2", "i3"],
    "request": ["r1", "r2"],
    "position": [1, 2, 3],
}
EVENT = st.builds(event, **{name: st.sampled_from(values) for name, values in FIELDS.items()})
KINDS = [("user_day", FAR), ("next_query", FAR), ("exposure", FAR), ("exposure", 0)]


@pytest.mark.parametrize(("unit", "judged_from"), KINDS)
@settings(max_examples=4, derandomize=True, phases=[Phase.generate], deadline=None)
@given(rows=st.lists(EVENT, min_size=2, max_size=25))
def test_a_log_that_ends_at_the_cut_gives_the_same_history(rows, unit, judged_from):
    everything = behaviour_rows(rows, unit)
    made = sample_rows(rows, unit, judged_from)
    for cut in sorted({sample["cut"] for sample in made if sample["n_before"]})[-2:]:
        known = behaviour_rows([row for row in rows if row["ts"] < cut], unit)
        for sample in (s for s in made if s["cut"] == cut):
            history = everything[sample["first_row"] : sample["first_row"] + sample["n_before"]]
            assert history == [row for row in known if row["user_id"] == sample["user_id"]]
            seen = {row["query"] for row in history}
            assert sample["novel"] == [target not in seen for target in sample["targets"]]


@pytest.mark.parametrize(("unit", "judged_from"), KINDS)
def test_targets_come_at_or_after_the_cut(unit, judged_from):
    rng, rows = Random(0), []
    for pair in range(150):
        log = [event(**{name: rng.choice(values) for name, values in FIELDS.items()}) for _ in range(15)]
        rows += [row | {"user_id": f"{row['user_id']}{pair}"} for row in log]
    made = sample_rows(rows, unit, judged_from)
    assert len(made) > 100
    last = {}
    for row in sorted(rows, key=lambda row: row["ts"]):
        last[row["user_id"], row["query"]] = row["ts"]
    for sample in made:
        assert all(last[sample["user_id"], target] >= sample["cut"] for target in sample["targets"])
