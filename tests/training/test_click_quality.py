import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigq.training.click_quality import auc, auc_by_group, calibration_error, judge, log_loss


def test_auc_by_hand():
    assert auc(np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.1])) == 0.75
    assert auc(np.array([1, 0]), np.array([0.5, 0.5])) == 0.5
    assert np.isnan(auc(np.array([1, 1]), np.array([0.5, 0.1])))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=30))
def test_auc_is_the_share_of_pairs_in_order(rows):
    clicked, score = np.array([r[0] for r in rows], float), np.array([r[1] for r in rows], float)
    pairs = [(a > b) + 0.5 * (a == b) for a in score[clicked > 0] for b in score[clicked == 0]]
    found = auc(clicked, score)
    assert (np.isnan(found) and not pairs) or found == pytest.approx(np.mean(pairs))


def test_groups_without_both_kinds_do_not_count():
    clicked, score = np.array([1, 0, 1, 0, 1]), np.array([0.2, 0.1, 0.3, 0.4, 0.5])
    assert auc_by_group(clicked, score, np.array([7, 7, 3, 3, 5])).tolist() == [0.0, 1.0]


def test_log_loss_by_hand():
    assert log_loss(np.array([1, 0]), np.array([0.5, 0.25])) == pytest.approx((np.log(2) - np.log(0.75)) / 2)
    assert np.isfinite(log_loss(np.array([1, 0]), np.array([0.0, 1.0])))


def test_calibration_error_by_hand():
    clicked, p = np.array([0, 1, 1, 1]), np.array([0.1, 0.1, 0.8, 0.9])
    # the lower half predicts .1 and has .5, the upper half predicts .85 and has 1
    assert calibration_error(clicked, p, bins=2) == pytest.approx((0.4 + 0.15) / 2)


def test_true_probabilities_are_calibrated():
    rng = np.random.default_rng(0)
    p = rng.random(50_000)
    found = judge((rng.random(50_000) < p).astype(float), p, rng.integers(0, 100, 50_000))
    assert found["calibration_error"] < 0.01
    assert found["auc"] == pytest.approx(5 / 6, abs=0.01)
    assert found["user_auc"] == pytest.approx(5 / 6, abs=0.01)
