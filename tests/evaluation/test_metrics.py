"""Metrics against numbers computed by hand and against set formulas on random lists."""

import numpy as np
import pyarrow as pa
import pytest
from evaluation_shop import TEST_DAY, list_table, prepared, sample_table
from hypothesis import given
from hypothesis import strategies as st

from aigq.evaluation import metrics
from aigq.prepared import CausalCounts

K = 4
LISTS = {1: ["milk", "bread", "apple", "gift card"], 2: ["cheese", "oat milk"], 3: []}
SAMPLES = sample_table(
    [
        {"id": 1, "user": "a", "targets": ["Milk ", "oat  milk"], "novel": [False, True]},
        {"id": 2, "user": "b", "targets": ["milk"], "novel": [False]},
        {"id": 3, "user": "c", "targets": ["gift card", "apple"], "novel": [True, True]},
    ]
)


def judge(lists=LISTS, samples=SAMPLES):
    vocabulary = metrics.Vocabulary()
    targets = metrics.Targets.of(samples, vocabulary)
    codes = metrics.widen(metrics.padded(list_table(lists), samples["sample_id"].to_numpy(), vocabulary), K)
    category_of = prepared(samples).category_of
    numbers = {name: i for i, name in enumerate(sorted(set(category_of.values())))}
    category = np.array([numbers.get(category_of.get(text), -1) for text in vocabulary.texts])
    return codes, targets, category, vocabulary


def test_query_hr_by_hand():
    codes, targets, _, _ = judge()
    assert metrics.query_hr(codes, targets).tolist() == [[0.5] * 4, [0.0] * 4, [0.0] * 4]
    assert metrics.query_hr_any(codes, targets)[:, -1].tolist() == [1.0, 0.0, 0.0]


def test_novel_and_repeat_split_the_targets():
    codes, targets, _, _ = judge()
    novel = metrics.query_hr(codes, targets.where(targets.novel))[:, -1]
    repeat = metrics.query_hr(codes, targets.where(~targets.novel))[:, -1]
    assert novel[0] == 0.0
    assert np.isnan(novel[1])
    assert repeat[0] == 1.0
    assert np.isnan(repeat[2])


def test_cate_hr_by_hand():
    codes, targets, category, _ = judge()
    # 1: {dairy} found; 2: {dairy} found; 3: the gift card has no category, {fruit} missed by the empty list
    assert metrics.cate_hr(codes, targets, category)[:, -1].tolist() == [1.0, 1.0, 0.0]
    assert metrics.unique_cates(codes, category)[:, -1].tolist() == [3.0, 1.0, 0.0]


def test_targets_without_any_category_do_not_count():
    samples = sample_table([{"id": 1, "user": "a", "targets": ["gift card"]}])
    codes, targets, category, _ = judge({1: ["gift card", "milk"]}, samples)
    assert np.isnan(metrics.cate_hr(codes, targets, category)).all()
    nothing = np.full(len(category), -1)
    assert np.isnan(metrics.unique_cates(codes, nothing)).all()


def test_sem_sim_by_hand():
    codes, targets, _, vocabulary = judge()
    angle = {"milk": 0.0, "oat milk": 60.0, "cheese": 90.0}
    vectors = np.array([_unit(angle.get(text, 180.0)) for text in vocabulary.texts])
    sim = metrics.sem_sim(codes, targets, vectors, [1, 4])
    assert sim[0] == pytest.approx([(1 + 0.5) / 2] * 2)  # milk is there; oat milk resembles milk
    assert sim[1] == pytest.approx([0.0, 0.5])  # cheese is orthogonal to milk, oat milk is not
    assert sim[2].tolist() == [0.0, 0.0]  # empty list


