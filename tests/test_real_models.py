"""The recipes of real models, with tiny random models of the same architectures in their place."""

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3MoeConfig,
)

import launcher
from aigq import config as configs
from aigq import training_log
from aigq.cli import main
from aigq.cli_common import DONE, WRONG_USE
from aigq.models import generator
from test_cli import GAMES, write_log

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes" / "models").glob("*.yaml"))
QUICK = ("smollm2-135m", "qwen3-0.6b", "qwen3-30b-a3b-lora")
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
    "prompt.profile": [],
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
    folder = tmp_path_factory.mktemp("real")
    write_log(folder / "searches.csv")
    for name in SHAPES:
        write_base(folder / "models" / name, name)
    return folder


def base_of(recipe):
    return Path(configs.load(recipe).generator.base).name


def arguments(shop, recipe, run, **changes):
    """The options of a command: the recipe with the small log, the tiny base and few steps."""
    settings = {
        "data.tables": shop / "tables",
        "data.source": "bestbuy",
        "data.path": shop / "searches.csv",
        "generator.base": shop / "models" / base_of(recipe),
        **SMALLER,
        **changes,
    }
    options = ["--config", str(recipe), "--run", str(shop / "runs" / run)]
    return options + [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


@pytest.mark.parametrize(
    "recipe",
    # one of each architecture and of each way to train it; the others with the marker
    [pytest.param(p, marks=() if p.stem in QUICK else pytest.mark.slow, id=p.stem) for p in RECIPES],
)
def test_a_recipe_trains_its_architecture(shop, recipe, capsys):
    """Labels, then rewards under TRL; what is left are folders that plain transformers loads."""
    run = shop / "runs" / recipe.stem
    options = arguments(shop, recipe, recipe.stem)
    for stage in (["prepare"], ["train", "sft"], ["train", "ctr"], ["train", "grpo"]):
        assert main([*stage, *options]) == DONE, capsys.readouterr().err
    assert capsys.readouterr().err.count("memory, on each of 1 process: about") == 2
    start = AutoModelForCausalLM.from_pretrained(run / "models" / "direct_il_sft" / "training" / "init")
    for system in ("direct_il_sft", "direct_il_grpo"):
        model = AutoModelForCausalLM.from_pretrained(run / "models" / system)
        assert type(model) is type(start)
        assert not any("lora" in name for name in load_file(run / "models" / system / "model.safetensors"))
        words = AutoTokenizer.from_pretrained(run / "models" / system)
        assert model.config.pad_token_id == words.pad_token_id != words.eos_token_id
        assert model.config.eos_token_id == words.eos_token_id
        assert model.generation_config.top_p is None, "the base's own sampling changes the rollouts"
        assert len(words) <= model.get_input_embeddings().num_embeddings
    log = training_log.read(run / "models" / "direct_il_grpo" / "training")
    assert [entry["gradient_norm"] > 0 for entry in log if "reward" in entry] == [True]


def kept(folder):
    """The weights in the last checkpoint of a training: of adapters these alone."""
    return torch.load(folder / "checkpoint.pt", weights_only=True)["model"]


@pytest.mark.parametrize("name", ["qwen3-4b-lora", "qwen3-30b-a3b-lora"])
def test_adapters_train_the_rows_of_new_tokens_and_are_merged(shop, tmp_path, name):
    recipe = next(path for path in RECIPES if path.stem == name)
    config = configs.load(recipe, ["sft.dtype=float32"]).sft
    special = ["<behaviours>", "<queries>", "<today>"]
    base = shop / "models" / base_of(recipe)
    model, words = generator.extend_pretrained(str(base), special)
    model = generator.adapt(model.float(), config, sorted(words.special)).eval()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    ids = torch.tensor(
        [words.encode("<behaviours>") + words.encode_query("halo") + words.encode("<queries>")]
    )
    frozen = generator.read(base, torch.float32).get_input_embeddings().weight
    first = generator.extend_pretrained(str(base), special)[0].get_input_embeddings().weight.float()
    for _ in range(3):
        logits = model(input_ids=ids).logits
        torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    generator.save(model, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(plain(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5, rtol=1e-5)
    rows = plain.get_input_embeddings().weight
    assert not torch.allclose(rows[ids[0, 0]], first[ids[0, 0]], atol=1e-3), (
        "the row of a new token stood still"
    )
    word = words.encode_query("halo")[0]
    assert torch.equal(rows[word], frozen[word])


def start(stage, options, count):
    """`aigq train STAGE` in several processes."""
    return launcher.start(["-m", "aigq.cli", "train", stage, *options], count)


def finish(members):
    """All of them end well, and the first alone speaks."""
    said = launcher.finish(members)
    assert [bool(out) for out in said] == [True] + [False] * (len(members) - 1)


def test_adapters_in_several_processes_are_refused(shop, monkeypatch, capsys):
    recipe = next(path for path in RECIPES if path.stem == "qwen3-4b-lora")
    options = arguments(shop, recipe, "refused")
    assert main(["prepare", *options]) == DONE
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["train", "sft", *options]) == WRONG_USE
    assert "sft.lora_rank is for one process" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["smollm2-135m", "qwen3-30b-a3b"])
def test_two_processes_end_up_where_one_does(shop, name):
    """Batches of five: one process has a list less than the other, and the last batch is smaller still."""
    recipe = next(path for path in RECIPES if path.stem == name)
    steps = {"sft.batch_size": 5, "sft.max_steps": 10, "sft.eval_every": 10, "sft.epochs": 3}
    alone, together = (arguments(shop, recipe, f"{name}-{n}", **steps) for n in (1, 2))
    for options in (alone, together):
        assert main(["prepare", *options]) == DONE
    members = start("sft", together, 2)
    assert main(["train", "sft", *alone]) == DONE
    finish(members)
    folders = [shop / "runs" / f"{name}-{n}" / "models" / "direct_il_sft" / "training" for n in (1, 2)]
    one, two = (kept(folder) for folder in folders)
    assert one.keys() == two.keys()
    for key, weight in one.items():
        torch.testing.assert_close(two[key], weight, atol=1e-5, rtol=1e-4)
    losses = [
        [x["loss"] for x in map(json.loads, (f / "log.jsonl").read_text().splitlines()) if "loss" in x]
        for f in folders
    ]
    assert len(losses[0]) == 1
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    saved = [load_file(folder / "best" / "model.safetensors") for folder in folders]
    assert saved[0].keys() == saved[1].keys()
    first = load_file(folders[1] / "init" / "model.safetensors")
    trained = [
        key for key in one if key in first and not torch.allclose(one[key], first[key].float(), atol=1e-6)
    ]
    assert trained or "lora" in name, "a comparison of weights that never moved"


@pytest.mark.slow
def test_grpo_in_two_processes_goes_on_after_a_kill_and_leaves_one_model(shop):
    recipe = next(path for path in RECIPES if path.stem == "smollm2-135m")
    steps = {"grpo.steps": 6, "grpo.eval_every": 1, "grpo.prompts": 4}  # two prompts in each process
    options = arguments(shop, recipe, "two-grpo", **steps)
    for stage in (["prepare"], ["train", "sft"], ["train", "ctr"]):
        assert main([*stage, *options]) == DONE
    trained = shop / "runs" / "two-grpo" / "models" / "direct_il_grpo"
    members = start("grpo", options, 2)
    while not (trained / "training" / "checkpoint-1" / "trainer_state.json").exists():
        assert [member.poll() for member in members] == [None, None]
        time.sleep(0.01)
    for member in members:
        member.kill()
        member.communicate()
    assert not (trained / "model.safetensors").exists()
    finish(start("grpo", [*options, "--resume"], 2))
    log = training_log.read(trained / "training")
    assert [entry["step"] for entry in log if "reward" in entry] == [1, 2, 3, 4, 5, 6]
    assert [entry["step"] for entry in log if "valid_query_hr" in entry] == [0, 1, 2, 3, 4, 5, 6]
    assert len(log[1]["reward_by_slot"]) == SMALLER["samples.list_length"]
    assert [path.parent for path in trained.rglob("trainer_state.json")] == [
        trained / "training" / "checkpoint-6"
    ]
    AutoModelForCausalLM.from_pretrained(trained)
    assert main(["train", "grpo", *options]) == DONE  # finished: nothing is done again
