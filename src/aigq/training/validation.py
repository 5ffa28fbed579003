"""Query HR of generated lists on validation moments, from the files valid.npz and valid.json alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from aigq.config_training import ThinkConfig
from aigq.models.decoding import QueryTree, Trees, generate_lists, writer
from aigq.models.think_decoding import Marks, generate_thoughts
from aigq.models.vocabulary import Vocabulary
from aigq.samples.interests import by_rank
from aigq.training.checkpoints import Validate
from aigq.training.encoding import EncodedLists

Draw = Callable[[PreTrainedModel, list[list[int]], list[QueryTree], np.ndarray], list[list[str]]]
"""Lists of one batch: draw(model, prompts, trees, which samples they are)."""


def validator(folder: Path, vocabulary: Vocabulary, batch_size: int) -> Validate:
    """What measures a model on the validation moments of a training folder, with greedy lists.

    Think reasons first where that is trained.
    """
    data = EncodedLists.load(folder / "valid.npz")
    truth = json.loads((folder / "valid.json").read_text(encoding="utf-8"))
    trees = Trees(vocabulary).by_day(truth["servable"])
    draw = _thinker(truth, vocabulary) if "think" in truth else _lister(truth, vocabulary)

    def validate(model: PreTrainedModel) -> dict[str, float]:
        hits, novel = [], []
        order = np.argsort(data.prompt_lengths, kind="stable")
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            prompts = [data.prompt(i).tolist() for i in rows]
            where = [trees[str(truth["days"][i])] for i in rows]
            lists = draw(model, prompts, where, rows)
            for i, queries in zip(rows, lists, strict=True):
                found = [q in set(queries) for q in truth["targets"][i]]
                hits.append(np.mean(found))
                new = [f for f, is_new in zip(found, truth["novel"][i], strict=True) if is_new]
                novel += [np.mean(new)] if new else []
        return {"query_hr": float(np.mean(hits)), "novel_query_hr": float(np.mean(novel)) if novel else 0.0}

    return validate


def _lister(truth: dict[str, Any], vocabulary: Vocabulary) -> Draw:
    def draw(
        model: PreTrainedModel, prompts: list[list[int]], trees: list[QueryTree], rows: np.ndarray
    ) -> list[list[str]]:
        write = writer(model, vocabulary)
        return generate_lists(write, prompts, trees, truth["length"], without=_barred(truth, rows))

    return draw


def _thinker(truth: dict[str, Any], vocabulary: Vocabulary) -> Draw:
    """Lists merged over interest points."""
    limits = ThinkConfig.model_validate(truth["think"])
    reasoning = limits.without_rationale < 1
    marks = Marks.of(vocabulary)

    def draw(
        model: PreTrainedModel, prompts: list[list[int]], trees: list[QueryTree], rows: np.ndarray
    ) -> list[list[str]]:
        behaviours = [truth["behaviours"][i] for i in rows]
        written = generate_thoughts(
            writer(model, vocabulary),
            marks,
            prompts,
            behaviours,
            trees,
            truth["length"],
            limits,
            reasoning=reasoning,
            without=_barred(truth, rows),
        )
        return [by_rank(thought.points) for thought in written]

    return draw


def _barred(truth: dict[str, Any], rows: np.ndarray) -> list[list[str]] | None:
    """What the lists of these samples may not name, where they hold new queries alone."""
    return [truth["issued"][i] for i in rows] if "issued" in truth else None
