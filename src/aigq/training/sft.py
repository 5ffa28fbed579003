"""The stage `aigq train sft`: labels, token arrays, a start, the loop, a model folder.

RUN/models/SYSTEM/           the trained model: a Hugging Face folder
RUN/models/SYSTEM/training/  arrays, initial weights, checkpoints and log; enough to train elsewhere
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from aigq.config import Config, SftConfig
from aigq.errors import ConfigError, EmptyLogError
from aigq.history.prompt import clean, profiles_of, special_tokens
from aigq.models import generator
from aigq.models.decoding import QueryTree, generate_lists
from aigq.models.vocabulary import Vocabulary, train_tokenizer
from aigq.samples.labels import Label, fuse, log_order_labels, ranked_labels
from aigq.training import loop
from aigq.training.encoding import EncodedLists, encode_lists

SYSTEMS = ("direct_il_sft", "direct_sft")
_RANKED = 200  # queries that each channel scores for the ranker
_LIST_TOKENS = 6  # room a query may take in the context


def variant(config: Config, system: str) -> Config:
    """The config of one row. `direct_sft` is the paper's SFT row: log order, verbose prompt."""
    if system == "direct_il_sft":
        return config
    if system == "direct_sft":
        prompt = config.prompt.model_copy(update={"style": "verbose"})
        sft = config.sft.model_copy(update={"labels": "log_order"})
        return config.model_copy(update={"prompt": prompt, "sft": sft})
    raise ConfigError(f"unknown system {system}; known: {', '.join(SYSTEMS)}")


def train_sft(
    config: Config, run: Path, *, resume: bool = False, system: str = "direct_il_sft"
) -> dict[str, Any]:
    """Train one system and leave its model folder in RUN/models/SYSTEM.

    Returns the summary that is also written to training.json: steps, tokens, seconds, best validation HR.
    """
    config = variant(config, system)
    folder = run / "models" / system / "training"
    folder.mkdir(parents=True, exist_ok=True)
    key = _fingerprint(config, run)
    marker = folder / "encoded.json"
    if not marker.exists() or json.loads(marker.read_text())["key"] != key:
        shutil.rmtree(folder)
        folder.mkdir()
        part = folder / "encoded.part"
        part.write_text(json.dumps({"key": key, **_encode(config, run, folder)}))
        part.replace(marker)  # there only when everything that it vouches for is
    summary = fit_folder(
        folder, config.sft, config.seed, resume=resume, batch_size=config.decoding.batch_size
    )
    for file in (folder / "best").iterdir():
        shutil.copy2(file, folder.parent / file.name)
    (folder.parent / "training.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def fit_folder(
    folder: Path, config: SftConfig, seed: int, *, resume: bool = False, batch_size: int = 64
) -> dict[str, Any]:
    """Train from the files of one training folder alone: needs torch and transformers, no tables.

    So the arrays can be made on one machine and the training done on another.
    """
    from aigq.progress import note, task

    model = generator.load(folder / "init")
    if config.lora_rank:
        from peft import LoraConfig, get_peft_model

        adapted: Any = get_peft_model(model, LoraConfig(r=config.lora_rank, target_modules="all-linear"))
        model = adapted
    vocabulary = Vocabulary.load(folder / "init")
    data = EncodedLists.load(folder / "train.npz")
    with task("training steps") as advance:

        def report(entry: dict[str, Any]) -> None:
            if "loss" in entry:
                advance(1)
            else:
                note(f"step {entry['step']}: validation Query HR {entry['valid_query_hr']:.4f}")

        progress = loop.fit(
            model,
            data,
            config,
            folder,
            pad=vocabulary.pad,
            seed=seed,
            validate=_validator(folder, vocabulary, batch_size),
            report=report,
            resume=resume,
        )
    vocabulary.tokenizer.save_pretrained(folder / "best")
    return {
        "samples": len(data),
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 1),
        "best_valid_query_hr": progress.best,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _validator(folder: Path, vocabulary: Vocabulary, batch_size: int) -> loop.Validate:
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


