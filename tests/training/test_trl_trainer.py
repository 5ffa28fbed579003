import pytest
import torch

trl = pytest.importorskip("trl")

import rl_toys

from aigq.errors import StageError
from aigq.models.decoding import padded
from aigq.training import il_grpo, trl_trainer
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


@pytest.mark.parametrize("credit", ["own", "suffix_dcg", "list"])
def test_loss_equals_the_reference_loop_on_the_same_rollouts(tmp_path, credit):
    ours = trainer(tmp_path, credit=credit)
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


def test_a_training_under_trl_moves_the_weights_and_keeps_checkpoints(tmp_path):
    ours = trainer(tmp_path, steps=2)
    before = ours.model.get_input_embeddings().weight.detach().clone()
    ours.train()
    assert ours.state.global_step == 2
    assert not torch.equal(before, ours.model.get_input_embeddings().weight)
    assert (tmp_path / "checkpoint-2").is_dir()


def test_other_versions_of_trl_are_refused_by_name(monkeypatch):
    monkeypatch.setattr(trl_trainer.trl, "__version__", "1.99.0")
    with pytest.raises(StageError, match=r"trl 1\.99\.0 is installed; supported: .*1\.16"):
        trl_trainer.check_trl()


def test_the_methods_that_are_overridden_exist_in_trl():
    for name in (
        "_calculate_rewards",
        "_generate_and_score_completions",
        "_get_per_token_logps_and_entropies",
    ):
        assert name in vars(trl_trainer.GRPOTrainer), f"TRL has no GRPOTrainer.{name} any more"
