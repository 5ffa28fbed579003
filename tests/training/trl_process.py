"""One process of several, started by test_trl_trainer.py: `python trl_process.py train|sample FOLDER`."""

import json
import sys
from pathlib import Path

import rl_toys
import torch
from transformers import TrainerCallback

from aigq import processes
from aigq.models.decoding import Asked, ListRow, sample_groups
from aigq.training import sharding, trl_trainer


def seeded(prompts, trainer):
    """The rollouts of a prompt are the same in whichever process it is."""
    together = {"prompt_ids": [], "completion_ids": [], "logprobs": None}
    for start in range(0, len(prompts), trainer.il.group):
        torch.manual_seed(int(prompts[start]))
        one = trl_trainer.sample(prompts[start : start + trainer.il.group], trainer)
        for key in ("prompt_ids", "completion_ids"):
            together[key] += one[key]
    return together


class Gradients(TrainerCallback):
    """The gradient of each step."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.steps.append({name: p.grad.clone() for name, p in model.named_parameters()})


def train(folder):
    """Two steps of four prompts, two at once in each process."""
    words = rl_toys.vocabulary()
    config = rl_toys.config(entropy_bonus=0.0, steps=2, prompts_at_once=2, gradient_clip=1e3)
    task = rl_toys.task(words, config)
    trainer = trl_trainer.IlGrpoTrainer(rl_toys.model(words), words, task, config, folder, seed=3)
    trainer.rollout_func = seeded
    gradients = Gradients()
    trainer.add_callback(gradients)
    progress, _ = trl_trainer.begin(folder, config, resume=False)
    validations = []

    def validate(policy):
        validations.append(policy)
        return {"query_hr": 0.1 * len(validations)}

    trainer.add_callback(trl_trainer.Records(trainer, folder, progress, validate, lambda entry: None))
    trainer.train()
    if processes.rank() == 0:
        torch.save({"gradients": gradients.steps, "validations": len(validations)}, folder / "seen.pt")


def sample(folder):
    """Shared-out weights, and lists of one query in one process and of four in the other."""
    words = rl_toys.vocabulary()
    task = rl_toys.task(words, rl_toys.config())
    model = sharding.shard(rl_toys.model(words), torch.float32)
    length = 1 + 3 * processes.rank()
    rows = [ListRow(task.trees[0], length) for _ in range(2)]
    each = iter(rows)
    sample_groups(model, words, Asked(task.prompts[:1] * 2, [lambda: next(each)] * 2, 30, 1.0), 2)
    lists = [row.queries() for row in rows]
    (folder / f"lists-{processes.rank()}.json").write_text(json.dumps(lists))


if __name__ == "__main__":
    torch.set_num_threads(1)
    sharding.join()
    {"train": train, "sample": sample}[sys.argv[1]](Path(sys.argv[2]))