def _encode(config: Config, run: Path, folder: Path) -> dict[str, int]:
    from aigq.models.direct import prompt_writer
    from aigq.prepared import CausalCounts, Prepared

    prepared = Prepared.load(run / "prepared")
    queries = prepared.queries.filter(generator_allowed(prepared, config.samples.k_users))
    allowed = set(queries["query"].to_pylist())
    train = _subset(prepared.split("train"), config.sft.max_samples, config.seed)
    valid = _subset(prepared.split("valid"), config.sft.eval_samples, config.seed)
    if train.num_rows == 0 or valid.num_rows == 0 or not allowed:
        raise EmptyLogError(
            f"{train.num_rows} training and {valid.num_rows} validation samples, {len(allowed)} queries "
            f"issued by {config.samples.k_users} users: nothing to learn from; see split and samples.k_users"
        )
    vocabulary = _start(config, prepared, queries, folder / "init")
    writer = prompt_writer(config, prepared)
    budget = config.prompt.budget_tokens
    for name, samples in (("train", train), ("valid", valid)):
        moments = prepared.moments(samples)
        targets = samples["targets"].to_pylist()
        labels: Sequence[Sequence[Label]]
        if name == "valid":
            labels = [[Label("", "clicked")]] * len(
                moments
            )  # prompts only: validation compares generated lists
        elif config.sft.labels == "log_order":
            labels = [log_order_labels(t, allowed, config.samples.list_length) for t in targets]
        else:
            rankings = _rankings(config, run, prepared, moments)
            length, tail = config.samples.list_length, config.sft.tail
            labels = [
                ranked_labels(t, r, allowed, length, tail) for t, r in zip(targets, rankings, strict=True)
            ]
        prompts = [vocabulary.encode_prompt(writer.pieces(m), budget) for m in moments]
        encode_lists(prompts, labels, vocabulary, config.sft.tail_weight).save(folder / f"{name}.npz")
    counts = CausalCounts(prepared.query_days, None)
    days = valid["day"].to_pylist()
    truth = {
        "targets": valid["targets"].to_pylist(),
        "novel": valid["novel"].to_pylist(),
        "days": days,
        "servable": {day: sorted(counts.servable(day, config.samples.k_users)) for day in sorted(set(days))},
        "length": config.samples.list_length,
    }
    (folder / "valid.json").write_text(json.dumps(truth, ensure_ascii=False), encoding="utf-8")
    return {"train": train.num_rows, "valid": valid.num_rows}


def generator_allowed(prepared: Any, k_users: int) -> Any:
    """Mask over the queries table: issued by at least k distinct users in training."""
    import pyarrow.compute as pc

    return pc.greater_equal(prepared.queries["users"], k_users)


def _start(config: Config, prepared: Any, queries: Any, folder: Path) -> Vocabulary:
    special = special_tokens(config.prompt, profiles_of(prepared.users).values())
    context = config.prompt.budget_tokens + config.samples.list_length * _LIST_TOKENS + 1
    if config.generator.start is not None:
        model, vocabulary = generator.load(config.generator.start), Vocabulary.load(config.generator.start)
    elif config.generator.base is not None:
        model, vocabulary = generator.extend_pretrained(config.generator.base, special)
    else:
        counts = zip(queries["query"].to_pylist(), queries["issues"].to_pylist(), strict=True)
        # the root flattens the counts, so that rare whole queries become tokens too
        texts = [(clean(query), int(n**0.5) + 1) for query, n in counts]
        vocabulary = Vocabulary(train_tokenizer(texts, config.generator.vocab_size, special))
        model = generator.build(config.generator, vocabulary, context, config.seed)
        if config.generator.init_from_encoder:
            from aigq.models.text_encoder import TextEncoder

            generator.start_from_encoder(model, vocabulary, TextEncoder(config.encoder.name).encode)
    model.save_pretrained(folder)
    vocabulary.tokenizer.save_pretrained(folder)
    return vocabulary


def _rankings(config: Config, run: Path, prepared: Any, moments: Sequence[Any]) -> Iterator[list[str]]:
    from aigq.recall import build_channel

    weights = config.sft.ranker
    proposals = {}
    for name in weights:
        channel = build_channel(name, config, run)
        channel.fit(prepared)
        proposals[name] = channel.recommend(moments, _RANKED)
    for i in range(len(moments)):
        yield fuse({name: {h.query: h.score for h in lists[i]} for name, lists in proposals.items()}, weights)


def _subset(samples: Any, n: int | None, seed: int) -> Any:
    if n is None or n >= samples.num_rows:
        return samples
    rows = np.sort(np.random.default_rng(seed).choice(samples.num_rows, n, replace=False))
    return samples.take(rows)


def _fingerprint(config: Config, run: Path) -> str:
    parts = config.model_dump(
        mode="json", include={"seed", "split", "samples", "prompt", "generator", "encoder"}
    )
    parts["sft"] = {
        k: getattr(config.sft, k) for k in ("labels", "ranker", "tail", "tail_weight", "max_samples")
    }
    parts["sft"]["eval_samples"] = config.sft.eval_samples
    parts["channels"] = config.channels.model_dump(mode="json", exclude={"llms"})
    summary = run / "prepared" / "summary.json"
    parts["prepared"] = summary.read_text(encoding="utf-8") if summary.exists() else ""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
