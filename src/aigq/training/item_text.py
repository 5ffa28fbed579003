"""The stage `aigq train item-text`: pairs of an item and a query that led to it, token NLL on the query.

RUN/models/item_text/             the trained model: a Hugging Face folder
RUN/models/item_text/training/    materials, checkpoints and log, as those of `aigq train sft`
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aigq.config import Config
from aigq.config_training import SftConfig
from aigq.errors import EmptyLogError
from aigq.history.item_prompt import ITEM_TOKENS, item_prompt
from aigq.history.prompt import SEPARATOR, clean
from aigq.models import generator
from aigq.models.item_writer import QUERY_TOKENS, encode_item, longest_prompt, writable
from aigq.models.vocabulary import Vocabulary, train_tokenizer
from aigq.progress import note
from aigq.samples.item_pairs import ItemLog, Pair, pairs
from aigq.samples.labels import Label
from aigq.training import checkpoints
from aigq.training.encoding import EncodedLists, encode_lists
from aigq.training.sft import fit_folder, with_materials


def train_item_text(config: Config, run: Path, log: ItemLog, *, resume: bool = False) -> dict[str, Any]:
    """Train the item-to-text model and leave its folder in RUN/models/item_text.

    Returns the summary that is also written to training.json; its HR is the share of held-out pairs whose
    query was written.

    Raises:
        EmptyLogError: no query of k users led to an item that may be learned from.
    """
    folder = run / "models" / "item_text" / "training"
    with_materials(folder, _fingerprint(config, log), lambda: _make_materials(config, log, folder))
    summary = fit_folder(
        folder, _settings(config), config.seed, resume=resume, batch_size=config.decoding.batch_size
    )
    checkpoints.deliver(folder, summary)
    return summary


def _settings(config: Config) -> SftConfig:
    """The training loop's settings: those of `sft`, with the section `item_text` in their place."""
    own = ("epochs", "max_steps", "batch_size", "learning_rate", "eval_every")
    changes = {key: getattr(config.item_text, key) for key in own}
    return config.sft.model_copy(update={**changes, "imitation_epochs": 0.0, "lora_rank": None})


def _fingerprint(config: Config, log: ItemLog) -> str:
    """Hash of all that the materials are made of."""
    parts = config.model_dump(mode="json", include={"seed", "generator", "encoder", "item_text"})
    seen = [sorted(log.servable), log.led, [item.__dict__ for item in log.items]]
    return hashlib.sha256(json.dumps([parts, seen], sort_keys=True).encode()).hexdigest()


def _make_materials(config: Config, log: ItemLog, folder: Path) -> dict[str, int]:
    """Write init/, train.npz, valid.npz and valid.json, see `training.materials`."""
    train, valid = (pairs(log, config, part) for part in ("train", "valid"))
    train, valid = ([p for p in part if item_prompt(p.item, p.asked)] for part in (train, valid))
    if not train or not valid:
        raise EmptyLogError(
            f"{len(train)} pairs to train and {len(valid)} to validate the item-to-text model: too few items "
            f"have a title, or queries of {config.samples.k_users} users that led to them before "
            f"{config.split.validation_from}; use a longer log, or history.item_text=template"
        )
    vocabulary = _start(config, log, train, folder / "init")
    may_write = set(writable(sorted(log.servable), vocabulary))
    note(f"item-to-text: {len(train):,} pairs of {len({p.item.item_id for p in train}):,} items")
    _encode(train, may_write, vocabulary).save(folder / "train.npz")
    rng = np.random.default_rng(config.seed)
    chosen = np.sort(rng.permutation(len(valid))[: config.item_text.eval_samples]).tolist()
    valid = [p for p in (valid[i] for i in chosen) if p.query in may_write]
    _encode(valid, may_write, vocabulary).save(folder / "valid.npz")
    truth = {
        "targets": [[p.query] for p in valid],
        "novel": [[False]] * len(valid),
        "days": [0] * len(valid),
        "servable": {0: sorted(may_write)},
        "length": 1,
    }
    (folder / "valid.json").write_text(json.dumps(truth, ensure_ascii=False), encoding="utf-8")
    return {"train": len(train), "valid": len(valid)}


def _encode(made: Sequence[Pair], may_write: set[str], vocabulary: Vocabulary) -> EncodedLists:
    """Prompts and queries as arrays; pairs whose query the model may not write are left out."""
    prompts = [encode_item(vocabulary, item_prompt(p.item, p.asked)) for p in made]
    labels = [[Label(p.query, "clicked")] if p.query in may_write else [] for p in made]
    return encode_lists(prompts, labels, vocabulary, tail_weight=1.0)


def _start(config: Config, log: ItemLog, train: Sequence[Pair], folder: Path) -> Vocabulary:
    """Write the model and the vocabulary to start from; words come from training pairs and queries alone."""
    if config.generator.base is not None:
        model, vocabulary = generator.extend_pretrained(config.generator.base, ITEM_TOKENS)
    else:
        items = {p.item.item_id: p.item for p in train}.values()
        texts = [
            (piece.removesuffix(SEPARATOR), 1)
            for item in items
            for piece in item_prompt(item, [])
            if piece not in ITEM_TOKENS
        ]
        texts += [(clean(query), 2) for query in sorted(log.servable)]
        vocabulary = Vocabulary(train_tokenizer(texts, config.generator.vocab_size, ITEM_TOKENS, words=True))
        context = longest_prompt(config.item_text.asked) + QUERY_TOKENS + 1
        model = generator.new(config, vocabulary, context)
    model.save_pretrained(folder)
    vocabulary.tokenizer.save_pretrained(folder)
    return vocabulary
