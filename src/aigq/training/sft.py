"""The stage `aigq train sft`: materials, an imitation of the ranker, the label lists, a model folder.

RUN/models/SYSTEM/                     the trained model: a Hugging Face folder
RUN/models/SYSTEM/training/            materials, checkpoints and log; enough to train elsewhere
RUN/models/SYSTEM/training/imitation/  checkpoints and log of the imitation, where there is one
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from aigq import processes
from aigq.config import Config
from aigq.config_training import SftConfig
from aigq.errors import ConfigError, EmptyLogError, UsageError
from aigq.models import generator
from aigq.models.vocabulary import Vocabulary
from aigq.progress import note, task
from aigq.systems import FROM_DIRECT, GENERATORS, THINK
from aigq.training import checkpoints, loop, memory, sharding
from aigq.training.checkpoints import Validate
from aigq.training.encoding import EncodedLists
from aigq.training.materials import fingerprint_of, make_materials
from aigq.training.validation import validator


def variant(config: Config, system: str) -> Config:
    """The config of one row. The `_sft` rows are the paper's: log order, verbose prompt, same steps.

    Between them and IL-SFT stand steps of the paper's ablation ladder: direct_sft_ranked has IL-SFT's labels
    and still the verbose prompt; think_sft_ranked has its labels and prompt and still no reasoning.

    Raises:
        ConfigError: no generator has that name.
    """
    if system not in GENERATORS:
        raise ConfigError(f"unknown system {system}; known: {', '.join(GENERATORS)}")
    if system in THINK:
        think, sft = config.think, config.sft
        changes: dict[str, Any] = {"learning_rate": think.learning_rate}
        for key in ("imitation_renamed", "imitation_learning_rate"):
            if getattr(think, key) is not None:
                changes[key] = getattr(think, key)
        changes["max_steps"] = think.max_steps or sft.max_steps
        if system in FROM_DIRECT and think.from_direct:
            changes["imitation_max_steps"] = think.imitation_max_steps
            if not think.imitation_max_steps:
                changes["imitation_epochs"] = 0.0  # Direct's is the only one
        config = config.model_copy(update={"sft": sft.model_copy(update=changes)})
    if system == "direct_sft_ranked":
        return config.model_copy(update={"prompt": config.prompt.model_copy(update={"style": "verbose"})})
    if system == "think_sft_ranked":
        return config.model_copy(update={"think": config.think.model_copy(update={"without_rationale": 1.0})})
    return _plain(config) if system in ("direct_sft", "think_sft") else config


def _plain(config: Config) -> Config:
    """Without re-ranking, prompt compression and reasoning, in as many steps."""
    limits = [
        config.sft.max_steps,
        *([config.sft.imitation_max_steps] if config.sft.imitation_epochs else []),
    ]
    steps = None if None in limits else sum(filter(None, limits))
    changes = {"labels": "log_order", "imitation_epochs": 0.0, "max_steps": steps}
    changes["epochs"] = config.sft.epochs + config.sft.imitation_epochs
    if config.sft.imitation_epochs:  # nothing is learned before these labels now
        changes["learning_rate"] = config.sft.imitation_learning_rate
    return config.model_copy(
        update={
            "prompt": config.prompt.model_copy(update={"style": "verbose"}),
            "sft": config.sft.model_copy(update=changes),
            "think": config.think.model_copy(update={"from_direct": False, "without_rationale": 1.0}),
        }
    )


def train_sft(
    config: Config, run: Path, *, resume: bool = False, system: str = "direct_il_sft"
) -> dict[str, Any]:
    """Train one system and leave its model folder in RUN/models/SYSTEM.

    Returns the summary that is also written to training.json: steps, tokens, seconds, best validation HR.

    Raises:
        UsageError: adapters in several processes.
    """
    config = variant(config, system)
    if processes.count() > 1 and config.sft.lora_rank:
        raise UsageError(
            "sft.lora_rank is for one process: peft cannot train token rows that FSDP shares out"
        )
    folder = run / "models" / system / "training"
    think = system in THINK
    with sharding.first_alone() as first:
        if first:
            _materials(config, run, folder, think=think)
    summary = fit_folder(
        folder, config.sft, config.seed, resume=resume, batch_size=config.decoding.batch_size
    )
    checkpoints.deliver(folder, summary)
    return summary


def _materials(config: Config, run: Path, folder: Path, *, think: bool) -> None:
    """Make what the training folder lacks or holds of another config."""
    key = fingerprint_of(config, run, think=think)
    with_materials(folder, key, lambda: make_materials(config, run, folder, think=think))


def with_materials(folder: Path, key: str, make: Callable[[], dict[str, int]]) -> None:
    """Let `make` fill a training folder, unless it has filled it for this key before."""
    marker = folder / "encoded.json"
    if marker.exists() and json.loads(marker.read_text())["key"] == key:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    part = folder / "encoded.part"
    part.write_text(json.dumps({"key": key, **make()}))
    part.replace(marker)  # there only when everything that it vouches for is


def fit_folder(
    folder: Path, config: SftConfig, seed: int, *, resume: bool = False, batch_size: int = 64
) -> dict[str, Any]:
    """Train from the files of one training folder alone: needs torch and transformers, no tables.

    So the materials can be made on one machine and the training done on another.
    """
    loop.leave_out_cudnn_attention()
    vocabulary = Vocabulary.load(folder / "init")
    validate = validator(folder, vocabulary, batch_size)
    if not resume:  # an earlier training's checkpoint must not be resumed after this one's imitation
        (folder / "checkpoint.pt").unlink(missing_ok=True)
    start, summary, rows = folder / "init", {}, sorted(vocabulary.special)
    announce(folder, config, vocabulary, batch_size)
    if config.imitation_epochs:
        own, first = folder / "imitation", _imitation(config)
        lists = folder / "imitation.npz"
        summary["imitation"] = _phase(lists, start, own, first, seed, validate, resume, rows)
        start = own / "best"
    summary |= _phase(folder / "train.npz", start, folder, config, seed, validate, resume, rows)
    with sharding.first_alone() as first_process:
        if first_process:
            vocabulary.tokenizer.save_pretrained(folder / "best")
    return summary


def announce(folder: Path, config: SftConfig, vocabulary: Vocabulary, batch_size: int) -> None:
    """Say how much memory the training will take on each process.

    Raises:
        StageError: far more than there is.
        EmptyLogError: no list to train on, none to imitate, or none to validate with.
    """
    names = {"train with": "train", "validate with": "valid"}
    if config.imitation_epochs:
        names["imitate"] = "imitation"
    lists = {use: EncodedLists.load(folder / f"{name}.npz") for use, name in names.items()}
    for use, some in lists.items():
        if not len(some):
            raise EmptyLogError(
                f"no label list is left to {use} in {folder}: nothing that was clicked or proposed at "
                "a sample was issued by samples.k_users users before; use a longer log, or lower it"
            )
    size = memory.size_of(
        AutoConfig.from_pretrained(folder / "init"),
        lambda model: generator.adapt(model, config, sorted(vocabulary.special)),
    )
    share = -(-config.batch_size // processes.count())
    valid = lists.pop("validate with")
    longest = max(int(some.lengths().max()) for some in lists.values())
    written = max(int((some.lengths() - some.prompt_lengths).max()) for some in lists.values())
    load = memory.Load(
        min(share, config.lists_at_once or share),
        longest,
        written + 1,
        min(batch_size, len(valid)),
        int(valid.prompt_lengths.max()) + written,
    )
    compute = loop.compute_dtype(config.dtype).itemsize
    taken = memory.estimate(
        size,
        load,
        frozen=compute,
        compute=compute,
        processes=processes.count(),
        checkpointing=config.gradient_checkpointing,
    )
    memory.announce(taken)


def _imitation(config: SftConfig) -> SftConfig:
    """The settings of the imitation of the ranker."""
    return config.model_copy(
        update={
            "epochs": config.imitation_epochs,
            "max_steps": config.imitation_max_steps,
            "learning_rate": config.imitation_learning_rate,
        }
    )


def _phase(
    lists: Path,
    start: Path,
    folder: Path,
    config: SftConfig,
    seed: int,
    validate: Validate,
    resume: bool,
    special: Sequence[int],
) -> dict[str, Any]:
    """Train the model in `start` on these lists; checkpoints, log and the best weights go to `folder`."""
    compute = loop.compute_dtype(config.dtype)
    frozen = compute if config.lora_rank else torch.float32
    torch.manual_seed(seed)  # adapters begin at random
    model = generator.adapt(generator.read(start, frozen), config, special)
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    parameters = sum(p.numel() for p in model.parameters())
    model = sharding.shard(model, compute)
    data = EncodedLists.load(lists)
    pad = int(model.config.pad_token_id)
    with task(f"{lists.stem} steps") as advance:

        def report(entry: dict[str, Any]) -> None:
            if "loss" in entry:
                advance(1)
            else:
                note(f"{lists.stem} step {entry['step']}: validation Query HR {entry['valid_query_hr']:.4f}")

        progress = loop.fit(
            model, data, config, folder, pad=pad, seed=seed, validate=validate, report=report, resume=resume
        )
    return {
        "samples": len(data),
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 1),
        "best_valid_query_hr": progress.best,
        "parameters": parameters,
    }
