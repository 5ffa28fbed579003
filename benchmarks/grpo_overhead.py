"""What IL-GRPO adds to a step of TRL's GRPO: `python benchmarks/grpo_overhead.py`.

Both train the same new model of the recipes' size on the same prompts. The baseline is TRL's trainer as it
is, with one reward per list that costs nothing. IL-GRPO adds on the same rollouts: finding the queries, all
rewards but the CTR model's, and the advantages per token. Processor time of one thread, so that other work on
the machine does not count. Writes benchmarks/results/grpo_overhead.json.
"""

import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from trl.trainer.grpo_trainer import GRPOTrainer

from aigq.config import PromptConfig
from aigq.config_training import GeneratorConfig, GrpoConfig
from aigq.history.prompt import special_tokens
from aigq.models import generator
from aigq.models.decoding import QueryTree
from aigq.models.vocabulary import Vocabulary, train_tokenizer
from aigq.training.il_grpo import Rollouts, Task, read_list, token_advantages
from aigq.training.judge import Judge
from aigq.training.trl_trainer import IlGrpoTrainer, arguments, list_reward, sample

SLOTS, PROMPTS, GROUP, PROMPT_QUERIES, STEPS = 30, 16, 8, 60, 3
RESULT = Path(__file__).parent / "results" / "grpo_overhead.json"


class PlainTrainer(GRPOTrainer):
    """TRL's GRPO on the same rollouts: no method of it is overridden."""

    def __init__(
        self, model: generator.PreTrainedModel, task: Task, config: GrpoConfig, words: Vocabulary
    ) -> None:
        self.task, self.il, self.vocabulary = task, config, words
        rows = [{"prompt": str(row), "list_reward": float(row % 2)} for row in range(len(task.prompts))]
        super().__init__(
            model=model,
            reward_funcs=[list_reward],
            args=arguments(config, len(rows), Path(tempfile.mkdtemp()), 0, use_cpu=True, save_strategy="no"),
            train_dataset=Dataset.from_list(rows),
            processing_class=words.tokenizer,
            rollout_func=sample,
        )


def make(config: GrpoConfig) -> tuple[Vocabulary, Task]:
    """A shop of 2,000 made-up queries of two or three words, and prompts that name sixty of them."""
    draw = np.random.default_rng(0)
    words = [
        f"{a}{b}"
        for a in ("ba", "de", "fi", "go", "lu", "mi", "no", "ra")
        for b in ("l", "n", "r", "st", "x")
    ]
    queries = sorted({" ".join(draw.choice(words, draw.integers(2, 4))) for _ in range(2400)})[:2000]
    vocabulary = Vocabulary(
        train_tokenizer([(q, 2) for q in queries], 4096, special_tokens(PromptConfig(), []))
    )
    prompts = [
        [token for q in draw.choice(queries, PROMPT_QUERIES) for token in vocabulary.encode_query(str(q))]
        for _ in range(PROMPTS)
    ]
    references = [[str(q) for q in draw.choice(queries, SLOTS)] for _ in range(PROMPTS)]
    judge = Judge(config, lambda _, lists: [np.zeros(len(q)) for q in lists], references, 1.0, (4, 20), SLOTS)
    return vocabulary, Task(prompts, [QueryTree(queries, vocabulary)] * PROMPTS, judge, {})


def trl_seconds(words: Vocabulary, task: Task, config: GrpoConfig, model: generator.PreTrainedModel) -> float:
    """Processor seconds of a step of plain GRPO under TRL: rollouts, loss, gradients, optimiser."""
    trainer = PlainTrainer(model, task, config, words)
    start = time.process_time()
    trainer.train()
    return (time.process_time() - start) / STEPS


def own_seconds(words: Vocabulary, task: Task, config: GrpoConfig, model: generator.PreTrainedModel) -> float:
    """Processor seconds of what IL-GRPO adds to a step, on the rollouts of the same prompts."""
    trainer = IlGrpoTrainer(model, words, task, config, Path(tempfile.mkdtemp()), 0, use_cpu=True)
    rows = list(range(PROMPTS))
    rolled = sample([str(row) for row in rows for _ in range(GROUP)], trainer)["completion_ids"]
    width = max(map(len, rolled))
    padded = [ids + [words.pad] * (width - len(ids)) for ids in rolled]
    start = time.process_time()
    for _ in range(STEPS):
        read = [read_list(ids, words, SLOTS) for ids in padded]
        lists = [[one.queries for one in read[i : i + GROUP]] for i in range(0, len(read), GROUP)]
        scores = task.judge.score(rows, lists)
        slot = torch.tensor([one.slot for one in read]).view(PROMPTS, GROUP, width)
        token_advantages(scores, Rollouts(rows, slot, slot, lists), config, task.judge.best())
    return (time.process_time() - start) / STEPS


def main() -> None:
    """Measure, print and write the result."""
    torch.set_num_threads(1)
    config = GrpoConfig(steps=STEPS, prompts=PROMPTS, prompts_at_once=PROMPTS, group=GROUP)
    words, task = make(config)
    shape = GeneratorConfig(hidden_size=192, layers=4, heads=6, kv_heads=6, intermediate_size=512)
    model = generator.build(shape, words, 512, seed=0)
    step, own = trl_seconds(words, task, config, model), own_seconds(words, task, config, model)
    result = {
        "machine": f"{platform.system()} {platform.machine()}, one thread",
        "prompts": PROMPTS,
        "group": GROUP,
        "slots": SLOTS,
        "parameters": model.num_parameters(),
        "trl_step_s": round(step, 3),
        "own_work_s": round(own, 3),
        "ratio": round((step + own) / step, 4),
    }
    print(json.dumps(result, indent=1))
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
