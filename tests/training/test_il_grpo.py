import itertools
import os
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import rl_toys
import torch

from aigq.errors import StageError
from aigq.models.decoding import padded
from aigq.training import grpo, il_grpo
from aigq.training.policy import log_probabilities
from aigq.training.spans import LIST, NOTHING


def train(folder, config, *, resume=False):
    words = rl_toys.vocabulary()
    model, task = rl_toys.model(words), rl_toys.task(words, config)

    def validate(policy):
        rollouts = il_grpo.roll_out(policy, words, task, config, [0, 1])
        return {"query_hr": float(task.judge.score([0, 1], rollouts.lists).query.mean())}

    return model, rl_toys.fit(model, config, folder, validate=validate, resume=resume)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import rl_toys, test_il_grpo
from aigq.training import checkpoints
save = checkpoints.save
def save_and_die(*arguments):
    save(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
checkpoints.save = save_and_die
test_il_grpo.train(Path({folder!r}), rl_toys.config())
"""


def test_resume_after_kill_9_equals_an_uninterrupted_training_bit_for_bit(tmp_path):
    config = rl_toys.config()
    whole, _ = train(tmp_path / "whole", config)
    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "killed"))
    done = subprocess.run([sys.executable, "-c", script], env=dict(os.environ), timeout=120)
    assert done.returncode == -signal.SIGKILL
    resumed, progress = train(tmp_path / "killed", config, resume=True)
    assert progress.step == config.steps
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name
    assert rl_toys.log_of(tmp_path / "whole") == rl_toys.log_of(tmp_path / "killed")


def test_training_raises_the_reward(tmp_path):
    config = rl_toys.config(steps=40, eval_every=40, learning_rate=3e-3, entropy_bonus=0.0)
    train(tmp_path, config)
    rewards = [line["reward"] for line in rl_toys.log_of(tmp_path) if "reward" in line]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.05


def test_a_collapse_to_few_categories_stops_early(tmp_path):
    config = rl_toys.config(
        steps=6, collapse=0.99
    )  # the random lists of a new model differ from step to step
    words = rl_toys.vocabulary()
    task = rl_toys.task(words, config)
    first = il_grpo.health(
        il_grpo.Rollouts([0], torch.zeros(1, 2, 1), torch.zeros(1, 2, 1), [[["milk", "tea"], ["milk"]]]),
        task.judge.score([0], [[["milk", "tea"], ["milk"]]]),
        task.category_of,
    )
    assert first["categories"] == 1.5
    _, progress = train(tmp_path, config)
    categories = [line["categories"] for line in rl_toys.log_of(tmp_path) if "categories" in line]
    below = [i for i, n in enumerate(categories, start=1) if n < 0.99 * categories[0]]
    assert progress.step == (below[0] if below else 6)


class Killed(Exception):
    pass


@pytest.mark.parametrize("trainer", ["loop", "trl"])
def test_a_training_that_stopped_at_a_collapse_does_not_go_on_after_a_kill(tmp_path, monkeypatch, trainer):
    categories, health = itertools.chain([4.0], itertools.repeat(1.0)), il_grpo.health

    def falling(*arguments):
        return health(*arguments) | {"categories": next(categories)}

    def die(entry):
        if trainer == "loop" and "stopped" in entry:  # TRL writes its checkpoint after that
            raise Killed

    def train(**options):
        fit = il_grpo.fit if trainer == "loop" else grpo.fit_trl
        model, config = rl_toys.model(rl_toys.vocabulary()), rl_toys.config(eval_every=4)
        return rl_toys.fit(model, config, tmp_path, trainer=fit, **options)

    monkeypatch.setattr(il_grpo, "health", falling)
    if trainer == "trl":
        pytest.importorskip("trl")
        monkeypatch.setattr("aigq.training.trl_trainer.health", falling)
    with pytest.raises(Killed) if trainer == "loop" else nullcontext():
        train(report=die)
    before = rl_toys.log_of(tmp_path)
    progress = train(resume=True)
    assert (progress.step, progress.total) == (2, 4)
    assert rl_toys.log_of(tmp_path) == before


def test_a_group_shares_its_prompt_without_changing_a_number():
    words = rl_toys.vocabulary()
    model, config = rl_toys.model(words), rl_toys.config()
    task = rl_toys.task(words, config)
    model.eval()
    torch.manual_seed(0)
    rollouts = il_grpo.roll_out(model, words, task, config, [0, 1, 4])
    ids, mask = padded([task.prompts[i] for i in rollouts.rows], words.pad)
    shared, entropy = log_probabilities(model, ids, mask, rollouts.tokens, 1.0)
    whole = torch.cat([ids.repeat_interleave(4, 0), rollouts.tokens.flatten(0, 1)], dim=1)
    seen = torch.cat([mask.repeat_interleave(4, 0), torch.ones_like(rollouts.tokens.flatten(0, 1))], dim=1)
    logits = model(whole, attention_mask=seen).logits[:, ids.shape[1] - 1 : -1]
    logp = torch.log_softmax(logits, dim=2)
    expected = logp.gather(2, rollouts.tokens.flatten(0, 1).unsqueeze(2)).squeeze(2)
    written = rollouts.slot.flatten(0, 1) != NOTHING
    torch.testing.assert_close(shared[written], expected[written], atol=1e-5, rtol=1e-5)
    own = -(logp.exp() * logp).sum(2)
    torch.testing.assert_close(entropy[written], own[written], atol=1e-4, rtol=1e-4)


def test_every_prompt_is_used_before_one_comes_back():
    words, config = rl_toys.vocabulary(), rl_toys.config()
    task = rl_toys.task(words, config)
    drawn = [row for step in range(3) for row in il_grpo.choose(task, config, 0, step)]
    assert sorted(drawn[:6]) == sorted(drawn[6:12]) == list(range(6))


def test_the_end_token_belongs_to_the_list_and_padding_to_nothing():
    words = rl_toys.vocabulary()
    tokens = [*words.encode_query("milk"), words.end, words.pad, words.pad]
    spans = il_grpo.read_list(tokens, words, 4)
    assert spans.queries == ["milk"]
    assert spans.slot[-3:] == [LIST, NOTHING, NOTHING]


@pytest.mark.parametrize("match", ["position", "set"])
def test_missing_queries_score_zero_and_stay_in_the_statistics(match):
    words, config = rl_toys.vocabulary(), rl_toys.config(match=match)
    judge = rl_toys.task(words, config).judge
    scores = judge.score([0], [[["oat milk", "milk"], []]])
    assert scores.query.shape == (1, 2, rl_toys.SLOTS, 3)
    assert scores.query[0, 1].abs().sum() == 0
    # references of shopper 0: milk, oat milk, ...: the slots are swapped
    by_slot = scores.query[0, 0, :2, 1].tolist()
    assert by_slot == ([pytest.approx(2 / 3)] * 2 if match == "position" else [1.0, 1.0])


def test_difficulty_filter_drops_prompts_that_teach_nothing():
    words, config = rl_toys.vocabulary(), rl_toys.config(difficulty=(0.4, 0.95))
    task = rl_toys.task(words, config)
    model = rl_toys.model(words)
    torch.manual_seed(0)
    rollouts = il_grpo.roll_out(model, words, task, config, [0, 1, 2, 3])
    scores = task.judge.score(rollouts.rows, rollouts.lists)
    share = scores.difficulty(task.judge.best())
    advantages, kept = il_grpo.token_advantages(scores, rollouts, config, task.judge.best())
    inside = (share > 0.4) & (share < 0.95)
    assert kept == int(inside.sum())
    assert (advantages.abs().sum(dim=(1, 2)) > 0).tolist() == inside.tolist()


def test_training_stops_before_a_broken_gradient_spoils_the_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(il_grpo.credit, "policy_loss", lambda ratio, *rest: ratio.sum() * float("nan"))
    with pytest.raises(StageError, match="gradient is nan"):
        train(tmp_path, rl_toys.config())
    assert not (tmp_path / "checkpoint.pt").exists()
