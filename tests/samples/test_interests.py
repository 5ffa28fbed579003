import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aigq.samples.interests import InterestPoint, by_rank, interest_points, links, strengths

LINKS = st.lists(st.sets(st.integers(1, 6), max_size=3).map(lambda s: tuple(sorted(s))), max_size=12)


def names(n):
    return [f"q{i}" for i in range(n)]


def test_the_strongest_evidence_holds_and_weak_cosines_are_none():
    same = np.array([[True, False, False, False]])
    category = np.array([[True, True, False, False]])
    coclick = np.array([[0.2, 0.1, 0.3, 0.0]])
    cosine = np.array([[1.0, 0.2, 0.7, 0.59]])
    assert strengths(same, category, coclick, cosine, 0.6).tolist() == [[2.0, 1.0, 0.7, 0.0]]


def test_links_are_the_best_behaviours_ties_to_the_more_recent():
    strength = np.array([[0.0, 1.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.0]])
    assert links(strength, 2) == [(2, 3), (), (1,)]
    assert links(np.zeros((2, 0)), 2) == [(), ()]


def test_points_by_hand():
    linked = [(3,), (), (1, 2), (), (2, 4), (3,)]
    assert interest_points(names(6), linked, 8, 8) == [
        InterestPoint((3,), ("q0", "q5")),
        InterestPoint((), ("q1", "q3")),
        InterestPoint((1, 2, 4), ("q2", "q4")),  # they overlap in behaviour 2
    ]


def test_a_late_query_joins_two_points():
    assert interest_points(names(3), [(1,), (2,), (1, 2)], 8, 8) == [
        InterestPoint((1, 2), ("q0", "q1", "q2"))
    ]


def test_further_points_are_discovery_and_triggers_the_most_recent():
    assert interest_points(names(4), [(1, 5), (2,), (), (3,)], 2, 1) == [
        InterestPoint((1,), ("q0",)),
        InterestPoint((), ("q1", "q2", "q3")),
    ]


@given(LINKS, st.integers(1, 8), st.integers(1, 8))
def test_each_query_is_in_one_point_and_all_orders_hold(linked, max_points, max_triggers):
    queries = names(len(linked))
    points = interest_points(queries, linked, max_points, max_triggers)
    assert len(points) <= max_points
    assert sum(not point.triggers for point in points) <= 1
    assert sorted(q for p in points for q in p.queries) == sorted(queries)
    places = [[queries.index(q) for q in p.queries] for p in points]
    assert all(row == sorted(row) for row in places)
    assert [row[0] for row in places] == sorted(row[0] for row in places)
    assert all(p.triggers == tuple(sorted(set(p.triggers)))[:max_triggers] for p in points)


@given(LINKS)
def test_without_limits_linked_queries_share_a_point_and_points_share_no_behaviour(linked):
    queries = names(len(linked))
    points = interest_points(queries, linked, 99, 99)
    named = [i for p in points for i in p.triggers]
    assert len(set(named)) == len(named)
    where = {q: p for p in points for q in p.queries}
    for query, found in zip(queries, linked, strict=True):
        assert set(found) <= set(where[query].triggers)
        assert bool(found) == bool(where[query].triggers)


def test_lists_are_merged_by_rank():
    points = [
        InterestPoint((1,), ("a", "b", "c")),
        InterestPoint((), ("d",)),
        InterestPoint((2,), ("e", "f")),
    ]
    assert by_rank(points) == ["a", "d", "e", "b", "f", "c"]
    assert by_rank([]) == []
