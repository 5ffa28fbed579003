"""The stage `aigq train grpo`: prompts, references and the CTR model together, then IL-GRPO or plain GRPO.

RUN/models/SYSTEM/            the trained model: a Hugging Face folder
RUN/models/SYSTEM/training/   checkpoints, best weights and log
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, PreTrainedModel

from aigq import processes
from aigq.config import Config
from aigq.config_training import GrpoConfig
from aigq.errors import EmptyLogError, UsageError
from aigq.models import engine, generator
from aigq.models.decoding import DrawGroups, Trees, sample_groups
from aigq.models.think_decoding import Marks
from aigq.models.vocabulary import Vocabulary
from aigq.prepared import CausalCounts, Moment, Prepared
from aigq.progress import note, task
from aigq.recall.ctr_scorer import ClickModel
from aigq.recall.direct import prompt_writer
from aigq.samples.labels import Label
from aigq.systems import GRPO, thinks
from aigq.training import checkpoints, il_grpo, loop, memory, rewards, sharding
from aigq.training.checkpoints import Progress, Report, Validate
from aigq.training.ctr import require_auc
from aigq.training.judge import Clicks, Judge
from aigq.training.label_lists import label_lists, rankings, training_samples
from aigq.training.materials import subset
from aigq.training.thought_spans import ThoughtForm, references
from aigq.training.thoughts import Thinker, seen_of
from aigq.training.validation import validator

_Triggers = list[tuple[int, ...]]  # of the interest points of one label

_USUAL = (0.05, 0.95)  # quantiles of the lengths of queries: what is shorter or longer costs
_SCALED_ON = 500  # moments whose click probabilities set gamma


def variant(config: Config, system: str) -> GrpoConfig:
    """The settings of a system. Plain GRPO is the same trainer, with credit per list alone."""
    plain = system in ("direct_grpo", "think_grpo")
    return config.grpo.model_copy(update={"credit": "list"}) if plain else config.grpo


def train_grpo(config: Config, run: Path, *, resume: bool, system: str) -> dict[str, Any]:
    """Train one system on from the one that it starts from, and leave its folder in RUN/models/SYSTEM.

    Raises:
        UsageError: several processes, and not under TRL.
        StageError: the CTR model tells clicks from the rest too badly on later days to be a reward, or the
            training would take far more memory than there is.
        EmptyLogError: no training sample.
    """
    grpo, prepared = variant(config, system), Prepared.load(run / "prepared")
    if processes.count() > 1 and grpo.trainer == "loop":
        raise UsageError("grpo.trainer: loop is for one process; several need --set grpo.trainer=trl")
    sharding.join()
    loop.leave_out_cudnn_attention()
    require_auc(json.loads((run / "models" / "ctr" / "training.json").read_text()), config.ctr.auc_floor)
    start, folder = run / "models" / GRPO[system], run / "models" / system / "training"
    vocabulary = Vocabulary.load(start)
    note(f"prompts, references and click probabilities of {grpo.steps * grpo.prompts:,} moments")
    prompts = make_task(config, grpo, run, prepared, vocabulary, think=thinks(system))
    announce(start, grpo, prompts)
    draw = engine.rollouts(grpo, start, vocabulary, max(map(len, prompts.prompts)) + prompts.room())
    model = read_policy(start, grpo, config.seed)
    validate = validator(start / "training", vocabulary, config.decoding.batch_size)
    with task(f"{system} steps", total=grpo.steps) as advance:
        report = reporter(system, advance)
        options: dict[str, Any] = {"seed": config.seed, "validate": validate, "report": report, "draw": draw}
        if grpo.trainer == "trl":
            progress = fit_trl(model, vocabulary, prompts, grpo, folder, resume=resume, **options)
        else:
            progress = il_grpo.fit(model, vocabulary, prompts, grpo, folder, resume=resume, **options)
    if processes.rank() == 0:
        vocabulary.tokenizer.save_pretrained(folder / "best")
    summary = {
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 1),
        "best_valid_query_hr": progress.best,
        "ctr_gain": round(prompts.judge.gamma, 4),
    }
    checkpoints.deliver(folder, summary)
    return summary


def frozen_dtype(grpo: GrpoConfig) -> torch.dtype:
    """Of the weights that are read: those that adapters leave alone are as in supervised training."""
    return loop.compute_dtype("auto") if grpo.lora_rank else torch.float32


def read_policy(start: Path, grpo: GrpoConfig, seed: int) -> PreTrainedModel:
    """The policy to train on, with adapters where they are asked for; TRL puts it on the device itself."""
    torch.manual_seed(seed)  # adapters begin at random
    model = generator.adapt(generator.read(start, frozen_dtype(grpo)), grpo)
    return model if grpo.trainer == "trl" else generator.to_device(model)


def announce(start: Path, grpo: GrpoConfig, task: il_grpo.Task) -> None:
    """Say how much memory the training will take on each process, if these share nothing out."""
    size = memory.size_of(
        AutoConfig.from_pretrained(start),
        lambda model: generator.adapt(model, grpo),
    )
    reach, room = max(map(len, task.prompts)) + task.room(), task.room()
    prompts = min(grpo.prompts, len(task.prompts))  # of a step
    at_once = min(grpo.prompts_at_once, prompts)
    written = prompts * grpo.group // processes.count()
    load = memory.Load(at_once * grpo.group, reach, room, written, reach)
    bytes_each = frozen_dtype(grpo).itemsize
    memory.announce(memory.estimate(size, load, frozen=bytes_each, compute=bytes_each))


def make_task(
    config: Config,
    grpo: GrpoConfig,
    run: Path,
    prepared: Prepared,
    vocabulary: Vocabulary,
    *,
    think: bool = False,
) -> il_grpo.Task:
    """Training moments as prompts, with their references (the labels of SFT) and their judge.

    With `think` the references are those labels as interest points, as SFT of Think writes them.
    """
    k, slots = config.samples.k_users, config.samples.list_length
    train = subset(training_samples(config, prepared, think=think), grpo.steps * grpo.prompts, config.seed)
    queries = prepared.shared_queries(k)["query"].to_pylist()
    if not train.num_rows or not queries:
        raise EmptyLogError("no training sample, or no query of k users: nothing to reward")
    moments, allowed = prepared.moments(train), set(queries)
    orders = rankings(config, run, prepared, moments)
    labels = label_lists(config, run, prepared, train, orders, allowed, think=think)
    pieces = prompt_writer(config, run, prepared).pieces(moments)
    encoded = [vocabulary.encode_and_count(p, config.prompt.budget_tokens) for p in pieces]
    behaviours = [n for _, n in encoded]
    written, triggers, form = [[label.query for label in one] for one in labels], list[_Triggers](), None
    if think:
        thinker = Thinker.of(config, run, prepared, allowed)
        written, triggers = _by_interest(thinker, moments, behaviours, labels)
        form = ThoughtForm(Marks.of(vocabulary), behaviours, config.think)
    clicks = _clicks(grpo, run, prepared, moments)
    gamma = _gain(clicks, grpo, [order[:slots] for order in orders])
    points = config.think.max_points if think else 0
    judge = Judge(grpo, clicks, written, gamma, _usual_lengths(queries), slots, triggers, points)
    counts = CausalCounts(prepared.query_days, None)
    trees = Trees(vocabulary).by_day({day: counts.servable(day, k) for day in {m.day for m in moments}})
    ids = [prompt for prompt, _ in encoded]
    barred = [m.issued() for m in moments] if config.samples.only_new else []
    return il_grpo.Task(ids, [trees[m.day] for m in moments], judge, prepared.category_of, form, barred)


def _by_interest(
    thinker: Thinker,
    moments: Sequence[Moment],
    behaviours: Sequence[int],
    labels: Sequence[Sequence[Label]],
) -> tuple[list[list[str]], list[_Triggers]]:
    """Label lists in Think's order, and the trigger sequences of their interest points."""
    seen = [seen_of(moment, n) for moment, n in zip(moments, behaviours, strict=True)]
    both = [references(points) for points in thinker.points(seen, labels)]
    return [written for written, _ in both], [triggers for _, triggers in both]


