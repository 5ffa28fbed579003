"""The recipes of real models, with tiny random models of the same architectures in their place."""

from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3MoeConfig,
)

from aigq.cli import main
from aigq.cli_common import DONE
from test_cli import GAMES, write_log

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes" / "models").glob("*.yaml"))
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SHAPES = {
    "SmolLM2-135M": LlamaConfig(**SIZE, num_key_value_heads=1, tie_word_embeddings=True),
    "Qwen3-0.6B": Qwen3Config(**SIZE, num_key_value_heads=1, head_dim=16, tie_word_embeddings=True),
    "Qwen3-4B": Qwen3Config(**SIZE, num_key_value_heads=1, head_dim=16, tie_word_embeddings=True),
    "Qwen3-30B-A3B": Qwen3MoeConfig(
        **SIZE,
        num_key_value_heads=1,
        head_dim=16,
        moe_intermediate_size=16,
        num_experts=4,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        tie_word_embeddings=False,
    ),
}
SMALLER = {
    "split.validation_from": "2011-09-05",
    "split.test_from": "2011-09-15",
    "samples.unit": "next_query",
    "samples.k_users": 2,
    "samples.list_length": 3,
    "samples.train_min_history": 0,
    "prompt.budget_tokens": 160,
    "prompt.max_behaviours": 4,
    "prompt.favourites": 3,
    "prompt.trending": 3,
    "sft.max_samples": 16,
    "sft.imitation_max_steps": 2,
    "sft.batch_size": 6,
    "sft.lists_at_once": 2,
    "sft.eval_every": 2,
    "sft.eval_samples": 4,
    "sft.max_steps": 3,
    "sft.dtype": "float32",
    "ctr.max_samples": 60,
    "ctr.eval_samples": 40,
    "ctr.auc_floor": 0.5,
    "grpo.steps": 1,
    "grpo.prompts": 2,
    "grpo.group": 2,
    "channels.ranker": "{trees: 10, leaves: 4, min_pairs_in_leaf: 5}",
}


def tokenizer(name):
    """A byte-level BPE with the pre-tokeniser and the special tokens of the family."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    words = ["days ago", "weeks ago", "search", "click", "profile", "trending", "behaviours", "queries"]
    bpe.train_from_iterator([*GAMES, *words] * 3, trainer)
    end = "<|endoftext|>"
    if name == "SmolLM2-135M":  # no padding token
        return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=end, eos_token=end, unk_token=end)
    whole = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token=end)
    whole.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in ("<think>", "</think>")])
    return whole


def write_base(folder, name):
    """A base as it is downloaded: bfloat16, more rows than tokens, its own way of sampling."""
    words = tokenizer(name)
    torch.manual_seed(0)
    config = SHAPES[name]
    config.vocab_size = len(words) + 23
    config.eos_token_id = words.eos_token_id
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        do_sample=True, top_p=0.8, temperature=0.6, eos_token_id=[words.eos_token_id, 0]
    )
    model.save_pretrained(folder)
    words.save_pretrained(folder)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A small log and the four bases."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("real")
    write_log(folder / "searches.csv")
    for name in SHAPES:
        write_base(folder / "models" / name, name)
    return folder


def arguments(shop, recipe, run, **changes):
    """The options of a command: the recipe with the small log, the tiny base and few steps."""
    base = next(
        line.split("models/")[1].rstrip("}")
        for line in recipe.read_text().splitlines()
        if "models/" in line and "base" in line
    )
    settings = {
        "data.tables": shop / "tables",
        "data.source": "bestbuy",
        "data.path": shop / "searches.csv",
        "generator.base": shop / "models" / base,
        **SMALLER,
        **changes,
    }
    options = ["--config", str(recipe), "--run", str(shop / "runs" / run)]
    return options + [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains_its_architecture(shop, recipe, capsys):
    options = arguments(shop, recipe, recipe.stem)
    for stage in (["prepare"], ["train", "sft"], ["train", "ctr"], ["train", "grpo"]):
        assert main([*stage, *options]) == DONE, capsys.readouterr().err
