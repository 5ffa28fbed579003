"""IL-GRPO inside TRL, for models that need its accelerate, DeepSpeed, PEFT and vLLM machinery.

The only changes to `trl.GRPOTrainer`: queries are scored beside lists, the advantages of a token are those of
method.md section 5 instead of one per list, and the upper clip depends on the token's entropy. Sampling goes
through `rollout_func`, so that rollouts obey the k-user rule as everywhere else.
"""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import trl
from accelerate.utils import gather_object
from datasets import Dataset
from packaging.specifiers import SpecifierSet
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler
from transformers import PreTrainedModel, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from aigq import processes, training_log
from aigq.config_training import GrpoConfig
from aigq.errors import StageError, UsageError
from aigq.models.decoding import DrawGroups, sample_groups
from aigq.models.vocabulary import Vocabulary
from aigq.training import advantages as credit
from aigq.training import checkpoints, loop, sharding
from aigq.training.checkpoints import Progress, Report, Validate
from aigq.training.il_grpo import COLLAPSED, Rollouts, Task, health, read_list, token_advantages
from aigq.training.judge import Scores
from aigq.training.spans import NOTHING

SUPPORTED_TRL: Final = SpecifierSet(">=1.16,<1.17")


class IlGrpoTrainer(GRPOTrainer):
    """TRL's trainer with credit per query.

    Args:
        model: the policy.
        vocabulary: its tokenizer.
        task: prompts, what may be written there, and the judge.
        config: everything about IL-GRPO.
        folder: of checkpoints.
        seed: of sampling and of the order of prompts.
        draw: who draws the rollouts.
        options: further `GRPOConfig` fields, such as `deepspeed`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        vocabulary: Vocabulary,
        task: Task,
        config: GrpoConfig,
        folder: Path,
        seed: int,
        draw: DrawGroups = sample_groups,
        **options: Any,
    ) -> None:
        check_trl()
        if task.thoughts is not None:
            raise StageError("TRL trains Direct alone; set grpo.trainer to loop for Think")
        self.vocabulary, self.task, self.il, self.draw = vocabulary, task, config, draw
        self.scores: Scores | None = None
        self.slot = torch.empty(0)  # (B, T) of this process, see spans.py
        self.slot_in_loss = torch.empty(0)  # (b, T) of the rows that the loss is computed of
        self.health: dict[str, Any] = {}  # of the step's rollouts in all processes, and their tokens
        self.written = 0
        super().__init__(
            model=model,
            reward_funcs=[list_reward],
            args=arguments(config, len(task.prompts), folder, seed, **options),
            train_dataset=Dataset.from_dict({"prompt": [str(row) for row in range(len(task.prompts))]}),
            processing_class=vocabulary.tokenizer,
            rollout_func=roll_out,
            callbacks=[EntropyDecay(self)],
        )

    def _get_train_sampler(self, dataset: Any = None) -> Sampler[int]:
        """TRL's, and each pass over the prompts in an order of its own, also after a resume."""
        return _EveryEpochAnew(super()._get_train_sampler(dataset), self.args.seed)

    def _calculate_rewards(
        self,
        inputs: list[Any],
        prompts: list[str],
        completions: list[Any],
        completion_ids_list: list[list[int]],
    ) -> torch.Tensor:
        """Per list as TRL wants it; beside that, rewards per query are kept for the advantages."""
        rows = [int(prompt) for prompt in prompts]
        slots = self.task.judge.slots
        spans = [read_list(ids, self.vocabulary, slots) for ids in completion_ids_list]
        queries = [one.queries for one in spans]
        local = self.task.judge.score(rows, [[one] for one in queries])  # (B, 1, K, 3), (B, 1)
        device, group = self.accelerator.device, self.il.group
        query = self.accelerator.gather(local.query[:, 0].to(device))  # (B of all processes, K, 3)
        lists = self.accelerator.gather(local.lists[:, 0].to(device))
        self.scores = Scores(query.view(-1, group, *query.shape[1:]), lists.view(-1, group))
        self.slot = pad_sequence([torch.tensor(one.slot) for one in spans], True, NOTHING)
        written = gather_object(queries)  # of all processes, in the same order
        groups = [written[start : start + group] for start in range(0, len(written), group)]
        nothing = torch.empty(0)
        self.health = health(Rollouts([], nothing, nothing, groups), self.scores, self.task.category_of)
        for example, reward in zip(inputs, local.lists[:, 0].tolist(), strict=True):
            example["list_reward"] = reward
        rewards: torch.Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        return rewards

    def _generate_and_score_completions(self, inputs: list[Any]) -> dict[str, Any]:
        """TRL's batch with the advantages (B, T) of IL-GRPO."""
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        assert self.scores is not None  # _calculate_rewards ran inside
        local, width = output["completion_ids"].shape
        slot = self.slot.to(self.accelerator.device).view(-1, self.il.group, width)
        first = self.accelerator.process_index * local // self.il.group
        mine = slice(first, first + slot.shape[0])  # groups of this process: rows are in group order
        scores = Scores(self.scores.query[mine], self.scores.lists[mine])
        rollouts = Rollouts([], output["completion_ids"].view_as(slot), slot, [])
        advantages, kept = token_advantages(scores, rollouts, self.il, self.task.judge.best())
        self.health["kept_prompts"] = int(sharding.total(kept, self.accelerator.device))
        self.written = int(output["num_items_in_batch"])
        output["advantages"] = advantages.view(local, width).float()
        output["slot"] = slot.view(local, width)
        return output

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's; beside it is kept which query each of its tokens belongs to."""
        self.slot_in_loss = inputs["slot"]
        loss: torch.Tensor = super()._compute_loss(model, inputs)
        return loss

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *args: Any, **options: Any
    ) -> Any:
        """TRL's, as means over what `grpo.ratio` says, and the upper clip for the entropies that it finds.

        TRL's ratio per token of means is the ratio per query or per list of `advantages.log_ratio`.
        """
        logps, entropies, aux = super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *args, **options
        )
        if entropies is not None:
            clip = credit.Clip(self.il.clip_low, self.il.clip_high, self.il.entropy_quantile)
            written = attention_mask[:, -logits_to_keep:]
            bounds: Any = self  # TRL declares numbers; a tensor per token works as well, if both are tensors
            bounds.epsilon_low = torch.tensor(clip.low, device=entropies.device)
            bounds.epsilon_high = credit.clip_bound(entropies.detach(), written, clip)
            logps = credit.log_ratio(logps, torch.zeros_like(logps), self.slot_in_loss, self.il.ratio)
        return logps, entropies, aux


