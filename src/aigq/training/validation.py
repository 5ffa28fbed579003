"""Query HR of generated lists on validation moments, from the files valid.npz and valid.json alone."""

import json
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from aigq.models.decoding import QueryTree, generate_lists
from aigq.models.vocabulary import Vocabulary
from aigq.training.checkpoints import Validate
from aigq.training.encoding import EncodedLists


def validator(folder: Path, vocabulary: Vocabulary, batch_size: int) -> Validate:
    """What measures a model on the validation moments of a training folder, with greedy lists."""
    data = EncodedLists.load(folder / "valid.npz")
    truth = json.loads((folder / "valid.json").read_text(encoding="utf-8"))
    trees = {day: QueryTree(queries, vocabulary) for day, queries in truth["servable"].items()}

    def validate(model: PreTrainedModel) -> dict[str, float]:
        hits, novel = [], []
        order = np.argsort(data.prompt_lengths, kind="stable")
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            prompts = [data.prompt(i).tolist() for i in rows]
            where = [trees[str(truth["days"][i])] for i in rows]
            lists = generate_lists(model, vocabulary, prompts, where, truth["length"])
            for i, queries in zip(rows, lists, strict=True):
                found = [q in set(queries) for q in truth["targets"][i]]
                hits.append(np.mean(found))
                new = [f for f, is_new in zip(found, truth["novel"][i], strict=True) if is_new]
                novel += [np.mean(new)] if new else []
        return {"query_hr": float(np.mean(hits)), "novel_query_hr": float(np.mean(novel)) if novel else 0.0}

    return validate
