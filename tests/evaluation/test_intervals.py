"""User means and bootstrap intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aigq.evaluation.intervals import bootstrap95, mean_over_users, user_means

values = arrays(float, st.tuples(st.integers(1, 12), st.just(2)), elements=st.floats(0, 1))


def test_samples_first_then_users():
    per_sample = np.array([[1.0], [0.0], [0.0], [np.nan]])
    per_user = user_means(per_sample, np.array([0, 0, 0, 1]), 2)
    assert per_user[0, 0] == pytest.approx(1 / 3)
    assert np.isnan(per_user[1, 0])
    assert mean_over_users(per_user)[0] == pytest.approx(1 / 3)


def test_a_column_without_users_is_nan():
    nothing = np.full((3, 1), np.nan)
    assert np.isnan(mean_over_users(nothing)).all()
    assert np.isnan(bootstrap95(nothing, 100, 0)).all()
    assert np.isnan(bootstrap95(np.empty((0, 1)), 100, 0)).all()


def test_one_user_has_an_interval_of_no_width():
    assert bootstrap95(np.array([[0.25]]), 100, 0).tolist() == [[0.25, 0.25]]


def test_the_interval_is_close_to_the_normal_one():
    rng = np.random.default_rng(1)
    drawn = rng.normal(0.5, 0.2, size=(2_000, 1))
    low, high = bootstrap95(drawn, 2_000, 0)[0]
    half = 1.96 * drawn.std() / np.sqrt(len(drawn))
    assert (low, high) == pytest.approx((drawn.mean() - half, drawn.mean() + half), abs=half / 10)


def test_resamples_are_the_same_for_the_same_seed_and_in_chunks(monkeypatch):
    drawn = np.random.default_rng(0).random((50, 3))
    whole = bootstrap95(drawn, 200, 7)
    assert (whole == bootstrap95(drawn, 200, 7)).all()
    assert (whole != bootstrap95(drawn, 200, 8)).any()
    monkeypatch.setattr("aigq.evaluation.intervals._CELLS", 50 * 33)
    assert bootstrap95(drawn, 200, 7) == pytest.approx(whole)


@given(values)
def test_the_interval_stays_within_the_values_and_identical_rows_differ_by_zero(drawn):
    bounds = bootstrap95(drawn, 100, 0)
    assert (bounds[:, 0] >= drawn.min(axis=0) - 1e-12).all()
    assert (bounds[:, 1] <= drawn.max(axis=0) + 1e-12).all()
    assert (bootstrap95(drawn - drawn, 100, 0) == 0).all()


@given(values, st.randoms())
def test_the_mean_does_not_depend_on_the_order_of_users(drawn, random):
    order = list(range(len(drawn)))
    random.shuffle(order)
    assert mean_over_users(drawn[order]) == pytest.approx(mean_over_users(drawn))
