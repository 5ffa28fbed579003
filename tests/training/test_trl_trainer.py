import json
from pathlib import Path

import pytest
import torch

trl = pytest.importorskip("trl")

import rl_toys

import launcher
from aigq import training_log
from aigq.errors import StageError, UsageError
from aigq.models.decoding import padded
from aigq.training import grpo, il_grpo, trl_trainer
from aigq.training.spans import NOTHING


def trainer(tmp_path, **changes):
    words = rl_toys.vocabulary()
    config = rl_toys.config(entropy_bonus=0.0, **changes)
    return trl_trainer.IlGrpoTrainer(
        rl_toys.model(words),
        words,
        rl_toys.task(words, config),
        config,
        tmp_path,
        seed=3,
        use_cpu=True,
        bf16=False,
    )


@pytest.mark.parametrize(
    ("credit", "ratio"),
    [("own", "token"), ("suffix_dcg", "token"), ("list", "token"), ("own", "query"), ("own", "sequence")],
)
def test_loss_equals_the_reference_loop_on_the_same_rollouts(tmp_path, credit, ratio):
    ours = trainer(tmp_path, credit=credit, ratio=ratio)
    rows = [0, 1, 2, 3]
    inputs = [{"prompt": str(row)} for row in rows for _ in range(4)]
    ours.model.train()
    batch = ours._generate_and_score_completions(inputs)
    ours.current_gradient_accumulation_steps = 1
    theirs = ours._compute_loss(ours.model, batch)

    tokens = batch["completion_ids"].view(4, 4, -1)
    spans = [
        [il_grpo.read_list(one, ours.vocabulary, rl_toys.SLOTS) for one in each] for each in tokens.tolist()
    ]
    slot = torch.tensor([[one.slot for one in each] for each in spans])
    rollouts = il_grpo.Rollouts(rows, tokens, slot, [[one.queries for one in each] for each in spans])
    scores = ours.task.judge.score(rows, rollouts.lists)
    advantages, kept = il_grpo.token_advantages(scores, rollouts, ours.il, ours.task.judge.best())
    assert kept == 4
    prompts = padded([ours.task.prompts[row] for row in rows], ours.vocabulary.pad)
    loss, _ = il_grpo.part_loss(
        ours.model, prompts, tokens, slot, advantages, (slot != NOTHING).sum(), ours.il
    )
    assert loss.item() == pytest.approx(theirs.item(), abs=1e-5)
    theirs.backward()
    expected = {name: p.grad.clone() for name, p in ours.model.named_parameters()}
    ours.model.zero_grad()
    loss.backward()
    for name, parameter in ours.model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4)
    assert max(float(g.abs().max()) for g in expected.values()) > 1e-4, "a comparison of zeros"


@pytest.mark.parametrize("ratio", ["token", "query", "sequence"])
def test_a_training_under_trl_moves_the_weights_and_keeps_checkpoints(tmp_path, ratio):
    ours = trainer(tmp_path, steps=2, ratio=ratio)
    before = ours.model.get_input_embeddings().weight.detach().clone()
    ours.train()
    assert ours.state.global_step == 2
    assert not torch.equal(before, ours.model.get_input_embeddings().weight)
    assert (tmp_path / "checkpoint-2").is_dir()


def fit(folder, *, model=None, resume=False, report=lambda entry: None, **changes):
    """A training under TRL with its records; validation finds every later model better."""
    found = iter(range(1, 100))
    return rl_toys.fit(
        model or rl_toys.model(rl_toys.vocabulary()),
        rl_toys.config(**changes),
        folder,
        trainer=grpo.fit_trl,
        validate=lambda policy: {"query_hr": 0.01 * next(found)},
        report=report,
        resume=resume,
    )


def steps_of(folder):
    return [entry for entry in training_log.read(folder) if "reward" in entry]


def test_trl_leaves_the_records_that_the_loop_leaves(tmp_path):
    progress = fit(tmp_path / "trl", steps=3)
    rl_toys.fit(rl_toys.model(rl_toys.vocabulary()), rl_toys.config(steps=3), tmp_path / "loop")
    under_trl, in_loop = steps_of(tmp_path / "trl"), steps_of(tmp_path / "loop")
    assert [entry["step"] for entry in under_trl] == [1, 2, 3]
    assert {*in_loop[0]} <= {*under_trl[0]}
    # the loss apart, both begin with the same model and may judge other lists of the same prompts
    assert under_trl[0]["entropy"] == pytest.approx(in_loop[0]["entropy"], rel=0.05)
    validations = [x["step"] for x in training_log.read(tmp_path / "trl") if "valid_query_hr" in x]
    assert validations == [0, 2, 3]
    assert (progress.step, progress.best) == (3, pytest.approx(0.03))
    assert progress.tokens == under_trl[-1]["tokens"] > 0
    assert (tmp_path / "trl" / "best" / "model.safetensors").exists()


