"""vLLM draws the rollouts of a training with the policy's weights. What vLLM needs: docs/real-models.md."""

import sys

import pytest
import rl_toys
import torch

from aigq.config_training import GrpoConfig
from aigq.errors import ConfigError
from aigq.models import engine, generator
from aigq.models.decoding import Asked, generate_lists, sample_groups, writer
from aigq.training import grpo, il_grpo

OPTIONS = {"enforce_eager": True, "max_num_seqs": 8}


def new(words):
    """The toy model with heads as wide as vLLM's attention on processors needs them."""
    return rl_toys.model(words, heads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy")
    words = rl_toys.vocabulary()
    new(words).save_pretrained(path)
    words.tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def draw(folder):
    """vLLM's rollouts; one engine for all tests, as it reads weights anew at each call anyway."""
    pytest.importorskip("vllm")
    config = rl_toys.config(rollouts="vllm", rollout_options=OPTIONS)
    return engine.rollouts(config, folder, rl_toys.vocabulary(), 120)


def moved(model):
    """The model with other weights."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * parameter.std() * torch.randn_like(parameter))
    return model


def greedy(write, task):
    return generate_lists(write, task.prompts, task.trees, rl_toys.SLOTS)


@pytest.mark.parametrize("lora_rank", [None, 4])
def test_it_writes_with_the_weights_that_it_was_given_last(draw, lora_rank):
    words = rl_toys.vocabulary()
    task = rl_toys.task(words, rl_toys.config())
    start = new(words)
    policy = moved(generator.adapt(new(words), rl_toys.config(lora_rank=lora_rank)))
    draw._writer.take(start)
    before = greedy(draw._writer, task)
    draw._writer.take(policy)
    after = greedy(draw._writer, task)
    assert before == greedy(writer(start, words), task)
    assert after == greedy(writer(policy, words), task)
    assert before != after


def test_rollouts_are_drawn_as_often_as_the_policy_draws_them(draw):
    words = rl_toys.vocabulary()
    policy, config = moved(new(words)), rl_toys.config(group=400)
    task = rl_toys.task(words, config)
    asked: Asked = task.asked([0], config)
    torch.manual_seed(7)
    both = [one(policy, words, asked, 400)[0] for one in (sample_groups, draw)]
    for tokens in both:
        assert all(len(set(queries)) == rl_toys.SLOTS for queries in _lists(tokens, words))
    shares = [torch.bincount(tokens[:, 0], minlength=len(words.tokenizer)) / 400 for tokens in both]
    assert shares[0].max() < 0.9, "a policy that draws one token tells nothing"
    assert float((shares[0] - shares[1]).abs().sum() / 2) < 0.12


def _lists(tokens, words):
    return [il_grpo.read_list(one, words, rl_toys.SLOTS).queries for one in tokens.tolist()]


class Killed(Exception):
    pass


@pytest.mark.parametrize("trainer", [il_grpo.fit, grpo.fit_trl])
def test_a_resumed_training_equals_an_uninterrupted_one(draw, tmp_path, trainer):
    def die(entry):
        if entry["step"] == 3:
            raise Killed

    def fit(name, **changes):
        policy = new(rl_toys.vocabulary())
        rl_toys.fit(policy, rl_toys.config(), tmp_path / name, trainer=trainer, draw=draw, **changes)
        return policy.state_dict()

    whole = fit("whole")
    with pytest.raises(Killed):
        fit("cut", report=die)
    resumed = fit("cut", resume=True)
    begun = new(rl_toys.vocabulary()).state_dict()
    assert any(not torch.equal(weight, begun[name]) for name, weight in whole.items())
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name]), name


def test_an_engine_that_is_not_installed_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.delitem(sys.modules, "aigq.models.vllm_engine", raising=False)
    with pytest.raises(ConfigError, match=r"grpo.rollouts=vllm: vllm is not.*'aigq\[vllm\]'"):
        engine.rollouts(GrpoConfig(rollouts="vllm"), folder, rl_toys.vocabulary(), 120)


def test_what_the_engine_cannot_do_is_refused(folder, monkeypatch):
    words = rl_toys.vocabulary()
    with pytest.raises(ConfigError, match="transformers takes none"):
        engine.rollouts(GrpoConfig(rollout_options=OPTIONS), folder, words, 120)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process"):
        engine.rollouts(GrpoConfig(rollouts="vllm"), folder, words, 120)