def _clicks(grpo: GrpoConfig, run: Path, prepared: Prepared, moments: Sequence[Moment]) -> Clicks:
    """Click probabilities of lists at some of the moments, or their lower bounds."""
    model = ClickModel.load(run, prepared)
    score = model.lower_bounds if grpo.ctr_bound == "lower" else model.probabilities
    return lambda rows, lists: score([moments[row] for row in rows], lists)


def _gain(clicks: Clicks, grpo: GrpoConfig, orders: Sequence[list[str]]) -> float:
    """gamma, from the probabilities of the ranker's lists at the first training moments."""
    some = orders[:_SCALED_ON]
    return rewards.ctr_gain(np.concatenate(clicks(range(len(some)), some)), grpo.ctr_cap)


def _usual_lengths(queries: Sequence[str]) -> tuple[int, int]:
    shortest, longest = np.quantile([len(query) for query in queries], _USUAL)
    return max(1, int(shortest)), int(longest)


def reporter(system: str, advance: Any) -> Report:
    """A line for each validation and each tenth step: rewards, entropy, diversity."""

    def report(entry: dict[str, Any]) -> None:
        if "reward" in entry:
            advance(1)
            if entry["step"] % 10 == 0:
                shown = ("reward", "ctr", "rouge", "entropy", "queries", "categories")
                figures = " ".join(f"{name} {entry[name]:.3f}" for name in shown)
                note(f"{system} step {entry['step']}: {figures}")
        elif "stopped" in entry:
            note(f"{system} step {entry['step']}: stopped, {entry['stopped']}")
        else:
            note(f"{system} step {entry['step']}: validation Query HR {entry['valid_query_hr']:.4f}")

    return report


def fit_trl(
    model: PreTrainedModel,
    vocabulary: Vocabulary,
    prompts: il_grpo.Task,
    grpo: GrpoConfig,
    folder: Path,
    *,
    resume: bool,
    seed: int,
    validate: Validate,
    report: Report,
    draw: DrawGroups = sample_groups,
) -> Progress:
    """The same training under TRL."""
    from aigq.training.trl_trainer import IlGrpoTrainer, Records, begin

    progress, checkpoint = begin(folder, grpo, resume=resume)
    if progress.collapsed:
        return progress
    trainer = IlGrpoTrainer(model, vocabulary, prompts, grpo, folder, seed, draw)
    trainer.add_callback(Records(trainer, folder, progress, validate, report))
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return progress
