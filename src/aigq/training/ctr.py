"""The stage `aigq train ctr`: a calibrated click model, judged on later days beside gradient-boosted trees.

RUN/models/ctr/           network.onnx, projection.npz, texts.npz, model.json: what recall/ctr_scorer.py and
                          `aigq publish` read; weights.pt: to train on from; training.json: the summary
RUN/models/ctr/training/  checkpoint, best weights and log
"""

import copy
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import numpy as np
import torch
from torch.nn import functional

from aigq.config import Config
from aigq.errors import ConfigError, StageError
from aigq.models.ctr import POSITIONS, ClickNet, Inputs, export, quantile_edges
from aigq.models.ctr_arrays import Calibration, pad
from aigq.prepared import Prepared
from aigq.progress import note, task
from aigq.recall.ctr_inputs import Recent, TextTable, plain_columns
from aigq.recall.ctr_scorer import NETWORK_FILE, PROJECTION_FILE, SETTINGS_FILE, folder_of
from aigq.training import checkpoints
from aigq.training.checkpoints import Progress
from aigq.training.click_quality import judge, log_loss
from aigq.training.click_rows import ClickData, ClickRows, make_rows

WEIGHTS_FILE: Final = "weights.pt"
_KEPT_BY_HEAD: Final = 0.8  # share of the moments that each head sees
_UNKNOWN: Final = 0.1  # a query that the log does not hold is as likely as the tenth percentile
_SCORED_AT_ONCE: Final = 64
_TREES: Final = {
    "objective": "binary",
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "lambda_l2": 10.0,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
}
_MOST_TREES: Final = 600


