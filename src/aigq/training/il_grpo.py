"""IL-GRPO as one readable loop, without a trainer framework. Paper section 3.4; method.md section 5.

Each step: P prompts -> G sampled lists each -> rewards per query and per list -> advantages per token ->
one optimiser step. Rollouts are strictly on-policy and fresh, so there is no reference model and no KL.
`trl_trainer.py` computes the same loss inside TRL.

Every step draws from random numbers seeded by its own number, so a resumed training equals an uninterrupted
one, bit for bit.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from transformers import PreTrainedModel

from aigq.config_training import GrpoConfig
from aigq.models.decoding import (
    Asked,
    DrawGroups,
    ListRow,
    QueryTree,
    Row,
    longest_list,
    padded,
    sample_groups,
)
from aigq.models.vocabulary import Vocabulary
from aigq.training import advantages as credit
from aigq.training import checkpoints, loop
from aigq.training.checkpoints import Progress, Report, Validate
from aigq.training.judge import Judge, Scores
from aigq.training.policy import log_probabilities
from aigq.training.spans import LIST, NOTHING, Output, Spans, spans_of
from aigq.training.thought_spans import ThoughtForm

COLLAPSED: Final = "lists collapse to few categories; see grpo.collapse"


@dataclass(frozen=True)
class Task:
    """The prompts of a training: token ids, what may be written there, and the judge of what is written.

    With `thoughts` a rollout is an output of Think, without it a list. `barred` are the queries of the tree
    that the rollouts of a prompt may not name; none, if there are no such lists.
    """

    prompts: Sequence[Sequence[int]]
    trees: Sequence[QueryTree]
    judge: Judge
    category_of: dict[str, str]
    thoughts: ThoughtForm | None = None
    barred: Sequence[Iterable[str]] = ()

    def row(self, prompt: int) -> Row:
        """What one rollout of a prompt may write."""
        barred = self.barred[prompt] if self.barred else ()
        queries = ListRow(self.trees[prompt], self.judge.slots, barred)
        return self.thoughts.row(prompt, queries) if self.thoughts else queries

    def asked(self, prompts: Sequence[int], config: GrpoConfig) -> Asked:
        """G rollouts for each of these prompts, in a row."""
        each = [prompt for prompt in prompts for _ in range(config.group)]
        rows = [partial(self.row, prompt) for prompt in each]
        ids = [self.prompts[prompt] for prompt in each]
        return Asked(ids, rows, self.room(), config.temperature, config.top_k)

    def room(self) -> int:
        """The longest rollout in tokens."""
        trees, slots = {id(tree): tree for tree in self.trees}.values(), self.judge.slots
        if self.thoughts:
            return self.thoughts.room(trees, slots)
        return longest_list(trees, slots)

    def read(self, prompt: int, tokens: Sequence[int], vocabulary: Vocabulary) -> Output:
        """The spans of one rollout (T,): padding after the end token is NOTHING."""
        if self.thoughts is None:
            return Output(*read_list(tokens, vocabulary, self.judge.slots))
        written = list(tokens)
        length = next((t for t, token in enumerate(written, 1) if token == vocabulary.end), len(written))
        spans = self.thoughts.read(prompt, written[:length], self.judge.slots)
        return spans._replace(slot=spans.slot + [NOTHING] * (len(written) - length))


@dataclass(frozen=True)
class Rollouts:
    """What was written at one step.

    rows: the P prompts; tokens (P, G, T) padded on the right; slot (P, G, T) from spans.py; lists: the
    queries, [P][G][<= K]. Of Think also triggers [P][G][<= N], the behaviours of each point, and faults
    [P][G], how often the output leaves the grammar.
    """

    rows: list[int]
    tokens: torch.Tensor
    slot: torch.Tensor
    lists: list[list[list[str]]]
    triggers: list[list[Sequence[Sequence[int]]]] = field(default_factory=list)
    faults: list[list[int]] = field(default_factory=list)


def fit(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    task: Task,
    config: GrpoConfig,
    folder: Path,
    *,
    seed: int,
    validate: Validate,
    report: Report,
    resume: bool = False,
    draw: DrawGroups = sample_groups,
) -> Progress:
    """Train; the best weights by validation Query HR end up in folder/best, the log in folder/log.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0, betas=(0.9, 0.98))
    progress = checkpoints.begin(folder, model, optimizer, resume=resume)
    if progress is None:
        progress = Progress(total=config.steps)
        checkpoints.validate_and_keep(model, folder, progress, validate, report)
    started = time.monotonic() - progress.seconds
    while progress.step < progress.total and not progress.collapsed:
        torch.manual_seed(seed * 1_000_003 + progress.step)
        chosen = choose(task, config, seed, progress.step)
        rollouts = roll_out(model, vocabulary, task, config, chosen, draw)
        scores = task.judge.score(rollouts.rows, rollouts.lists, rollouts.triggers, rollouts.faults)
        advantages, kept = token_advantages(scores, rollouts, config, task.judge.best())
        bonus = config.entropy_bonus * (1 - progress.step / progress.total)
        figures = step(model, optimizer, vocabulary, task, rollouts, advantages, config, bonus)
        progress.step += 1
        progress.tokens += int((rollouts.slot != NOTHING).sum())
        progress.seconds = time.monotonic() - started
        entry = {"step": progress.step, "of": progress.total, **figures, "kept_prompts": kept}
        entry |= health(rollouts, scores, task.category_of)
        report(entry)
        checkpoints.log(folder, {**entry, "seconds": round(progress.seconds, 2)})
        progress.follow(entry["categories"], config.collapse)
        if progress.step % config.eval_every == 0 or progress.step == progress.total or progress.collapsed:
            checkpoints.validate_and_keep(model, folder, progress, validate, report)
            progress.seconds = time.monotonic() - started
            checkpoints.save(folder, model, optimizer, progress)
        if progress.collapsed:
            report({"step": progress.step, "stopped": COLLAPSED})
    return progress