def test_sem_sim_without_a_table_of_all_cosines(monkeypatch):
    codes, targets, _, vocabulary = judge()
    vectors = np.random.default_rng(0).normal(size=(len(vocabulary), 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    whole = metrics.sem_sim(codes, targets, vectors, [1, 2, 4])
    monkeypatch.setattr(metrics, "_MATRIX_CELLS", 0)
    monkeypatch.setattr(metrics, "_PAIRS", 2)
    assert metrics.sem_sim(codes, targets, vectors, [1, 2, 4]) == pytest.approx(whole)
    for i in (0, 1):
        cosines = vectors[codes[i][codes[i] >= 0]] @ vectors[targets.code[targets.row == i]].T
        assert whole[i, -1] == pytest.approx(cosines.max(axis=0).mean())


def test_near_duplicates_by_hand():
    lists = {1: ["strawberry yogurt", "strawberry yoghurt", "bread"], 2: ["milk", "bread"], 3: []}
    codes, _, _, vocabulary = judge(lists)
    assert metrics.near_duplicates(codes, vocabulary.texts)[:2].tolist() == pytest.approx([1 / 3, 0.0])
    assert np.isnan(metrics.near_duplicates(codes, vocabulary.texts)[2])


def test_validity_by_hand():
    lists = {1: ["milk", "MILK"], 2: ["never issued"], 3: ["milk", "bread", "apple", "cheese", "oat milk"]}
    vocabulary = metrics.Vocabulary()
    codes = metrics.padded(list_table(lists), np.array([1, 2, 3, 4]), vocabulary)
    counts = CausalCounts(prepared(SAMPLES).query_days, None)
    servable = metrics.servable_entries(codes, np.full(4, TEST_DAY), counts, 5, vocabulary)
    found = metrics.validity(codes, 4, servable)
    assert found.repeats.tolist() == [True, False, False, False]
    assert found.unservable.tolist() == [False, True, False, False]
    assert found.too_long.tolist() == [False, False, True, False]
    assert found.empty.tolist() == [False, False, False, True]
    assert found.shares()["valid"] == 0.0
    too_early = metrics.servable_entries(codes, np.full(4, TEST_DAY - 30), counts, 5, vocabulary)
    assert not too_early.any()
    assert not metrics.servable_entries(codes, np.full(4, TEST_DAY), counts, 6, vocabulary).any()


def test_lists_may_come_in_any_row_order_and_for_other_samples():
    table = list_table({1: ["milk", "bread"], 9: ["apple"], 2: ["cheese"]})
    shuffled = table.take(pa.array([3, 1, 2, 0]))
    vocabulary = metrics.Vocabulary()
    codes = metrics.padded(shuffled, np.array([2, 1, 5]), vocabulary)
    texts = vocabulary.texts
    assert [[texts[c] for c in row if c >= 0] for row in codes] == [["cheese"], ["milk", "bread"], []]


words = st.sampled_from(["milk", "oat milk", "cheese", "bread", "apple", "gift card", "x"])
queries = st.lists(words, max_size=7)
cases = st.lists(
    st.tuples(queries, st.lists(words, min_size=1, max_size=5, unique=True)), min_size=1, max_size=6
)


@given(cases)
def test_array_metrics_equal_the_set_formulas(case):
    samples = sample_table([{"id": i, "user": str(i), "targets": y} for i, (_, y) in enumerate(case)])
    codes, targets, category, vocabulary = judge({i: listed for i, (listed, _) in enumerate(case)}, samples)
    cate = dict(zip(vocabulary.texts, category.tolist(), strict=True))
    query_hr, any_hit = metrics.query_hr(codes, targets), metrics.query_hr_any(codes, targets)
    cate_hr, unique = metrics.cate_hr(codes, targets, category), metrics.unique_cates(codes, category)
    for i, (listed, wanted) in enumerate(case):
        for k in range(1, K + 1):
            found, y = set(listed[:k]), set(wanted)
            assert query_hr[i, k - 1] == len(found & y) / len(y)
            assert any_hit[i, k - 1] == bool(found & y)
            found_cates, y_cates = ({cate[q] for q in s} - {-1} for s in (found, y))
            if y_cates:
                assert cate_hr[i, k - 1] == len(found_cates & y_cates) / len(y_cates)
            else:
                assert np.isnan(cate_hr[i, k - 1])
            if (category >= 0).any():
                assert unique[i, k - 1] == len(found_cates)


@given(cases)
def test_rates_are_bounded_and_grow_with_k(case):
    samples = sample_table([{"id": i, "user": str(i), "targets": y} for i, (_, y) in enumerate(case)])
    codes, targets, category, vocabulary = judge({i: listed for i, (listed, _) in enumerate(case)}, samples)
    sem_sim = metrics.sem_sim(codes, targets, np.eye(len(vocabulary)), range(1, K + 1))
    rates = [metrics.query_hr(codes, targets), metrics.cate_hr(codes, targets, category), sem_sim]
    for rate in rates:
        counted = rate[~np.isnan(rate).any(axis=1)]
        assert ((counted >= 0) & (counted <= 1)).all()
        assert (np.diff(counted, axis=1) >= 0).all()
    near = metrics.near_duplicates(codes, vocabulary.texts)
    assert ((near >= 0) & (near < 1) | np.isnan(near)).all()


def _unit(degrees):
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
