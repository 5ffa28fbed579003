"""The supervised training loop: token NLL on ordered lists, nothing else. method.md section 4.

    L = - mean over lists of  sum_t w_t log p(x_t | x_<t) / sum_t w_t

Many small steps, lists of similar length together, warm-up then cosine, clipped gradients. A checkpoint holds
everything that the next step depends on, so a resumed run equals an uninterrupted one.

Several processes divide each batch among them and end up where one would: `shares` says who reads what.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from aigq import processes
from aigq.config_training import SftConfig
from aigq.errors import StageError
from aigq.training import checkpoints, sharding
from aigq.training.checkpoints import Progress, Report, Validate
from aigq.training.encoding import EncodedLists

_BUCKET = 64  # batches sorted by length together: little padding, and still a random order


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


def shares(
    rows: np.ndarray, rank: int, count: int, at_once: int | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """This process' part of a batch (B,), as rows (b,) of each forward pass and what they weigh, 0 or 1.

    All processes go through equally many passes of as many lists: where these do not divide the batch, some
    read its first list once more and give it no weight.
    """
    each = math.ceil(len(rows) / count)
    filled = np.concatenate([rows, np.full(each * count - len(rows), rows[0])])
    counts = (np.arange(len(filled)) < len(rows)).astype(np.float32)
    step = at_once or each
    mine, weights = filled[rank::count], counts[rank::count]
    return [(mine[i : i + step], weights[i : i + step]) for i in range(0, each, step)]


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


def list_losses(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted token NLL of each list (B,); logits (B, L+1, V) predict targets (B, L)."""
    nll = F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), targets, reduction="none")  # (B, L)
    return (nll * weights).sum(dim=1) / weights.sum(dim=1)


def compute_dtype(dtype: Literal["auto", "float32", "bfloat16"]) -> torch.dtype:
    """In what forward and backward pass are computed; auto: bfloat16 where the GPU has it."""
    there = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    wanted = dtype == "bfloat16" or (dtype == "auto" and there)
    return torch.bfloat16 if wanted else torch.float32


def leave_out_cudnn_attention() -> None:
    """Of attention in half precision torch may choose cuDNN's, which gives NaN gradients on H100 and H200.

    Seen with torch 2.11 on batches with padding whose width leaves 64 when divided by 128; pytorch issue
    196678. Other kernels take its place.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def require_finite(norm: float) -> None:
    """Stop before the gradient of a step spoils every weight.

    Raises:
        StageError: its norm is not a number, or infinite.
    """
    if not math.isfinite(norm):
        raise StageError(
            f"the norm of a step's gradient is {norm}. The best weights and the last checkpoint are earlier; "
            "train again with a lower learning rate or, if it was SFT in bfloat16, with sft.dtype=float32"
        )


def clip_gradients(model: torch.nn.Module, largest: float) -> float:
    """Clip the gradients to a norm; returns what it was. Raises StageError where that is not finite."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    norm = sharding.whole(torch.nn.utils.clip_grad_norm_(parameters, largest))
    require_finite(norm)
    return norm


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
    torch.manual_seed(seed)
    progress = checkpoints.begin(folder, model, optimizer, resume=resume)
    if progress is None:
        progress = Progress(total=min(steps, config.max_steps or steps))
        # training on may only improve on its start
        checkpoints.validate_and_keep(model, folder, progress, validate, report)
    started = time.monotonic() - progress.seconds
    model.train()
    for epoch in range(progress.step // per_epoch, math.ceil(config.epochs)):
        for i, rows in enumerate(batches(data, config.batch_size, seed, epoch)):
            if epoch * per_epoch + i < progress.step:
                continue
            if progress.step >= progress.total:
                break
            rate = learning_rate(progress.step, progress.total, config)
            loss, tokens = _step(model, optimizer, data, rows, pad, rate, config)
            progress.step += 1
            progress.tokens += tokens
            progress.seconds = time.monotonic() - started
            entry = {"step": progress.step, "of": progress.total, "loss": loss, "lr": rate}
            report(entry)
            if progress.step % 10 == 0:
                checkpoints.log(
                    folder, {**entry, "tokens": progress.tokens, "seconds": round(progress.seconds, 2)}
                )
            if progress.step % config.eval_every == 0 or progress.step == progress.total:
                checkpoints.validate_and_keep(model, folder, progress, validate, report)
                progress.seconds = time.monotonic() - started
                checkpoints.save(folder, model, optimizer, progress)
    return progress


def _step(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    data: EncodedLists,
    rows: np.ndarray,
    pad: int,
    rate: float,
    config: SftConfig,
) -> tuple[float, int]:
    """One optimiser step on a batch; the mean loss of its lists and how many tokens they have."""
    count = processes.count()
    loss = 0.0
    for mine, counts in shares(rows, processes.rank(), count, config.lists_at_once):
        part = _loss(model, data, mine, counts, pad, config) / len(rows)
        (part * count).backward()  # gradients are averaged over processes, the parts of a loss add up
        loss += part.item()
    clip_gradients(model, config.gradient_clip)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return sharding.total(loss, model.device), int(data.lengths()[rows].sum())


def _loss(
    model: PreTrainedModel,
    data: EncodedLists,
    rows: np.ndarray,
    counts: np.ndarray,
    pad: int,
    config: SftConfig,
) -> torch.Tensor:
    """The summed loss of those lists of one forward pass that count."""
    ids, mask, targets, weights = (tensor.to(model.device) for tensor in collate(data, rows, pad))
    labels = int((data.lengths()[rows] - data.prompt_lengths[rows]).max())  # the longest list
    counted = torch.from_numpy(counts).to(model.device)  # (b,)
    options = {"output_router_logits": True} if config.router_loss else {}
    # of several processes FSDP casts the weights
    half = compute_dtype(config.dtype) == torch.bfloat16 and processes.count() == 1
    with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=half):
        output = model(input_ids=ids, attention_mask=mask, logits_to_keep=labels + 1, **options)
        loss = (list_losses(output.logits, targets[:, -labels:], weights[:, -labels:]) * counted).sum()
    return loss + config.router_loss * output.aux_loss * counted.sum() if config.router_loss else loss