def choose(task: Task, config: GrpoConfig, seed: int, step: int) -> list[int]:
    """The prompts of a step: one pass after another over all of them, each in a new random order."""
    n, size = len(task.prompts), min(config.prompts, len(task.prompts))
    places = np.arange(step * size, (step + 1) * size)
    orders = {e: np.random.default_rng((seed, e)).permutation(n) for e in set((places // n).tolist())}
    return [int(orders[place // n][place % n]) for place in places.tolist()]


def roll_out(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    task: Task,
    config: GrpoConfig,
    rows: list[int],
    draw: DrawGroups = sample_groups,
) -> Rollouts:
    """Sample G lists for each of the prompts `rows` and find the queries in them."""
    tokens = draw(model, vocabulary, task.asked(rows, config), config.group)  # (P, G, T)
    spans = [
        [task.read(i, one, vocabulary) for one in each] for i, each in zip(rows, tokens.tolist(), strict=True)
    ]
    return Rollouts(
        rows,
        tokens,
        torch.tensor([[one.slot for one in each] for each in spans]),
        [[one.queries for one in each] for each in spans],
        [[one.triggers for one in each] for each in spans],
        [[one.faults for one in each] for each in spans],
    )


def read_list(tokens: Sequence[int], vocabulary: Vocabulary, slots: int) -> Spans:
    """The spans of one generated row (T,): the end token is LIST, padding after it is NOTHING."""
    written = list(tokens)
    length = next((t for t, token in enumerate(written) if token == vocabulary.end), len(written))
    queries, slot = spans_of(written[:length], vocabulary.tokenizer, slots)
    after = len(written) - length
    return Spans(queries, slot + [LIST] * (after > 0) + [NOTHING] * (after - 1))


def token_advantages(
    scores: Scores, rollouts: Rollouts, config: GrpoConfig, best: float
) -> tuple[torch.Tensor, int]:
    """A (P, G, T), with equal weight for the queries of a list, and how many prompts the filter kept.

    A trigger sequence of Think weighs as a query does. With credit per list alone its tokens share the
    queries' advantage, and r_trigger is not used.
    """
    lists = credit.group_normalise(scores.lists, config.epsilon)  # (P, G)
    queries = credit.query_advantages(scores.query, config.credit, config.norm, config.epsilon)  # (P, G, K)
    triggers = None
    if scores.triggers is not None and config.credit == "list":
        queries = torch.cat([queries, queries[..., :1].expand_as(scores.triggers)], dim=2)  # (P, G, K + N)
    elif scores.triggers is not None:
        triggers = credit.group_normalise(scores.triggers, config.epsilon)  # (P, G, N)
    per_token = credit.token_advantages(
        queries, lists, rollouts.slot, config.list_weight, config.advantage_clip, triggers
    )
    weights = credit.equal_queries(rollouts.slot.flatten(0, 1)).view_as(per_token)
    low, high = config.difficulty
    share = scores.difficulty(best)  # (P,)
    kept = (share > low) & (share < high)
    return per_token * weights * kept[:, None, None], int(kept.sum())


def step(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    vocabulary: Vocabulary,
    task: Task,
    rollouts: Rollouts,
    advantages: torch.Tensor,
    config: GrpoConfig,
    bonus: float,
) -> dict[str, float]:
    """One optimiser step over all rollouts, a few prompts at a time."""
    model.train()
    total = (rollouts.slot != NOTHING).sum()
    loss = entropy = 0.0
    for start in range(0, len(rollouts.rows), config.prompts_at_once):
        part = slice(start, start + config.prompts_at_once)
        prompts = padded([task.prompts[i] for i in rollouts.rows[part]], vocabulary.pad)
        policy, mean_entropy = part_loss(
            model, prompts, rollouts.tokens[part], rollouts.slot[part], advantages[part], total, config
        )
        (policy - bonus * mean_entropy).backward()
        loss, entropy = loss + policy.item(), entropy + mean_entropy.item()
    norm = loop.clip_gradients(model, config.gradient_clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"loss": loss, "entropy": entropy, "gradient_norm": norm}


def part_loss(
    model: PreTrainedModel,
    prompts: tuple[torch.Tensor, torch.Tensor],
    tokens: torch.Tensor,
    slot: torch.Tensor,
    advantages: torch.Tensor,
    total: torch.Tensor,
    config: GrpoConfig,
    old: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """This part's share of the policy loss and of the mean entropy.

    Args:
        prompts: ids and mask (P, S).
        tokens, slot, advantages: (P, G, T).
        total: () tokens of the whole batch.
        old: (P*G, T) log-probabilities at sampling time; None: the present ones, as strictly on-policy.
    """
    device = model.device
    ids, mask = (tensor.to(device) for tensor in prompts)
    slot, weighted = slot.flatten(0, 1).to(device), advantages.flatten(0, 1).to(device)  # (N, T)
    logp, entropy = log_probabilities(model, ids, mask, tokens.to(device), config.temperature)
    written = slot != NOTHING
    upper = credit.clip_bound(
        entropy.detach(), written, credit.Clip(config.clip_low, config.clip_high, config.entropy_quantile)
    )
    ratio = credit.log_ratio(logp, logp.detach() if old is None else old, slot, config.ratio)
    loss = credit.policy_loss(ratio, weighted, upper, config.clip_low, total.to(device))
    return loss, torch.where(written, entropy, torch.zeros_like(entropy)).sum() / total.to(device)


def health(rollouts: Rollouts, scores: Scores, category_of: dict[str, str]) -> dict[str, Any]:
    """What tells learning from reward hacking and collapse, of one step."""
    query = scores.query  # (P, G, K, 3)
    flat = [one for each in rollouts.lists for one in each]
    categories = [len({category_of.get(q, q) for q in one}) for one in flat]
    silent = (query.sum(dim=3).var(dim=1, unbiased=False) < 1e-12).all(dim=1)  # (P,)
    reward = query.sum(dim=3)
    points = max(1, sum(len(one) for each in rollouts.triggers for one in each))
    of_think = {} if scores.triggers is None else {"trigger": float(scores.triggers.sum()) / points}
    return {
        "reward": float(reward.mean()),
        "reward_by_slot": [round(float(r), 4) for r in reward.mean(dim=(0, 1))],
        "ctr": float(query[..., 0].mean()),
        "rouge": float(query[..., 1].mean()),
        "list_reward": float(scores.lists.mean()),
        **of_think,
        "no_signal": float(silent.float().mean()),
        "queries": float(np.mean([len(set(one)) for one in flat])),
        "categories": float(np.mean(categories)),
        "characters": float(np.mean([len(q) for one in flat for q in one] or [0])),
    }