def train_ctr(config: Config, run: Path, *, resume: bool = False) -> dict[str, Any]:
    """Train, calibrate, judge and export; returns the summary that is also written to training.json.

    Args:
        config: the run; section `ctr`.
        run: the run folder, with finished `prepared` tables.
        resume: continue from the last checkpoint; the result is that of an uninterrupted training.

    Raises:
        EmptyLogError: nothing to learn from, or a split without clicks.
        ConfigError: `ctr.start` is missing or damaged, or was made with other sizes or features, or with
            another text encoder.
    """
    folder = run / "models" / "ctr"
    work = folder / "training"
    work.mkdir(parents=True, exist_ok=True)
    start = _read_start(config)
    prepared = Prepared.load(run / "prepared")
    data = make_rows(config, prepared, start["profile"] if start else None)
    model = _build(config, data, start)
    progress = _fit(model, data, config, work, resume=resume)
    model.load_state_dict(torch.load(work / "best.pt", weights_only=True))
    model.eval()
    logits = {
        part: predict(model, getattr(data, part), data.texts).mean(axis=1) for part in ("valid", "test")
    }
    calibration = Calibration.fitted(logits["valid"], data.valid.clicked)
    unknown = float(np.quantile(calibration(logits["valid"]), _UNKNOWN))
    summary = {
        "mode": "exposure" if config.samples.unit == "exposure" else "bootstrap",
        "clicks": prepared.clicks,
        "steps": progress.step,
        "seconds": round(progress.seconds, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "calibration": calibration._asdict(),
        **_judged(data, calibration(logits["test"]), config.seed),
    }
    _write(folder, model, data, config, calibration, unknown)
    (folder / "training.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _judged(data: ClickData, probability: np.ndarray, seed: int) -> dict[str, Any]:
    """Sizes of the splits, and how good the probabilities of the test pairs are, beside LightGBM's."""
    parts = {part: getattr(data, part) for part in ("train", "valid", "test")}
    trees, n_trees = _trees(data, seed)
    user = data.test.users_of_pairs()
    return {
        "moments": {part: len(rows) for part, rows in parts.items()},
        "pairs": {part: len(rows.clicked) for part, rows in parts.items()},
        "clicked": {part: float(rows.clicked.mean()) for part, rows in parts.items()},
        "later_days": judge(data.test.clicked, probability, user),
        "later_days_lightgbm": judge(data.test.clicked, trees, user),
        "lightgbm_trees": n_trees,
    }


def require_auc(summary: dict[str, Any], floor: float) -> None:
    """Refuse a click model whose order on later days is too poor to be a reward.

    Args:
        summary: what `train_ctr` returned.
        floor: `ctr.auc_floor`.

    Raises:
        StageError: its AUC on later days is below the floor, or could not be measured.
    """
    found = summary["later_days"]["auc"]
    if not found >= floor:  # NaN too
        raise StageError(
            f"the CTR model has AUC {found:.3f} on later days, below ctr.auc_floor {floor:g}: it is "
            "no reward to learn from. Train it on a longer log, or on more samples (ctr.max_samples)"
        )


def predict(model: ClickNet, rows: ClickRows, texts: TextTable) -> np.ndarray:
    """Logits (P, E) with every hint in the first place."""
    vectors = torch.from_numpy(texts.vectors)
    model.eval()
    found = []
    with torch.inference_mode():
        for start in range(0, len(rows), _SCORED_AT_ONCE):
            chosen = np.arange(start, min(start + _SCORED_AT_ONCE, len(rows)))
            batch, _, _, there = collate(rows, chosen, vectors)
            found.append(model(batch)[there].numpy())
    return np.concatenate(found)


def collate(
    rows: ClickRows, chosen: np.ndarray, vectors: torch.Tensor
) -> tuple[Inputs, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs of the chosen moments, position (M, C), clicked (M, C), and which places hold a pair (M, C)."""
    sizes = np.diff(rows.starts)[chosen]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    pairs = np.repeat(rows.starts[chosen] - starts[:-1], sizes) + np.arange(starts[-1])
    recent: Recent = rows.recent.take(chosen).trimmed()
    text = pad(rows.text[pairs], starts, fill=-1)
    batch = Inputs(
        vectors[torch.from_numpy(recent.text.astype(np.int64))],
        torch.from_numpy(recent.age.astype(np.int64)),
        torch.from_numpy(recent.action.astype(np.int64)),
        vectors[torch.from_numpy(text.astype(np.int64))],
        torch.from_numpy(pad(rows.plain[pairs], starts)),
    )
    position = torch.from_numpy(np.minimum(pad(rows.position[pairs], starts), POSITIONS - 1))
    clicked = torch.from_numpy(pad(rows.clicked[pairs], starts))
    there = torch.from_numpy(pad(np.ones(len(pairs), dtype=bool), starts))
    return batch, position, clicked, there


def batches(rows: ClickRows, batch_size: int, seed: int, epoch: int) -> Iterator[np.ndarray]:
    """Moments of each step of one epoch, in random order; moments without a pair are left out."""
    usable = np.flatnonzero(np.diff(rows.starts) > 0)
    order = np.random.default_rng((seed, epoch)).permutation(usable)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _build(config: Config, data: ClickData, start: dict[str, Any] | None) -> ClickNet:
    torch.manual_seed(config.seed)
    edges = quantile_edges(data.train.plain)
    model = ClickNet(config.ctr, data.texts.vectors.shape[1], edges)
    if start:
        try:
            model.load_state_dict(start["weights"])
        except RuntimeError:
            raise ConfigError(
                f"ctr.start {config.ctr.start} has other sizes than this config; use its config"
            ) from None
        return model
    with torch.no_grad():
        rate = float(data.train.clicked.mean())
        model.wide.bias.fill_(math.log(rate / (1 - rate)))
    return model


def _fit(model: ClickNet, data: ClickData, config: Config, folder: Path, *, resume: bool) -> Progress:
    """Train; the best weights by validation log-loss end up in folder/best.pt."""
    ctr, vectors = config.ctr, torch.from_numpy(data.texts.vectors)
    per_epoch = math.ceil(int((np.diff(data.train.starts) > 0).sum()) / ctr.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=ctr.weight_decay)
    seen = _seen_by_heads(len(data.train), ctr.heads, config.seed)
    progress = checkpoints.begin(folder, model, optimizer, resume=resume)
    if progress is None:
        progress = Progress(total=math.ceil(per_epoch * ctr.epochs), best=-math.inf)
        _validate(model, data, folder, progress)  # training on may only improve on its start
        checkpoints.save(folder, model, optimizer, progress)
    started = time.monotonic() - progress.seconds
    with task("ctr steps", progress.total) as advance:
        advance(progress.step)
        for epoch in range(progress.step // per_epoch, math.ceil(ctr.epochs)):
            for i, chosen in enumerate(batches(data.train, ctr.batch_size, config.seed, epoch)):
                if epoch * per_epoch + i < progress.step:
                    continue
                if progress.step >= progress.total or progress.stale >= ctr.patience:
                    return progress
                rate = ctr.learning_rate * (1 - progress.step / progress.total)
                _step(model, optimizer, rate, collate(data.train, chosen, vectors), seen[chosen])
                progress.step += 1
                advance(1)
                if progress.step % ctr.eval_every == 0 or progress.step == progress.total:
                    _validate(model, data, folder, progress)
                    progress.seconds = time.monotonic() - started
                    checkpoints.save(folder, model, optimizer, progress)
    return progress


def _step(
    model: ClickNet,
    optimizer: torch.optim.Optimizer,
    rate: float,
    rows: tuple[Inputs, torch.Tensor, torch.Tensor, torch.Tensor],
    seen: torch.Tensor,
) -> None:
    """One update with the mean log-loss over pairs and heads; heads skip moments that they do not see."""
    batch, position, clicked, there = rows
    model.train()
    logits = model(batch, position)  # (M, C, E)
    target = clicked.unsqueeze(-1).expand_as(logits)
    weight = there.unsqueeze(-1) * seen.unsqueeze(1)  # (M, C, E)
    loss = functional.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
    (loss / weight.sum().clamp(min=1)).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _seen_by_heads(moments: int, heads: int, seed: int) -> torch.Tensor:
    """(M, E) of 0 and 1: each head learns from its own draw, so heads differ where the data say little."""
    drawn = np.random.default_rng((seed, heads)).random((moments, heads)) < _KEPT_BY_HEAD
    return torch.from_numpy(drawn.astype(np.float32))


def _validate(model: ClickNet, data: ClickData, folder: Path, progress: Progress) -> None:
    logits = predict(model, data.valid, data.texts).mean(axis=1)
    loss = log_loss(data.valid.clicked, 1 / (1 + np.exp(-logits.astype(np.float64))))
    checkpoints.log(folder, {"step": progress.step, "of": progress.total, "valid_log_loss": loss})
    note(f"ctr step {progress.step}: validation log-loss {loss:.5f}")
    progress.stale += 1
    if -loss > progress.best:
        progress.best, progress.stale = -loss, 0
        part = folder / "best.part"
        with part.open("wb") as file:
            torch.save(model.state_dict(), file)
        part.replace(folder / "best.pt")


def _trees(data: ClickData, seed: int) -> tuple[np.ndarray, int]:
    """Calibrated probabilities (P,) of the test pairs by LightGBM on the plain features and the position."""
    import lightgbm

    def features(rows: ClickRows, position: np.ndarray) -> np.ndarray:
        return np.column_stack([rows.plain, position])

    data_train = lightgbm.Dataset(features(data.train, data.train.position), data.train.clicked)
    first = {part: np.zeros(len(getattr(data, part).clicked)) for part in ("valid", "test")}
    valid = features(data.valid, first["valid"])
    model = lightgbm.train(
        {**_TREES, "seed": seed},
        data_train,
        _MOST_TREES,
        valid_sets=[lightgbm.Dataset(valid, data.valid.clicked, reference=data_train)],
        callbacks=[lightgbm.early_stopping(40, verbose=False)],
    )
    calibration = Calibration.fitted(np.asarray(model.predict(valid, raw_score=True)), data.valid.clicked)
    raw = model.predict(features(data.test, first["test"]), raw_score=True)
    return calibration(np.asarray(raw)), int(model.best_iteration)


def _read_start(config: Config) -> dict[str, Any] | None:
    """Weights and profile columns of `ctr.start`. Raises ConfigError like `train_ctr`."""
    if config.ctr.start is None:
        return None
    folder = folder_of(config.ctr.start)
    try:
        weights = torch.load(folder / WEIGHTS_FILE, weights_only=True)
        settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"ctr.start: {error.filename} is missing; give a folder of a CTR model") from None
    except (ValueError, EOFError, RuntimeError, UnpicklingError):  # what json and torch say of half a file
        raise ConfigError(f"ctr.start: the model in {folder} is damaged; give another one, or none") from None
    if settings["encoder"] != config.encoder.name:  # its vectors may have the same size and other meanings
        raise ConfigError(
            f"ctr.start {config.ctr.start} reads texts by encoder {settings['encoder']}, and encoder.name is "
            f"{config.encoder.name}; use the same"
        )
    return {"weights": weights, "profile": settings["profile"]}


def _write(
    folder: Path, model: ClickNet, data: ClickData, config: Config, calibration: Calibration, unknown: float
) -> None:
    _export(model, folder, config.ctr.behaviours)
    data.texts.save(folder)
    with (folder / WEIGHTS_FILE).open("wb") as file:
        torch.save(model.state_dict(), file)
    settings = {
        "calibration": calibration._asdict(),
        "unknown": unknown,
        "bound_z": config.ctr.bound_z,
        "behaviours": config.ctr.behaviours,
        "k_users": config.samples.k_users,
        "profile": data.profile_columns,
        "columns": plain_columns(data.profile_columns),
        "encoder": config.encoder.name,
    }
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _export(model: ClickNet, folder: Path, behaviours: int) -> None:
    """The projection of texts, and the network that reads projected ones."""
    project = model.project
    weight, bias = (p.detach().numpy() for p in (project.weight, project.bias))
    with (folder / PROJECTION_FILE).open("wb") as file:
        np.savez(file, weight=weight, bias=bias)
    network = copy.deepcopy(model)
    network.project = torch.nn.Linear(len(bias), len(bias))
    with torch.no_grad():
        network.project.weight.copy_(torch.eye(len(bias)))
        network.project.bias.zero_()
    export(network, folder / NETWORK_FILE, behaviours)
