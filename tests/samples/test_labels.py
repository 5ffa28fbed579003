import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aigq.samples.labels import fuse, log_order_labels, ranked_labels

QUERIES = st.lists(st.sampled_from([f"q{i}" for i in range(12)]), max_size=12)


def test_clicked_come_first_in_the_rankers_order_then_its_best():
    labels = ranked_labels(
        ["c", "a", "z"], ["a", "b", "c", "d"], {"a", "b", "c", "d", "z"}, length=30, tail=5
    )
    assert [(x.query, x.source) for x in labels] == [
        ("a", "clicked"),
        ("c", "clicked"),
        ("z", "clicked"),
        ("b", "ranker"),
        ("d", "ranker"),
    ]


def test_shuffled_clicked_queries_stay_before_the_rankers():
    ranking = [f"q{i}" for i in range(12)]
    rng = np.random.default_rng(0)
    orders = {
        tuple(x.query for x in ranked_labels(["q3", "q1", "q2"], ranking, set(ranking), 30, 5, rng))
        for _ in range(50)
    }
    assert len(orders) == 6  # every order of three
    assert all(set(order[:3]) == {"q1", "q2", "q3"} and order[3:] == ("q0", "q4") for order in orders)


def test_log_order_keeps_the_log():
    assert [x.query for x in log_order_labels(["c", "a", "c"], {"a", "c"}, 30)] == ["c", "a"]


def test_fusion_by_hand():
    # b: 2 + 10 * 0.3 = 5, a: 3 + 10 * 0.1 = 4, c: 10 * 0.4 = 4, after a by its text
    own, shop = {"a": 3.0, "b": 2.0}, {"b": 0.3, "a": 0.1, "c": 0.4}
    assert fuse({"own": own, "shop": shop}, {"own": 1.0, "shop": 10.0}) == ["b", "a", "c"]


@given(QUERIES, QUERIES.map(lambda q: list(dict.fromkeys(q))), st.integers(1, 12), st.integers(0, 12))
def test_no_repeats_no_forbidden_text_clicked_before_ranker(targets, ranking, length, tail):
    allowed = {f"q{i}" for i in range(0, 12, 2)}
    labels = ranked_labels(targets, ranking, allowed, length, tail)
    queries = [label.query for label in labels]
    assert len(set(queries)) == len(queries)
    assert set(queries) <= allowed
    assert len(queries) <= length
    sources = [label.source for label in labels]
    assert sources == sorted(sources)  # "clicked" < "ranker"


def test_session_labels_of_think_by_falling_reliability():
    allowed = set("abcdefg")
    labels = ranked_labels(
        ["b"],
        ["a", "c", "b", "d", "g"],
        allowed,
        6,
        4,
        searches=["x", "d", "b", "c"],
        generated=["a", "e", "f"],
    )
    assert [(x.query, x.source) for x in labels] == [
        ("b", "clicked"),
        ("c", "search"),  # searched for on the day, in the ranker's order; x is nobody else's
        ("d", "search"),
        ("a", "ranker"),
        ("e", "llm"),
        ("f", "llm"),
    ]
    in_order = log_order_labels(["b"], allowed, 3, searches=["d", "b", "c", "a"])
    assert [tuple(x) for x in in_order] == [("b", "clicked"), ("d", "search"), ("c", "search")]
