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


def test_log_order_keeps_the_log():
    assert [x.query for x in log_order_labels(["c", "a", "c"], {"a", "c"}, 30)] == ["c", "a"]


def test_fusion_by_hand():
    # a: 1/21 + 0.5/22 = 0.07035, b: 1/22 + 0.5/21 = 0.06926, c: 1/23 = 0.04348
    assert fuse({"x": ["a", "b", "c"], "y": ["b", "a"]}, {"x": 1.0, "y": 0.5}) == ["a", "b", "c"]


@given(QUERIES, QUERIES.map(lambda q: list(dict.fromkeys(q))), st.integers(1, 12), st.integers(0, 12))
def test_no_repeats_no_forbidden_text_clicked_before_ranker(targets, ranking, length, tail):
    allowed = {f"q{i}" for i in range(0, 12, 2)}
    labels = ranked_labels(targets, ranking, allowed, length, tail)
    queries = [label.query for label in labels]
    assert len(set(queries)) == len(queries)
    assert set(queries) <= allowed
    assert len(queries) <= max(length, tail)
    sources = [label.source for label in labels]
    assert sources == sorted(sources)  # "clicked" < "ranker"
