"""A tiny model, its prompts and a judge that needs no CTR model: small enough for exact comparisons."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from aigq import training_log
from aigq.config import PromptConfig
from aigq.config_training import GeneratorConfig, GrpoConfig
from aigq.history.prompt import special_tokens
from aigq.models import generator
from aigq.models.decoding import DrawGroups, QueryTree, sample_groups
from aigq.models.vocabulary import Vocabulary, train_tokenizer
from aigq.training import il_grpo
from aigq.training.checkpoints import Progress
from aigq.training.il_grpo import Task
from aigq.training.judge import Judge

QUERIES = ["milk", "oat milk", "bread", "white bread", "eggs", "牛奶", "brown eggs", "tea"]
SLOTS = 4


def vocabulary() -> Vocabulary:
    special = special_tokens(PromptConfig(max_behaviours=4), [])
    return Vocabulary(train_tokenizer([(q, 3) for q in QUERIES[:5]], 300, special))


def model(words: Vocabulary, heads: int = 2) -> generator.PreTrainedModel:
    config = GeneratorConfig(hidden_size=32, layers=2, heads=heads, kv_heads=heads, intermediate_size=64)
    return generator.build(config, words, 160, seed=0)


def clicks(rows: list[int], queries: list[list[str]]) -> list[np.ndarray]:
    """Shopper `row` likes short queries, a little more or less."""
    return [
        np.array([0.1 / (1 + len(q)) + 0.01 * row for q in one])
        for row, one in zip(rows, queries, strict=True)
    ]


def task(words: Vocabulary, config: GrpoConfig, prompts: int = 6) -> Task:
    texts = [f"<behaviours>{QUERIES[i % 8]};;{QUERIES[(i * 3) % 8]};;<queries>" for i in range(prompts)]
    tree = QueryTree(QUERIES, words)
    references = [[QUERIES[(i + j) % 8] for j in range(SLOTS)] for i in range(prompts)]
    judge = Judge(config, clicks, references, gamma=20.0, lengths=(3, 11), slots=SLOTS)
    ids = [words.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    return Task(ids, [tree] * prompts, judge, {q: q.split()[-1] for q in QUERIES})


def config(**changes: object) -> GrpoConfig:
    small = {
        "steps": 4,
        "prompts": 4,
        "group": 4,
        "prompts_at_once": 4,
        "eval_every": 2,
        "difficulty": (0.0, 1.0),
    }
    return GrpoConfig.model_validate({**small, "learning_rate": 1e-3, **changes})


def fit(
    policy: generator.PreTrainedModel,
    config: GrpoConfig,
    folder: Path,
    *,
    trainer: Callable[..., Progress] = il_grpo.fit,
    validate: Callable[[Any], dict[str, float]] = lambda policy: {"query_hr": 0.5},
    report: Callable[[dict[str, Any]], None] = lambda entry: None,
    resume: bool = False,
    draw: DrawGroups = sample_groups,
) -> Progress:
    """A training on the toy task, in our loop or under another trainer of the same arguments."""
    words = vocabulary()
    given = {"resume": resume, "seed": 5, "validate": validate, "report": report, "draw": draw}
    return trainer(policy, words, task(words, config), config, folder, **given)


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The log of a training, without what the clock says."""
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in training_log.read(folder)]
