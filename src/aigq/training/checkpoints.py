"""What a training leaves in its folder: log.jsonl, checkpoint.pt to go on from, the best weights in best/."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from aigq import processes, training_log
from aigq.models import generator
from aigq.training import sharding

Validate = Callable[[PreTrainedModel], dict[str, float]]
Report = Callable[[dict[str, Any]], None]


@dataclass
class Progress:
    """Where training stands."""

    step: int = 0
    total: int = 0
    best: float = -1.0
    seconds: float = 0.0
    tokens: int = 0
    stale: int = 0  # validations since the best one
    start_categories: float = 0.0  # categories per list at the first step of a reinforcement training
    collapsed: bool = False  # it stopped there, see grpo.collapse

    def follow(self, categories: float, collapse: float) -> None:
        """Take a step's categories per list: below the share `collapse` of the first step's it collapsed."""
        self.start_categories = self.start_categories or categories
        self.collapsed = categories < collapse * self.start_categories


def validate_and_keep(
    model: PreTrainedModel, folder: Path, progress: Progress, validate: Validate, report: Report
) -> None:
    """Measure the model without moving the random numbers of the training; the best weights go to best/."""
    before = random_states()
    metrics = validate(model)
    set_random_states(before)
    entry = {"step": progress.step, **{f"valid_{name}": value for name, value in metrics.items()}}
    log(folder, entry)
    report(entry)
    if metrics["query_hr"] > progress.best:
        progress.best = metrics["query_hr"]
        replace_best(model, folder)


def save(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """All that the next step depends on, written whole or not at all."""
    weights, moments = sharding.state_of(model, optimizer)
    if processes.rank() > 0:
        return
    state = {
        "model": weights,
        "optimizer": moments,
        "progress": dict(progress.__dict__),
        **random_states(),
    }
    part = folder / "checkpoint.part"
    with part.open("wb") as file:  # given a path, torch says of a full disk only "unexpected pos"
        torch.save(state, file)
    part.replace(folder / "checkpoint.pt")


def replace_best(model: PreTrainedModel, folder: Path) -> None:
    """Save the model as folder/best; an interruption leaves the earlier weights or the new ones, whole."""
    weights = sharding.whole_weights(model)
    with sharding.first_alone() as first:  # the others may read it next
        if not first:
            return
        part, best = folder / "best.part", folder / "best"
        shutil.rmtree(part, ignore_errors=True)
        generator.save(model, part, weights)
        best.mkdir(exist_ok=True)
        for file in part.iterdir():
            file.replace(best / file.name)
        part.rmdir()


def begin(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, *, resume: bool
) -> Progress | None:
    """Where an earlier training stopped, the log cut to that; None for a new one, in a folder made clean."""
    if resume and (folder / "checkpoint.pt").exists():
        progress = restore(folder, model, optimizer)
        with sharding.first_alone() as first:
            if first:
                truncate_log(folder, progress.step)
        return progress
    with sharding.first_alone() as first:
        for earlier in ("log.jsonl", "checkpoint.pt"):  # a later resume must not continue another training
            if first:
                (folder / earlier).unlink(missing_ok=True)
    return None


def restore(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Put model, optimizer and random numbers where `save` found them."""
    state = torch.load(folder / "checkpoint.pt", map_location="cpu", mmap=True, weights_only=True)
    sharding.set_state(model, optimizer, state["model"], state["optimizer"])
    set_random_states(state)
    return Progress(**state["progress"])


def random_states() -> dict[str, Any]:
    """Of the CPU, and of each GPU."""
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"random": torch.get_rng_state(), "random_gpus": on_gpus}


def set_random_states(states: dict[str, Any]) -> None:
    """Put back what `random_states` gave; checkpoints of before it was kept have none of the GPUs."""
    torch.set_rng_state(states["random"].cpu())
    if torch.cuda.is_available():
        on_gpus = states.get("random_gpus", [])[: torch.cuda.device_count()]
        torch.cuda.set_rng_state_all([state.cpu() for state in on_gpus])


def deliver(folder: Path, summary: dict[str, Any]) -> None:
    """The best weights and the summary, in the model folder above the training's.

    Files are replaced, not written over: a worker that has the earlier weights mapped keeps them.
    """
    with sharding.first_alone() as first:
        if not first:
            return
        for file in (folder / "best").iterdir():
            part = folder.parent / f"{file.name}.part"
            shutil.copy2(file, part)
            part.replace(folder.parent / file.name)
        (folder.parent / "training.json").write_text(json.dumps(summary, indent=2) + "\n")


def log(folder: Path, entry: dict[str, Any]) -> None:
    """One line of log.jsonl, by the first process."""
    if processes.rank() > 0:
        return
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def truncate_log(folder: Path, step: int) -> None:
    """Keep the log's entries up to `step`; a line that an interruption cut off is written again later."""
    kept = [json.dumps(entry) + "\n" for entry in training_log.read(folder) if entry["step"] <= step]
    part = folder / "log.part"
    part.write_text("".join(kept), encoding="utf-8")
    part.replace(folder / "log.jsonl")
