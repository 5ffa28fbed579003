"""Scores rollouts: generated lists in, tensors of rewards out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from aigq.config_training import GrpoConfig
from aigq.training import rewards

Clicks = Callable[[Sequence[int], Sequence[Sequence[str]]], list[np.ndarray]]
"""Click probabilities of queries at the moments of prompts: clicks(rows, queries of each row)."""


class Scores(NamedTuple):
    """Rewards of P prompts with G rollouts of K slots.

    query: (P, G, K, 3) weighted w_m r_m for CTR, ROUGE-L and length; 0 where a slot is missing or empty.
    lists: (P, G) R_seq.
    """

    query: torch.Tensor
    lists: torch.Tensor

    def difficulty(self, best: float) -> torch.Tensor:
        """Mean query reward of each prompt (P,) as a share of the best possible one."""
        return self.query.sum(dim=3).mean(dim=(1, 2)) / best


@dataclass(frozen=True)
class Judge:
    """All that rewards depend on besides the lists.

    Args:
        config: weights, caps and matching.
        clicks: the CTR model.
        references: for each prompt, the label list that slots are compared with.
        gamma: scale of the CTR reward, see `rewards.ctr_gain`.
        lengths: characters of a usual query, shortest and longest.
        slots: K.
    """

    config: GrpoConfig
    clicks: Clicks
    references: Sequence[Sequence[str]]
    gamma: float
    lengths: tuple[int, int]
    slots: int

    def score(self, rows: Sequence[int], lists: Sequence[Sequence[Sequence[str]]]) -> Scores:
        """Rewards of the rollouts of these prompts; `lists` holds G lists of queries for each of them."""
        weights, group = self.config.weights, len(lists[0])
        probabilities = self.clicks(rows, [[q for one in each for q in one] for each in lists])
        query = np.zeros((len(rows), group, self.slots, 3), np.float32)
        whole = np.zeros((len(rows), group), np.float32)
        for p, (row, each) in enumerate(zip(rows, lists, strict=True)):
            ends = np.cumsum([len(one) for one in each])
            for g, (one, chances) in enumerate(zip(each, np.split(probabilities[p], ends[:-1]), strict=True)):
                n = len(one)
                query[p, g, :n, 0] = weights.ctr * rewards.ctr_reward(
                    chances, self.gamma, self.config.ctr_cap
                )
                query[p, g, :n, 1] = weights.rouge * self._rouge(one, self.references[row])
                query[p, g, :n, 2] = [weights.length * rewards.length_reward(q, *self.lengths) for q in one]
                query[p, g, :n][[not q for q in one]] = 0.0
                whole[p, g] = rewards.format_reward(one, self.slots) + rewards.repeat_reward(one)
        bound = self.config.reward_clip
        return Scores(
            torch.from_numpy(query.clip(-bound, bound)), torch.from_numpy(whole.clip(-bound, bound))
        )

    def best(self) -> float:
        """The largest reward a query can have."""
        weights = self.config.weights
        return weights.ctr * self.config.ctr_cap + weights.rouge + weights.length

    def _rouge(self, queries: Sequence[str], reference: Sequence[str]) -> np.ndarray:
        """ROUGE-L of each query with its reference (n,)."""
        if self.config.match == "position":
            pairs = zip(queries, reference, strict=False)
            scores = [rewards.query_rouge(q, r) for q, r in pairs]
            return np.array(scores + [0.0] * (len(queries) - len(scores)))
        table = np.array([[rewards.query_rouge(q, r) for r in reference] for q in queries])
        table = table.reshape(len(queries), len(reference))
        matched = rewards.match_by_set(table)
        return np.array([table[i, m] if m >= 0 else 0.0 for i, m in enumerate(matched)])