def test_a_training_under_trl_goes_on_where_it_was_cut_off(tmp_path):
    fit(tmp_path, steps=2, eval_every=1)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]
    for step, state in ((3, None), (4, '{"global')):  # cut off while they were written
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 3, "reward": 9.0}\n')
    progress = fit(tmp_path, resume=True, steps=4, eval_every=1)
    assert progress.step == 4
    assert [entry["step"] for entry in steps_of(tmp_path)] == [1, 2, 3, 4]
    assert max(entry["reward"] for entry in steps_of(tmp_path)) < 9
    fit(tmp_path, steps=1)
    assert [entry["step"] for entry in steps_of(tmp_path)] == [1], "a new training went on from another"


class Killed(Exception):
    pass


@pytest.mark.parametrize("prompts", [4, 2])  # a pass over the six prompts is one step, or three
def test_a_resumed_training_under_trl_equals_an_uninterrupted_one(tmp_path, prompts):
    size = {"prompts": prompts, "prompts_at_once": 2}

    def die(entry):
        if entry["step"] == 3:
            raise Killed

    whole, cut, resumed = (rl_toys.model(rl_toys.vocabulary()) for _ in range(3))
    fit(tmp_path / "whole", model=whole, **size)
    with pytest.raises(Killed):
        fit(tmp_path / "cut", model=cut, report=die, **size)  # the checkpoint is of step 2
    fit(tmp_path / "cut", model=resumed, resume=True, **size)
    rewards = [[entry["reward"] for entry in steps_of(tmp_path / name)] for name in ("whole", "cut")]
    assert rewards[0] == rewards[1]
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_prompts_that_cannot_be_shared_out_equally_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError, match=r"grpo.prompts is 4 and must be a multiple of 6"):
        trl_trainer.arguments(rl_toys.config(prompts_at_once=2), 6, tmp_path, 0)


def test_more_prompts_a_step_than_there_are_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"grpo.prompts is 8, and there are 6 prompts"):
        trainer(tmp_path, prompts=8)


def by_processes(command, folder, count):
    """The folder that they wrote."""
    folder.mkdir()
    script = Path(__file__).with_name("trl_process.py")
    launcher.finish(launcher.start([script, command, folder], count))
    return folder


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one_on_the_same_rollouts(tmp_path):
    one, two = (by_processes("train", tmp_path / str(count), count) for count in (1, 2))
    alone, shared = (torch.load(folder / "seen.pt") for folder in (one, two))
    for expected, gradients in zip(alone["gradients"], shared["gradients"], strict=True):
        assert max(float(g.abs().max()) for g in expected.values()) > 1e-4, "a comparison of zeros"
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4)
    assert alone["validations"] == shared["validations"] == 2
    for expected, entry in zip(steps_of(one), steps_of(two), strict=True):
        assert entry.keys() == expected.keys()
        figures = {key for key in entry if key not in ("seconds", "reward_by_slot", "entropy")}
        assert [entry[key] for key in figures] == pytest.approx([expected[key] for key in figures], abs=1e-5)
        assert entry["reward_by_slot"] == pytest.approx(expected["reward_by_slot"], abs=1e-4)
        assert entry["entropy"] == pytest.approx(expected["entropy"], rel=1e-3)  # TRL's mean of means


@pytest.mark.slow
def test_processes_that_share_weights_out_wait_for_the_longest_list(tmp_path):
    folder = by_processes("sample", tmp_path / "shared", 2)
    lists = [json.loads((folder / f"lists-{rank}.json").read_text()) for rank in range(2)]
    assert [[len(one) for one in each] for each in lists] == [[1, 1], [4, 4]]


def test_other_versions_of_trl_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(trl_trainer.trl, "__version__", "1.99.0")
    with pytest.raises(StageError, match=r"trl 1\.99\.0 is installed; supported: .*1\.16"):
        trl_trainer.check_trl()


def test_the_methods_that_are_overridden_exist_in_trl():
    for name in (
        "_calculate_rewards",
        "_get_train_sampler",
        "_generate_and_score_completions",
        "_get_per_token_logps_and_entropies",
    ):
        assert name in vars(trl_trainer.GRPOTrainer), f"TRL has no GRPOTrainer.{name} any more"
