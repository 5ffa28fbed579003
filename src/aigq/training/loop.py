"""The supervised training loop: token NLL on ordered lists, nothing else. METHOD section 4.

    L = - mean over lists of  sum_t w_t log p(x_t | x_<t) / sum_t w_t

Many small steps, lists of similar length together, warm-up then cosine, clipped gradients. A checkpoint holds
everything that the next step depends on, so a resumed run equals an uninterrupted one.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from aigq.config import SftConfig
from aigq.models import generator
from aigq.training.encoding import EncodedLists

Validate = Callable[[PreTrainedModel], dict[str, float]]
Report = Callable[[dict[str, Any]], None]
_BUCKET = 64  # batches sorted by length together: little padding, and still a random order


@dataclass
class Progress:
    """Where training stands."""

    step: int = 0
    total: int = 0
    best: float = -1.0
    seconds: float = 0.0
    tokens: int = 0
    stale: int = 0  # validations since the best one


def batches(data: EncodedLists, batch_size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """Sample indices of each batch of one epoch: shuffled, lists of similar length together."""
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(data))
    lengths = data.lengths()
    chunk = batch_size * _BUCKET
    result = []
    for start in range(0, len(order), chunk):
        part = order[start : start + chunk]
        part = part[np.argsort(lengths[part], kind="stable")]
        result += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    for i in rng.permutation(len(result)):
        yield result[i]


def collate(
    data: EncodedLists, rows: np.ndarray, pad: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Left-padded ids (B, T), attention mask (B, T), targets (B, T) and their weights (B, T)."""
    width = int(data.lengths()[rows].max())
    ids = np.full((len(rows), width), pad, np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    targets = np.zeros((len(rows), width), np.int64)
    weights = np.zeros((len(rows), width), np.float32)
    for i, row in enumerate(rows):
        a, b = data.starts[row], data.starts[row + 1]
        ids[i, width - (b - a) :] = data.tokens[a:b]
        mask[i, width - (b - a) :] = 1
        targets[i, width - (b - a) :] = data.targets[a:b]
        weights[i, width - (b - a) :] = data.weights[a:b]
    return torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(targets), torch.from_numpy(weights)


def list_loss(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted token NLL, each list counting equally; logits (B, L+1, V) predict targets (B, L)."""
    nll = F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), targets, reduction="none")  # (B, L)
    return ((nll * weights).sum(dim=1) / weights.sum(dim=1)).mean()


def learning_rate(step: int, total: int, config: SftConfig) -> float:
    """Linear warm-up, then cosine to zero."""
    warmup = max(1, int(total * config.warmup_fraction))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def fit(
    model: PreTrainedModel,
    data: EncodedLists,
    config: SftConfig,
    folder: Path,
    *,
    pad: int,
    seed: int,
    validate: Validate,
    report: Report,
    resume: bool = False,
) -> Progress:
    """Train; the best weights by validation `query_hr` end up in folder/best, the log in folder/log.jsonl.

    Raises:
        ValueError: the training data is empty.
    """
    if len(data) == 0:
        raise ValueError("no label lists to train on")
    folder.mkdir(parents=True, exist_ok=True)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, weight_decay=config.weight_decay, betas=(0.9, 0.98))
    per_epoch = math.ceil(len(data) / config.batch_size)
    steps = math.ceil(per_epoch * config.epochs)
    progress = Progress(total=min(steps, config.max_steps or steps))
    torch.manual_seed(seed)
    if resume and (folder / "checkpoint.pt").exists():
        progress = restore_checkpoint(folder, model, optimizer)
        truncate_log(folder, progress.step)
    else:
        for earlier in ("log.jsonl", "checkpoint.pt"):  # a later resume must not continue another training
            (folder / earlier).unlink(missing_ok=True)
    amp = _autocast(model, config)
    if progress.step == 0:
        _validate(model, folder, progress, validate, report)  # training on may only improve on its start
    started = time.monotonic() - progress.seconds
    model.train()
    for epoch in range(progress.step // per_epoch, math.ceil(config.epochs)):
        for i, rows in enumerate(batches(data, config.batch_size, seed, epoch)):
            if epoch * per_epoch + i < progress.step:
                continue
            if progress.step >= progress.total:
                break
            rate = learning_rate(progress.step, progress.total, config)
            loss, tokens = _step(model, optimizer, data, rows, pad, rate, config, amp)
            progress.step += 1
            progress.tokens += tokens
            progress.seconds = time.monotonic() - started
            entry = {"step": progress.step, "of": progress.total, "loss": loss, "lr": rate}
            report(entry)
            if progress.step % 10 == 0:
                write_log(folder, {**entry, "tokens": progress.tokens, "seconds": round(progress.seconds, 2)})
            if progress.step % config.eval_every == 0 or progress.step == progress.total:
                _validate(model, folder, progress, validate, report)
                progress.seconds = time.monotonic() - started
                save_checkpoint(folder, model, optimizer, progress)
    return progress


def _step(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    data: EncodedLists,
    rows: np.ndarray,
    pad: int,
    rate: float,
    config: SftConfig,
    amp: torch.autocast,
) -> tuple[float, int]:
    ids, mask, targets, weights = (tensor.to(model.device) for tensor in collate(data, rows, pad))
    labels = int((data.lengths()[rows] - data.prompt_lengths[rows]).max())  # the longest list of the batch
    with amp:
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=labels + 1).logits
        loss = list_loss(logits, targets[:, -labels:], weights[:, -labels:])
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], config.gradient_clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item(), int(mask.sum())


def _autocast(model: PreTrainedModel, config: SftConfig) -> torch.autocast:
    cuda = model.device.type == "cuda"
    wanted = config.dtype == "bfloat16" or (
        config.dtype == "auto" and cuda and torch.cuda.is_bf16_supported()
    )
    return torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=wanted)


def _validate(
    model: PreTrainedModel, folder: Path, progress: Progress, validate: Validate, report: Report
) -> None:
    random_state = torch.get_rng_state()
    metrics = validate(model)
    torch.set_rng_state(random_state)
    entry = {"step": progress.step, **{f"valid_{name}": value for name, value in metrics.items()}}
    write_log(folder, entry)
    report(entry)
    if metrics["query_hr"] > progress.best:
        progress.best = metrics["query_hr"]
        _replace_best(model, folder)


def save_checkpoint(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write folder/checkpoint.pt, whole or not at all: weights, optimiser, progress, torch's random state."""
    state: dict[str, Any] = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "progress": dict(progress.__dict__),
    }
    state["random"] = torch.get_rng_state()
    part = folder / "checkpoint.part"
    with part.open("wb") as file:  # given a path, torch says of a full disk only "unexpected pos"
        torch.save(state, file)
    part.replace(folder / "checkpoint.pt")


def _replace_best(model: PreTrainedModel, folder: Path) -> None:
    """Save the model as folder/best; an interruption leaves the earlier weights or the new ones, whole."""
    part, best = folder / "best.part", folder / "best"
    shutil.rmtree(part, ignore_errors=True)
    generator.save(model, part)
    best.mkdir(exist_ok=True)
    for file in part.iterdir():
        file.replace(best / file.name)
    part.rmdir()


def restore_checkpoint(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Read what `save_checkpoint` wrote into the model, the optimiser and torch's random state."""
    device = next(model.parameters()).device
    state = torch.load(folder / "checkpoint.pt", map_location=device, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"].cpu())
    return Progress(**state["progress"])


def write_log(folder: Path, entry: dict[str, Any]) -> None:
    """Append one line to folder/log.jsonl."""
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def truncate_log(folder: Path, step: int) -> None:
    """Keep the log's lines up to `step`; a line that an interruption cut off is written again later."""
    path = folder / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = [line for line in lines if _step_of(line) <= step]
    path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