class _EveryEpochAnew(Sampler[int]):
    """A sampler of TRL whose order depends on the number of the pass, not on how many went before.

    TRL's draws one order after the other, and so begins with the first one again after a resume.
    """

    def __init__(self, sampler: Any, seed: int) -> None:
        self._sampler, self._seed = sampler, seed

    def __iter__(self) -> Iterator[int]:
        return iter(self._sampler)

    def __len__(self) -> int:
        return len(self._sampler)

    def set_epoch(self, epoch: int) -> None:
        """The next pass is this one."""
        self._sampler.generator.manual_seed(_seed_of(self._seed, epoch))


class EntropyDecay(TrainerCallback):
    """beta(s): the entropy bonus falls linearly to zero with the step."""

    def __init__(self, trainer: IlGrpoTrainer) -> None:
        self._trainer = trainer

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the weight of this step."""
        done = state.global_step / max(1, state.max_steps)
        self._trainer.entropy_coef = self._trainer.il.entropy_bonus * (1 - done)


class Records(TrainerCallback):
    """What our own loop leaves, under TRL: log.jsonl, the best weights by validation, a stop on collapse.

    Validation is the work of all processes: weights that are shared out are fetched by all.
    """

    def __init__(
        self, trainer: IlGrpoTrainer, folder: Path, progress: Progress, validate: Validate, report: Report
    ) -> None:
        self.progress = progress
        self._trainer, self._folder, self._validate, self._report = trainer, folder, validate, report
        self._begun = time.monotonic() - progress.seconds

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The start itself may turn out to be the best."""
        if self.progress.step == 0:
            self._judge()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One step is done: TRL has logged its loss."""
        logs: dict[str, Any] = kwargs["logs"]
        if "grad_norm" not in logs:  # the summary at the end
            return
        progress, il = self.progress, self._trainer.il
        loop.require_finite(logs["grad_norm"])
        progress.step = state.global_step
        progress.tokens += self._trainer.written
        progress.seconds = time.monotonic() - self._begun
        entry = {
            "step": progress.step,
            "of": progress.total,
            "loss": logs["loss"],
            "entropy": logs["entropy"],
            "gradient_norm": logs["grad_norm"],
            **self._trainer.health,
            "tokens": progress.tokens,
            "seconds": round(progress.seconds, 2),
        }
        self._report(entry)
        checkpoints.log(self._folder, entry)
        progress.follow(entry["categories"], il.collapse)
        if progress.step % il.eval_every == 0 or progress.step == progress.total or progress.collapsed:
            self._judge()
        if progress.collapsed:
            self._report({"step": progress.step, "stopped": COLLAPSED})
            control.should_save = control.should_training_stop = True

    def _judge(self) -> None:
        policy = self._trainer.accelerator.unwrap_model(self._trainer.model)
        checkpoints.validate_and_keep(policy, self._folder, self.progress, self._validate, self._report)


def begin(folder: Path, config: GrpoConfig, *, resume: bool) -> tuple[Progress, Path | None]:
    """Where an earlier training stopped and its checkpoint, the log cut to that; else a folder made clean."""
    states = filter(_is_whole, folder.glob("checkpoint-*/trainer_state.json")) if resume else ()
    found = {int(state.parent.name.partition("-")[2]): state.parent for state in states}
    step = max(found, default=0)
    with sharding.first_alone() as first:
        if first and found:
            checkpoints.truncate_log(folder, step)
        elif first:  # a later resume must not continue another training
            (folder / "log.jsonl").unlink(missing_ok=True)
            for earlier in folder.glob("checkpoint-*"):
                shutil.rmtree(earlier)
    entries = training_log.read(folder)
    steps_done = [entry for entry in entries if "reward" in entry]
    last: dict[str, Any] = steps_done[-1] if steps_done else {"seconds": 0.0, "tokens": 0}
    progress = Progress(
        step,
        config.steps,
        best=max((entry["valid_query_hr"] for entry in entries if "valid_query_hr" in entry), default=-1.0),
        seconds=last["seconds"],
        tokens=last["tokens"],
    )
    for entry in steps_done:
        progress.follow(entry["categories"], config.collapse)
    return progress, found.get(step)


def _is_whole(state: Path) -> bool:
    """Whether this file of a checkpoint, which TRL writes last, was not cut off."""
    try:
        return bool(json.loads(state.read_text(encoding="utf-8")))
    except ValueError:
        return False


def check_trl() -> None:
    """Raise StageError unless the installed TRL is one that the overridden methods were checked against."""
    if trl.__version__ not in SUPPORTED_TRL:
        raise StageError(
            f"trl {trl.__version__} is installed; supported: {SUPPORTED_TRL}; "
            f"pip install 'trl{SUPPORTED_TRL}'"
        )


def arguments(config: GrpoConfig, known: int, folder: Path, seed: int, **options: Any) -> GRPOConfig:
    """TRL's settings for ours: no KL, token-mean loss over the batch, one fresh generation per step.

    Raises:
        UsageError: the prompts of a step cannot be shared out equally, or are more than are `known`.
    """
    at_once = config.prompts_at_once * processes.count()
    if config.prompts % at_once:
        raise UsageError(
            f"grpo.prompts is {config.prompts} and must be a multiple of {at_once}, the prompts that all "
            "processes take at once; see grpo.prompts_at_once"
        )
    if config.prompts > known:
        raise UsageError(
            f"grpo.prompts is {config.prompts}, and there are {known} prompts: TRL leaves out what fills no "
            "step; set grpo.prompts to no more, or grpo.trainer to loop"
        )
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "seed": seed,
        "max_steps": config.steps,
        "num_generations": config.group,
        "per_device_train_batch_size": config.prompts_at_once * config.group,
        "gradient_accumulation_steps": config.prompts // at_once,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.98,
        "max_grad_norm": config.gradient_clip,
        "temperature": config.temperature,
        "top_k": config.top_k,
        "beta": 0.0,
        "loss_type": "dapo",
        "entropy_coef": config.entropy_bonus,
        "save_steps": config.eval_every,
        "save_total_limit": 1,
        "report_to": [],
        "logging_steps": 1,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": torch.cuda.is_available() and torch.cuda.is_bf16_supported(),
    }
    return GRPOConfig(**{**settings, **options})


def list_reward(list_reward: list[float | None], **_: Any) -> list[float | None]:
    """R_seq of each completion, for TRL's own log."""
    return list_reward


def roll_out(prompts: list[str], trainer: Any) -> dict[str, Any]:
    """TRL's `rollout_func`: lists drawn from the random numbers of this step and this process.

    So a resumed training writes what an uninterrupted one does, as in `il_grpo.fit`.
    """
    torch.manual_seed(_seed_of(trainer.args.seed, trainer.state.global_step, processes.rank()))
    return sample(prompts, trainer)


def _seed_of(*place: int) -> int:
    """One seed out of several numbers."""
    return int(np.random.SeedSequence(place).generate_state(1)[0])


def sample(prompts: list[str], trainer: Any) -> dict[str, Any]:
    """Lists for prompts, which are row numbers, each repeated `num_generations` times in a row."""
    task, group = trainer.task, trainer.il.group
    rows = [int(prompt) for prompt in prompts]
    each = rows[::group]
    policy = trainer.accelerator.unwrap_model(trainer.model)
    tokens = trainer.draw(policy, trainer.vocabulary, task.asked(each, trainer.il), group).flatten(0, 1)
    pad = trainer.vocabulary.pad
    return {
        "prompt_ids": [list(task.prompts[row]) for row in rows],
        "completion_ids": [[token for token in one if token != pad] for one in tokens.tolist()],
        "logprobs": None,
    }
