"""ONNX Runtime and vLLM write what transformers writes. What vLLM needs: docs/real-models.md."""

import json
import shutil
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from aigq.config import DecodingConfig, PromptConfig
from aigq.config_training import GeneratorConfig, ThinkConfig
from aigq.errors import ConfigError
from aigq.history.prompt import Behaviour, PromptParts, compressed, special_tokens
from aigq.models import engine, generator, onnx_engine
from aigq.models.decoding import QueryTree, generate_lists
from aigq.models.think_decoding import Marks, generate_thoughts
from aigq.models.think_grammar import THINK_TOKENS
from aigq.models.vocabulary import Vocabulary, train_tokenizer

QUERIES = ["whole milk", "white bread", "milk", "牛奶", "egg nog 🎄", "whole milk organic", "a;;b"]
TINY = GeneratorConfig(hidden_size=64, layers=2, heads=2, kv_heads=1, intermediate_size=64, vocab_size=300)
FEW = {
    "enforce_eager": True,
    "max_num_seqs": 2,
    "max_num_batched_tokens": 512,
}  # requests wait and change places
FAST = {
    "onnx": DecodingConfig(engine="onnx"),
    "vllm": DecodingConfig(engine="vllm", engine_options=FEW),
}
MODULE = {"onnx": "onnxruntime_genai", "vllm": "vllm"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model that knows Think's marks."""
    special = special_tokens(PromptConfig(max_behaviours=4), [])
    words = Vocabulary(train_tokenizer([(q, 5) for q in QUERIES[:3]], 300, special))
    model = generator.build(TINY, words, context=512, seed=0)
    words = generator.add_tokens(model, words, THINK_TOKENS)
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    words.tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module", params=list(FAST))
def writers(folder, request):
    """Transformers and another engine on the same weights."""
    pytest.importorskip(MODULE[request.param])
    words = Vocabulary.load(folder)
    both = (DecodingConfig(), FAST[request.param])
    return words, *(engine.opened(config, folder, words) for config in both)


def prompts(words):
    texts = [["milk"], ["milk", "white bread", "牛奶"], ["egg nog 🎄"], ["whole milk", "milk"], []]
    shown = [PromptParts([Behaviour(0, "search", text) for text in row]) for row in texts]
    return [words.encode_prompt(compressed(parts), 200) for parts in shown], [len(row) for row in texts]


def test_lists_are_the_same(writers):
    words, *both = writers
    trees = [QueryTree(QUERIES, words), QueryTree(QUERIES[:3], words), *[QueryTree(QUERIES, words)] * 3]
    barred = [["milk"], [], ["牛奶", "a;;b"], [], []]
    asked, _ = prompts(words)
    slow, fast = (generate_lists(write, asked, trees, 6, without=barred) for write in both)
    assert fast == slow
    assert sorted(fast[1]) == sorted(QUERIES[:3])
    assert "milk" not in fast[0]


@pytest.mark.parametrize("name", ["onnx"])
def test_a_list_goes_beyond_the_context_of_the_model(folder, tmp_path, name):
    """Queries that are younger than the vocabulary take more tokens than a context was made for."""
    pytest.importorskip(MODULE[name])
    small = shutil.copytree(folder, tmp_path / "model", ignore=shutil.ignore_patterns("onnx"))
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 16}))
    words = Vocabulary.load(small)
    asked, _ = prompts(words)
    trees = [QueryTree(QUERIES, words)] * len(asked)
    slow, fast = (
        generate_lists(engine.opened(one, small, words), asked, trees, 6)
        for one in (DecodingConfig(), FAST[name])
    )
    assert fast == slow


def test_sampled_lists_keep_to_the_rule(writers):
    words, _, fast = writers
    tree = QueryTree(QUERIES, words)
    asked, _ = prompts(words)
    lists = generate_lists(fast, asked * 8, [tree] * 40, 5, temperature=1.0)
    assert all(len(set(one)) == len(one) == 5 and set(one) <= set(tree.queries) for one in lists)
    assert len(set(map(tuple, lists))) > 5


def test_thoughts_are_the_same(writers):
    words, *both = writers
    tree, marks = QueryTree(QUERIES, words), Marks.of(words)
    limits = ThinkConfig(rationale_tokens=8, max_points=3, max_triggers=99)
    asked, known = prompts(words)
    slow, fast = (
        generate_thoughts(write, marks, asked, known, [tree] * 5, 4, limits, reasoning=True) for write in both
    )
    assert fast == slow
    assert all(thought.points for thought in fast)


@pytest.mark.parametrize("name", list(FAST))
def test_an_engine_that_is_not_installed_is_named(folder, name, monkeypatch):
    monkeypatch.setitem(sys.modules, MODULE[name], None)
    with pytest.raises(ConfigError, match=rf"pip install 'aigq\[{name}\]'"):
        engine.opened(FAST[name], folder, Vocabulary.load(folder))


def test_options_of_another_engine_are_an_error(folder):
    config = DecodingConfig(engine="onnx", engine_options={"enforce_eager": True})
    with pytest.raises(ConfigError, match="onnx takes none"):
        engine.opened(config, folder, Vocabulary.load(folder))


def test_a_graph_is_made_once_for_these_weights(folder, tmp_path, monkeypatch):
    pytest.importorskip(MODULE["onnx"])
    onnx_engine.exported(folder)
    model = shutil.copytree(folder, tmp_path / "model")
    monkeypatch.setattr(subprocess, "run", None)
    first = onnx_engine.exported(model)
    monkeypatch.undo()
    other = generator.load(model)
    with torch.no_grad():
        other.get_input_embeddings().weight.mul_(2)
    other.save_pretrained(model)
    second = onnx_engine.exported(model)
    assert second != first
    assert [path.name for path in (model / "onnx").iterdir()] == [second.parent.name]


def test_a_model_that_cannot_be_exported_is_an_error(folder, tmp_path):
    pytest.importorskip(MODULE["onnx"])
    model = shutil.copytree(folder, tmp_path / "model", ignore=shutil.ignore_patterns("onnx"))
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"architectures": ["Unknown"]}))
    with pytest.raises(ConfigError, match="not currently supported"):
        onnx_engine.exported(model)
    assert list((model / "onnx").iterdir()) == []
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="no safetensors"):
        onnx_engine.exported(model)
