"""List-level and query-level advantages, and the loss they weigh. Paper section 3.4; method.md section 5.

    A_it = (R_query(q_ij) - muQ_j) / sigmaQ_j + lambda (R_seq(o_i) - muS) / sigmaS      token t in query j
    mu = mean_i R      sigma = sqrt(mean_i (R - mu)^2 + eps)                    over a prompt's G rollouts

A trigger token of Think has A_it = (r_trigger(T_ik) - mu_k) / sigma_k alone, for T_k of interest point k.

Shapes: P prompts, G rollouts each, K slots, N interest points, T tokens, M kinds of reward.
"""

from typing import Literal, NamedTuple

import torch

from aigq.training.spans import LIST, NOTHING

Credit = Literal["own", "suffix_dcg", "list"]
Norm = Literal["sum_then_normalise", "normalise_then_sum"]
Ratio = Literal["token", "query", "sequence"]


def group_normalise(rewards: torch.Tensor, eps: float) -> torch.Tensor:
    """(R - mu) / sigma over dimension 1, the G rollouts of a prompt; population variance, eps in the root."""
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(dim=1, keepdim=True) + eps)


def query_advantages(rewards: torch.Tensor, credit: Credit, norm: Norm, eps: float) -> torch.Tensor:
    """The part of each query (P, G, K).

    Args:
        rewards: (P, G, K, M) weighted rewards w_m r_m; 0 where a rollout has no query in a slot.
        credit: own: the query's own reward (the paper). suffix_dcg: what came from this slot on, discounted
            by rank (Rank-GRPO). list: the list's mean reward for every query, which is plain GRPO.
        norm: the sum over M is normalised (the paper), or each kind of reward before the sum (GDPO).
    """
    if credit == "list":
        rewards = rewards.mean(dim=2, keepdim=True).expand_as(rewards)
    elif credit == "suffix_dcg":
        discount = 1 / torch.log2(torch.arange(rewards.shape[2], device=rewards.device) + 2.0)  # (K,)
        rewards = (rewards * discount[:, None]).flip(2).cumsum(2).flip(2)
    if norm == "sum_then_normalise":
        return group_normalise(rewards.sum(dim=3), eps)
    return group_normalise(rewards, eps).sum(dim=3)


def token_advantages(
    queries: torch.Tensor,
    lists: torch.Tensor,
    slot: torch.Tensor,
    weight: float,
    clip: float,
    triggers: torch.Tensor | None = None,
) -> torch.Tensor:
    """A (P, G, T): the query's part plus lambda times the list's, or the trigger's part; within +-clip.

    Args:
        queries: (P, G, K) from `query_advantages`.
        lists: (P, G) normalised R_seq.
        slot: (P, G, T) slot of each token, LIST or NOTHING; from K on, a trigger of Think.
        weight: lambda.
        triggers: (P, G, N) normalised r_trigger.
    """
    parts = queries if triggers is None else torch.cat([queries, triggers], dim=2)  # (P, G, K + N)
    own = torch.gather(parts, 2, slot.clamp(min=0))  # (P, G, T)
    own = torch.where(slot >= 0, own, torch.zeros_like(own))
    shared = (weight * lists.unsqueeze(2)).expand_as(own)
    if triggers is not None:
        shared = torch.where(slot < queries.shape[2], shared, torch.zeros_like(shared))
    both = (own + shared).clamp(-clip, clip)
    return torch.where(slot == NOTHING, torch.zeros_like(both), both)


def equal_queries(slot: torch.Tensor) -> torch.Tensor:
    """Weights (N, T) that sum to the tokens with an advantage, each query of a list weighing the same.

    A token of query j weighs mean_len / len(query j), so that a long query does not weigh more than a short
    one in a loss that averages over tokens; LIST tokens weigh as one more query.
    """
    groups = slot.unsqueeze(2) == torch.arange(LIST, int(slot.max()) + 1, device=slot.device)  # (N, T, K+1)
    size = groups.sum(dim=1)  # (N, K+1) tokens of each query
    present = (size > 0).sum(dim=1, keepdim=True).clamp(min=1)
    mean = size.sum(dim=1, keepdim=True) / present
    return (groups * (mean / size.clamp(min=1)).unsqueeze(1)).sum(dim=2)


class Clip(NamedTuple):
    """eps_low, and eps_high for the tokens of high entropy: at or above this quantile of the batch."""

    low: float
    high: float
    quantile: float


def clip_bound(entropy: torch.Tensor, mask: torch.Tensor, clip: Clip) -> torch.Tensor:
    """Entropy-adaptive upper clip (N, T): eps_high where the token's entropy is in the batch's upper part."""
    threshold = torch.quantile(entropy[mask.bool()].float(), clip.quantile)
    return torch.where(entropy >= threshold, clip.high, clip.low)


def log_ratio(new: torch.Tensor, old: torch.Tensor, slot: torch.Tensor, level: Ratio) -> torch.Tensor:
    """log(pi / pi_old) (N, T) of the token, or its mean over the query or the whole list it belongs to."""
    difference = torch.where(slot == NOTHING, torch.zeros_like(new), new - old)
    if level == "token":
        return difference
    if level == "sequence":
        counted = (slot != NOTHING).sum(dim=1, keepdim=True).clamp(min=1)
        return (difference.sum(dim=1, keepdim=True) / counted).expand_as(new)
    groups = (slot.unsqueeze(2) == torch.arange(LIST, int(slot.max()) + 1, device=slot.device)).to(new.dtype)
    mean = torch.einsum("nt,ntk->nk", difference, groups) / groups.sum(dim=1).clamp(min=1)  # (N, K+1)
    return torch.einsum("nk,ntk->nt", mean, groups)


def policy_loss(
    log_ratio: torch.Tensor, advantages: torch.Tensor, upper: torch.Tensor, low: float, total: torch.Tensor
) -> torch.Tensor:
    """- sum_t min(r A, clip(r, 1 - eps_low, 1 + eps_t) A) / total, r = exp(log_ratio).

    Args:
        log_ratio: (N, T), 0 where nothing was written.
        advantages: (N, T), 0 where nothing was written; with the weights of `equal_queries`.
        upper: (N, T) eps_high of each token.
        low: eps_low.
        total: () tokens of the batch.
    """
    ratio = log_ratio.exp()
    clipped = torch.minimum(torch.maximum(ratio, ratio.new_tensor(1 - low)), 1 + upper)
    return -torch.minimum(ratio * advantages, clipped * advantages).sum() / total
