"""Scores rollouts: generated lists in, tensors of rewards out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from aigq.config_training import GrpoConfig
from aigq.training import rewards

_T = TypeVar("_T")

Clicks = Callable[[Sequence[int], Sequence[Sequence[str]]], list[np.ndarray]]
"""Click probabilities of queries at the moments of prompts: clicks(rows, queries of each row)."""


class Scores(NamedTuple):
    """Rewards of P prompts with G rollouts of K slots.

    query: (P, G, K, 3) weighted w_m r_m for CTR, ROUGE-L and length; 0 where a slot is missing or empty.
    lists: (P, G) R_seq.
    triggers: (P, G, N) r_trigger of Think's interest points; 0 where a rollout has no such point.
    """

    query: torch.Tensor
    lists: torch.Tensor
    triggers: torch.Tensor | None = None

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
        triggers: of Think, for each prompt the behaviours of the label's interest points, in order.
        points: of Think, N.
    """

    config: GrpoConfig
    clicks: Clicks
    references: Sequence[Sequence[str]]
    gamma: float
    lengths: tuple[int, int]
    slots: int
    triggers: Sequence[Sequence[Sequence[int]]] = ()
    points: int = 0

    def score(
        self,
        rows: Sequence[int],
        lists: Sequence[Sequence[Sequence[str]]],
        triggers: Sequence[Sequence[Sequence[Sequence[int]]]] = (),
        faults: Sequence[Sequence[int]] = (),
    ) -> Scores:
        """Rewards of the rollouts of these prompts.

        Args:
            rows: the P prompts.
            lists: [P][G] lists of queries.
            triggers: of Think, [P][G] the behaviours of each interest point.
            faults: of Think, [P][G] how often the output leaves the grammar.
        """
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
                query[p, g, :n, 1] = weights.rouge * self._matched(
                    one, self.references[row], rewards.query_rouge
                )
                query[p, g, :n, 2] = [weights.length * rewards.length_reward(q, *self.lengths) for q in one]
                query[p, g, :n][[not q for q in one]] = 0.0
                broken = faults[p][g] if faults else 0
                whole[p, g] = rewards.format_reward(one, self.slots, broken) + rewards.repeat_reward(one)
        bound = self.config.reward_clip
        return Scores(
            torch.from_numpy(query.clip(-bound, bound)),
            torch.from_numpy(whole.clip(-bound, bound)),
            self._trigger_scores(rows, triggers) if self.points else None,
        )

    def _trigger_scores(
        self, rows: Sequence[int], triggers: Sequence[Sequence[Sequence[Sequence[int]]]]
    ) -> torch.Tensor:
        """r_trigger (P, G, N): the k-th point's behaviours against those of the label's k-th point."""
        scores = torch.zeros(len(rows), len(triggers[0]), self.points)
        for p, (row, each) in enumerate(zip(rows, triggers, strict=True)):
            for g, one in enumerate(each):
                matched = self._matched(one, self.triggers[row], rewards.trigger_reward)
                scores[p, g, : len(one)] = torch.from_numpy(matched)
        return scores

    def best(self) -> float:
        """The largest reward a query can have."""
        weights = self.config.weights
        return weights.ctr * self.config.ctr_cap + weights.rouge + weights.length

    def _matched(
        self, written: Sequence[_T], reference: Sequence[_T], similarity: Callable[[_T, _T], float]
    ) -> np.ndarray:
        """Similarity of each thing that was written with its reference (n,)."""
        if self.config.match == "position":
            scores = [similarity(w, r) for w, r in zip(written, reference, strict=False)]
            return np.array(scores + [0.0] * (len(written) - len(scores)))
        table = np.array([[similarity(w, r) for r in reference] for w in written])
        table = table.reshape(len(written), len(reference))
        matched = rewards.match_by_set(table)
        return np.array([table[i, m] if m >= 0 else 0.0 for i, m in enumerate(matched)])
