import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aigq.training import advantages as credit
from aigq.training.spans import LIST, NOTHING

GOLDEN = torch.tensor([[[1, 0.3], [0, 0.3], [0.5, 0.3], [0.5, 0.3]]])  # (1, 4, 2)
LISTS = torch.tensor([[1.0, 1.0, 0.0, 1.0]])


def golden(credit_of="own", norm="sum_then_normalise"):
    queries = credit.query_advantages(GOLDEN.unsqueeze(3).double(), credit_of, norm, 1e-12)
    lists = credit.group_normalise(LISTS.double(), 1e-12)
    slot = torch.tensor([[[0, 1, LIST, NOTHING]] * 4])
    return credit.token_advantages(queries, lists, slot, 0.5, 10.0)[0]  # (4, 4)


def test_golden_numbers_of_the_method():
    result = golden()
    torch.testing.assert_close(
        result[:, 0], torch.tensor([1.70289, -1.12553, -0.86603, 0.28868]).double(), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        result[:, 1], torch.tensor([0.28868, 0.28868, -0.86603, 0.28868]).double(), atol=1e-5, rtol=0
    )
    assert result[:, 2].tolist() == result[:, 1].tolist(), "slot 2 has no signal, so it has the list's alone"
    assert result[:, 3].tolist() == [0.0] * 4


def test_plain_grpo_gives_every_query_the_credit_of_the_list():
    result = golden("list")
    # mean rewards .65 .15 .40 .40: centred .25 -.25 0 0, sigma sqrt(2 * .25^2 / 4)
    own = 0.25 / math.sqrt(2 * 0.25**2 / 4)
    part = 0.5 * 0.25 / math.sqrt(3 / 16)
    assert result[0, 0].item() == pytest.approx(own + part)
    assert result[0, 0] == result[0, 1]


def test_suffix_credit_counts_what_comes_after():
    rewards = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]]).unsqueeze(3)  # only slot 2 of rollout 1 is good
    result = credit.query_advantages(rewards, "suffix_dcg", "sum_then_normalise", 1e-12)
    assert result[0, 0].tolist() == pytest.approx([1.0, 1.0], abs=1e-4), "slot 1 shares the merit of slot 2"
    assert credit.query_advantages(rewards, "own", "sum_then_normalise", 1e-12)[0, 0, 0].item() == 0.0


def test_normalising_each_kind_keeps_a_small_one_audible():
    kinds = torch.tensor([[[[10.0, 0.0]], [[0.0, 0.1]]]])  # (1, 2, 1, 2)
    summed = credit.query_advantages(kinds, "own", "sum_then_normalise", 1e-12)
    apart = credit.query_advantages(kinds, "own", "normalise_then_sum", 1e-12)
    assert summed[0, 0, 0] > 0.9
    assert apart[0, 0, 0].item() == pytest.approx(0.0, abs=1e-5)


rewards_of_groups = st.lists(
    st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3), min_size=4, max_size=4
)


@given(rewards_of_groups, st.permutations(range(4)))
@settings(deadline=None)
def test_permuting_rollouts_permutes_advantages(table, order):
    rewards = torch.tensor(table).view(1, 4, 3, 1)
    one = credit.query_advantages(rewards, "own", "sum_then_normalise", 1e-3)
    other = credit.query_advantages(rewards[:, list(order)], "own", "sum_then_normalise", 1e-3)
    torch.testing.assert_close(one[:, list(order)], other, atol=1e-4, rtol=1e-4)


@given(st.floats(-10, 10, width=32), st.sampled_from(["own", "suffix_dcg", "list"]))
@settings(deadline=None)
def test_an_all_equal_group_has_no_signal_and_nothing_is_ever_nan(value, credit_of):
    rewards = torch.full((2, 4, 3, 2), value)
    result = credit.query_advantages(rewards, credit_of, "sum_then_normalise", 1e-3)
    assert torch.isfinite(result).all()
    torch.testing.assert_close(result, torch.zeros_like(result), atol=1e-3, rtol=0)


def test_a_query_moves_only_its_own_span():
    slot = torch.tensor([[[0, 0, 1, 2, LIST]] * 4])
    before = torch.rand(1, 4, 3, 1, generator=torch.Generator().manual_seed(0))
    after = before.clone()
    after[0, 2, 1] += 0.5
    lists = torch.zeros(1, 4)
    changed = [
        credit.token_advantages(
            credit.query_advantages(r, "own", "sum_then_normalise", 1e-3), lists, slot, 0.5, 2
        )
        for r in (before, after)
    ]
    moved = (changed[0] != changed[1]).any(dim=1)[0]
    assert moved.tolist() == [False, False, True, False, False]


def test_queries_weigh_the_same_whatever_their_length():
    slot = torch.tensor([[0, 0, 0, 1, LIST, NOTHING]])
    weights = credit.equal_queries(slot)[0]
    assert weights[:3].sum().item() == pytest.approx(weights[3].item())
    assert weights.sum().item() == pytest.approx(5.0), "the loss keeps its scale"
    assert weights[5] == 0.0


def test_clip_is_wide_where_the_entropy_is_high():
    entropy, mask = torch.tensor([[0.1, 0.2, 0.3, 0.4, 5.0, 9.0]]), torch.tensor([[1, 1, 1, 1, 1, 0]])
    upper = credit.clip_bound(entropy, mask, credit.Clip(0.2, 0.28, 0.8))
    assert [round(u, 2) for u in upper[0, :5].tolist()] == [0.2, 0.2, 0.2, 0.2, 0.28]


def test_a_clipped_token_has_no_gradient():
    old = torch.zeros(1, 4)
    new = torch.tensor([[0.5, 0.5, -0.5, 0.1]], requires_grad=True)
    slot, advantages = torch.zeros(1, 4, dtype=torch.long), torch.tensor([[1.0, -1.0, -1.0, 1.0]])
    ratio = credit.log_ratio(new, old, slot, "token")
    credit.policy_loss(ratio, advantages, torch.full((1, 4), 0.28), 0.2, torch.tensor(4.0)).backward()
    # too far up with A > 0 and too far down with A < 0 are clipped; the others are not
    assert [g != 0 for g in new.grad[0].tolist()] == [False, True, False, True]
    assert new.grad[0, 3].item() == pytest.approx(-math.exp(0.1) / 4)


def test_ratios_of_a_query_and_of_a_list_are_means():
    slot = torch.tensor([[0, 0, 1, NOTHING]])
    new, old = torch.tensor([[0.2, 0.4, 0.9, 7.0]]), torch.zeros(1, 4)
    assert credit.log_ratio(new, old, slot, "query")[0, :3].tolist() == pytest.approx([0.3, 0.3, 0.9])
    assert credit.log_ratio(new, old, slot, "sequence")[0, :3].tolist() == pytest.approx([0.5] * 3)


def test_nan_in_the_padding_reaches_neither_loss_nor_gradient():
    slot = torch.tensor([[0, NOTHING]])
    new = torch.tensor([[0.1, float("nan")]], requires_grad=True)
    for level in ("token", "query", "sequence"):
        ratio = credit.log_ratio(new, new.detach(), slot, level)
        loss = credit.policy_loss(
            ratio, torch.tensor([[1.0, 0.0]]), torch.full((1, 2), 0.2), 0.2, torch.tensor(1.0)
        )
        (gradient,) = torch.autograd.grad(loss, new)
        assert math.isfinite(loss.item()), level
        assert torch.isfinite(gradient).all(), level
