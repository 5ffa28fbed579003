"""Training and rollouts on one GPU: tokens a second, share of the GPU's peak, rollouts a second.

    python benchmarks/gpu.py RUN      # after `aigq train sft --config ... --run RUN`

The lists are those that direct_il_sft of the run imitates, the model is the new one that it began with. The
peak is what a large bfloat16 matrix product reaches in the same run. Operations are those that torch counts,
padding included. Rollouts are those of IL-GRPO; the baseline is transformers' sampling of as many tokens, not
kept to what may be served. Writes benchmarks/results/gpu.json.
"""

import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from aigq.config import load
from aigq.config_training import SftConfig
from aigq.models import generator
from aigq.models.decoding import Asked, ListRow, QueryTree, padded, sample_groups
from aigq.models.vocabulary import Vocabulary
from aigq.prepared import Prepared
from aigq.training import loop
from aigq.training.encoding import EncodedLists

RESULT: Final = Path(__file__).parent / "results" / "gpu.json"
STEPS, SKIPPED, COUNTED, ROUNDS, PROMPTS, GROUP, SIZE = 60, 20, 3, 3, 64, 8, 8192


def peak() -> float:
    """Operations per second of a bfloat16 matrix product."""
    a, b = (torch.randn(SIZE, SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * SIZE**3 / seconds_of(lambda: a @ b, rounds=20)


def seconds_of(work: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Mean seconds of one round; the first is not counted."""
    work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(rounds):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / rounds


def training(model: PreTrainedModel, data: EncodedLists, config: SftConfig, pad: int) -> dict[str, float]:
    """Tokens per second of supervised training, prompts included, and operations per second."""
    times = []

    def report(entry: dict[str, Any]) -> None:
        if "loss" in entry:
            times.append(time.perf_counter())

    def fit(steps: int) -> loop.Progress:
        settings = config.model_copy(update={"max_steps": steps, "epochs": 1.0, "eval_every": steps})
        with tempfile.TemporaryDirectory() as folder:
            return loop.fit(
                model,
                data,
                settings,
                Path(folder),
                pad=pad,
                seed=0,
                validate=lambda _: {"query_hr": 0.0},
                report=report,
            )

    tokens = fit(STEPS).tokens / STEPS
    steps = [b - a for a, b in itertools.pairwise(times)][SKIPPED:]
    with FlopCounterMode(display=False) as counter:
        counted = fit(COUNTED)
    second = tokens / statistics.median(steps)
    return {
        "tokens_per_second": second,
        "operations_per_second": second * counter.get_total_flops() / counted.tokens,
    }


def rollouts(
    model: PreTrainedModel, data: EncodedLists, words: Vocabulary, tree: QueryTree, length: int
) -> dict[str, Any]:
    """Rollouts per second, ours and of transformers alone, for the same prompts and as many tokens."""
    prompts = [data.prompt(i).tolist() for i in range(PROMPTS)]
    room, drawn = tree.room(length) + 1, torch.empty(0)

    def ours() -> None:
        nonlocal drawn
        each = [prompt for prompt in prompts for _ in range(GROUP)]
        rows = [partial(ListRow, tree, length)] * len(each)
        drawn = sample_groups(model, words, Asked(each, rows, room, 1.0), GROUP)

    def plain() -> None:
        ids, mask = (t.repeat_interleave(GROUP, dim=0).to(model.device) for t in padded(prompts, words.pad))
        decoder: Any = model
        steps = int(drawn.shape[-1])
        decoder.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=steps,
            min_new_tokens=steps,
            do_sample=True,
            top_k=100,
            pad_token_id=words.pad,
            eos_token_id=words.end,
        )

    own, theirs = seconds_of(ours), seconds_of(plain)
    return {
        "tokens_of_rollout": int(drawn.shape[-1]),
        "rollouts_per_second": round(PROMPTS * GROUP / own, 1),
        "transformers_alone": round(PROMPTS * GROUP / theirs, 1),
        "ratio": round(theirs / own, 3),
    }


def main() -> None:
    """Measure, print and write the result."""
    run = Path(sys.argv[1])
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here")
    config, folder = load(run / "config.yaml", []), run / "models" / "direct_il_sft" / "training"
    words, data = Vocabulary.load(folder / "init"), EncodedLists.load(folder / "imitation.npz")
    tree = QueryTree(
        Prepared.load(run / "prepared").shared_queries(config.samples.k_users)["query"].to_pylist(), words
    )
    loop.leave_out_cudnn_attention()  # as every training does
    best = peak()
    model = generator.load(folder / "init")
    trained = training(model, data, config.sft, words.pad)
    result = {
        "gpu": torch.cuda.get_device_name(),
        "peak_teraflops": round(best / 1e12, 1),
        "parameters": model.num_parameters(),
        "lists_per_step": config.sft.batch_size,
        "tokens_per_second": round(trained["tokens_per_second"]),
        "teraflops": round(trained["operations_per_second"] / 1e12, 1),
        "share_of_peak": round(trained["operations_per_second"] / best, 4),
        **rollouts(model, data, words, tree, config.samples.list_length),
    }
    print(json.dumps(result, indent=1))
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
