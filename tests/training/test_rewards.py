import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigq.errors import StageError
from aigq.training import rewards


def test_gamma_maps_the_95th_percentile_to_the_cap():
    chances = np.linspace(0.0, 0.2, 101)
    gamma = rewards.ctr_gain(chances, beta=1.0)
    assert gamma == pytest.approx(1 / 0.19)
    np.testing.assert_allclose(
        rewards.ctr_reward(np.array([0.0, 0.095, 0.19, 0.5]), gamma, 1.0), [0, 0.5, 1, 1]
    )


def test_probabilities_that_are_all_zero_are_refused():
    for chances in (np.zeros(10), np.zeros(0)):
        with pytest.raises(StageError, match=r"nothing to scale.*Train the CTR model"):
            rewards.ctr_gain(chances, 1.0)


def test_rouge_l_by_hand():
    # LCS of (red wine glass, red glass set) is (red glass): 2 * 2 / (3 + 3)
    assert rewards.query_rouge("red wine glass", "red glass set") == pytest.approx(2 / 3)
    assert rewards.query_rouge("milk", "milk") == 1.0
    assert rewards.query_rouge("", "milk") == 0.0
    # characters where a script writes no spaces: LCS 2 of 3 and 2
    assert rewards.query_rouge("纯牛奶", "牛奶") == pytest.approx(4 / 5)


def test_trigger_reward_by_hand():
    assert rewards.trigger_reward([1, 4, 7], [1, 7]) == pytest.approx(4 / 5)
    assert rewards.trigger_reward([7, 1], [1, 7]) == pytest.approx(1 / 2), "order counts"
    assert rewards.trigger_reward([], [1]) == 0.0


def test_length_is_rewarded_between_the_bounds_and_falls_outside():
    assert [rewards.length_reward("x" * n, 4, 10) for n in (0, 2, 4, 10, 20)] == [0.0, 0.5, 1.0, 1.0, 0.5]


def test_format_counts_filled_slots_and_repeats_cost():
    assert rewards.format_reward(["a", "", "b"], 4) == 0.5
    assert rewards.repeat_reward(["whole milk", "whole milks", "tea", "tea"]) == -0.5
    assert rewards.repeat_reward([]) == 0.0


def test_matching_by_set_finds_the_right_query_in_the_wrong_slot():
    similarity = np.array([[0.0, 1.0], [0.8, 0.9], [0.1, 0.1]])
    assert rewards.match_by_set(similarity).tolist() == [1, 0, -1]


@given(st.lists(st.integers(0, 5), max_size=8), st.lists(st.integers(0, 5), max_size=8))
def test_rouge_is_a_symmetric_share(a, b):
    score = rewards.rouge_l(a, b)
    assert 0.0 <= score <= 1.0
    assert score == rewards.rouge_l(b, a)
    assert (score == 1.0) == (a == b and len(a) > 0)
