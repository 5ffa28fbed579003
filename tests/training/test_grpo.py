"""The policy that reinforcement learning begins with."""

import pytest

pytest.importorskip("peft")

import rl_toys
import torch

from aigq.training import grpo, loop


@pytest.fixture
def start(tmp_path):
    rl_toys.model(rl_toys.vocabulary()).save_pretrained(tmp_path / "start")
    return tmp_path / "start"


def test_weights_that_adapters_leave_alone_are_of_the_computations_type(start, monkeypatch):
    monkeypatch.setattr(loop, "compute_dtype", lambda dtype: torch.bfloat16)  # as on a GPU
    whole = grpo.read_policy(start, rl_toys.config(), seed=0)
    assert {p.dtype for p in whole.parameters()} == {torch.float32}
    config = rl_toys.config(lora_rank=2)
    policy = grpo.read_policy(start, config, seed=0)
    dtypes = {(p.requires_grad, p.dtype) for p in policy.parameters()}
    assert dtypes == {(False, torch.bfloat16), (True, torch.float32)}
    assert grpo.frozen_dtype(config).itemsize == 2


@pytest.mark.parametrize(("trainer", "moved"), [("loop", 1), ("trl", 0)])
def test_trl_puts_the_policy_on_its_device_itself(start, monkeypatch, trainer, moved):
    calls = []
    monkeypatch.setattr(grpo.generator, "to_device", lambda model: calls.append(model) or model)
    grpo.read_policy(start, rl_toys.config(trainer=trainer), seed=0)
    assert len(calls) == moved


def test_adapters_over_bfloat16_weights_learn(start, monkeypatch, tmp_path):
    monkeypatch.setattr(loop, "compute_dtype", lambda dtype: torch.bfloat16)
    config = rl_toys.config(lora_rank=2, steps=2, learning_rate=1e-2)
    policy = grpo.read_policy(start, config, seed=0)
    before = {name: p.detach().clone() for name, p in policy.named_parameters() if p.requires_grad}
    progress = rl_toys.fit(policy, config, tmp_path / "training")
    assert progress.step == 2
    assert any(not torch.equal(p, before[name]) for name, p in policy.named_parameters() if name in before)


def test_adapters_begin_by_the_seed_alone(start):
    def begun(seed):
        torch.rand(1)  # other random numbers were drawn before
        return grpo.read_policy(start, rl_toys.config(lora_rank=2), seed).state_dict()

    first, again, other = begun(3), begun(3), begun(4)
    drawn = [name for name in first if "lora_A" in name]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


def test_the_estimate_of_memory_counts_no_prompts_that_are_not_there(start, monkeypatch):
    """Twelve prompts at once, of which a step takes nine, of a log that has six."""
    loads = []
    monkeypatch.setattr(grpo.memory, "estimate", lambda size, load, **_: loads.append(load))
    monkeypatch.setattr(grpo.memory, "announce", lambda memory: None)
    config = rl_toys.config(prompts=9, prompts_at_once=12)
    grpo.announce(start, config, rl_toys.task(rl_toys.vocabulary(), config))
    assert (loads[0].lists, loads[0].written) == (6 * config.group, 6 * config.group)
