"""Which finished stages a run folder forgets when one runs again."""

import pytest

from aigq.config import parse
from aigq.errors import UsageError
from aigq.runs import Run

STAGES = (
    "prepare",
    "sft:direct_sft",
    "sft:direct_il_sft",
    "think:think_sft",
    "think:think_sft_ranked",
    "think:think_il_sft",
    "ctr",
    "grpo:direct_il_grpo",
    "grpo:think_il_grpo",
)


@pytest.mark.parametrize(
    ("again", "kept"),
    [
        ("prepare", []),
        ("sft:direct_sft", [s for s in STAGES if s != "sft:direct_sft"]),
        ("sft:direct_il_sft", ["prepare", "sft:direct_sft", "think:think_sft", "ctr"]),
        ("think:think_il_sft", [s for s in STAGES if s not in ("think:think_il_sft", "grpo:think_il_grpo")]),
        ("ctr", [s for s in STAGES if s != "ctr" and not s.startswith("grpo")]),
        ("grpo:direct_il_grpo", [s for s in STAGES if s != "grpo:direct_il_grpo"]),
    ],
)
def test_only_what_was_made_from_a_stage_is_forgotten(tmp_path, again, kept):
    split = {"validation_from": "2024-05-01", "test_from": "2024-05-15"}
    run = Run.open(tmp_path, parse({"name": "shop", "split": split}))
    for stage in STAGES:
        with run.stage(stage):
            pass
    run.forget(again)
    assert [stage for stage in STAGES if run.finished(stage)] == kept


def test_labels_depend_on_every_channel_that_may_order_them(tmp_path):
    """`sft.ranker` may name them: a model over other labels may not be mixed in."""
    split = {"validation_from": "2024-05-01", "test_from": "2024-05-15"}
    with Run.open(tmp_path, parse({"split": split})).stage("sft:direct_il_sft"):
        pass
    changed = parse({"split": split, "channels": {"ebr": {"max_steps": 17}}})
    with pytest.raises(UsageError, match=r"channels\.ebr\.max_steps"):
        Run.open(tmp_path, changed).check("sft:direct_il_sft")


def test_a_mapping_of_the_users_own_lacks_what_it_did_not_name(tmp_path):
    """`ranker: 1` is the default of `sft.ranker`, and no part of a mapping that names another channel."""
    split = {"validation_from": "2024-05-01", "test_from": "2024-05-15"}
    one, both = (parse({"split": split, "sft": {"ranker": r}}) for r in ({"ebr": 1}, {"ebr": 1, "ranker": 1}))
    with Run.open(tmp_path, one).stage("sft:direct_il_sft"):
        pass
    assert Run.open(tmp_path, one).finished("sft:direct_il_sft")
    assert not Run.open(tmp_path, both).finished("sft:direct_il_sft")


def test_labels_in_the_click_models_order_go_with_it(tmp_path):
    split = {"validation_from": "2024-05-01", "test_from": "2024-05-15"}
    run = Run.open(tmp_path, parse({"split": split, "sft": {"ranker": {"ctr": 1}}}))
    for stage in STAGES:
        with run.stage(stage):
            pass
    run.forget("ctr")
    assert [stage for stage in STAGES if run.finished(stage)] == ["prepare"]


ASKED = {"base_url": "http://127.0.0.1:1/v1", "model": "any"}


@pytest.mark.parametrize(("teacher", "refused"), [("template", False), ("large", True)])
def test_only_models_that_write_for_think_matter_to_what_was_trained(tmp_path, teacher, refused):
    """A zero-shot row may join a table, or go to another endpoint, without a training being done again."""
    split = {"validation_from": "2024-05-01", "test_from": "2024-05-15"}
    shop = {"split": split, "think": {"teacher": teacher}}
    before = parse({**shop, "channels": {"llms": {"large": ASKED}}})
    after = parse({**shop, "channels": {"llms": {"large": ASKED | {"model": "other"}, "small": ASKED}}})
    for stage in ("think:think_il_sft", "grpo:think_il_grpo"):
        with Run.open(tmp_path, before).stage(stage):
            pass
        assert Run.open(tmp_path, after).finished(stage) is not refused


def test_a_language_model_that_orders_labels_matters_to_them(tmp_path):
    def shop(model):
        llms = {"large": ASKED | {"model": model}}
        return parse({**SPLIT, "sft": {"ranker": {"zero_shot:large": 1}}, "channels": {"llms": llms}})

    first, other = (Run.open(tmp_path, shop(model)) for model in ("first", "other"))
    with first.stage("sft:direct_il_sft"):
        pass
    assert first.finished("sft:direct_il_sft")
    assert not other.finished("sft:direct_il_sft")


def test_a_record_of_no_model_at_all_is_as_good_as_one_of_an_unread_model(tmp_path):
    split = {"validation_from": "2024-05-01", "test_from": "2024-05-15"}
    with Run.open(tmp_path, parse({"split": split})).stage("think:think_il_sft"):
        pass
    assert Run.open(tmp_path, parse({"split": split, "channels": {"llms": {"small": ASKED}}})).finished(
        "think:think_il_sft"
    )


SPLIT = {"split": {"validation_from": "2024-05-01", "test_from": "2024-05-15"}}


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"sft": {"epochs": 3}}, "sft:direct_il_sft"),
        ({"sft": {"epochs": 3}}, "think:think_sft"),
        ({"think": {"links": 3}}, "think:think_il_sft"),
    ],
)
def test_force_redoes_a_stage_beside_those_that_have_nothing_to_do_with_it(tmp_path, changes, again):
    """They keep their config, and no table is made of the two."""
    before, after = (Run.open(tmp_path, parse({**SPLIT, **some})) for some in ({}, changes))
    for stage in STAGES:
        with before.stage(stage):
            pass
    after.forget(again)  # --force
    with after.stage(again):
        pass
    assert after.finished(again)
    with pytest.raises(UsageError, match=r"made with (sft\.epochs|think\.links)"):
        after.check("table")


def test_settings_of_think_do_not_matter_to_directs_training_with_rewards(tmp_path):
    with Run.open(tmp_path, parse(SPLIT)).stage("grpo:direct_il_grpo"):
        pass
    changed = Run.open(tmp_path, parse({**SPLIT, "think": {"links": 3}}))
    assert changed.finished("grpo:direct_il_grpo")


@pytest.mark.parametrize(("change", "matters"), [({"weight_decay": 0.5}, True), ({"epochs": 9}, False)])
def test_the_item_to_text_model_depends_on_what_its_training_takes_from_sft(tmp_path, change, matters):
    with Run.open(tmp_path, parse(SPLIT)).stage("item_text"):
        pass
    assert Run.open(tmp_path, parse({**SPLIT, "sft": change})).finished("item_text") is not matters


def leave_checkpoints(run, stage):
    """As a training leaves them that was cut off; returns their files and the one that must stay."""
    training = run.folder / "models" / stage.rpartition(":")[2] / "training"
    names = ("checkpoint.pt", "checkpoint-2/trainer_state.json", "imitation/checkpoint.pt", "best/weights")
    for name in names:
        (training / name).parent.mkdir(parents=True, exist_ok=True)
        (training / name).write_text("earlier")
    return [training / name for name in names[:-1]], training / names[-1]


def cut_off(run, stage, *, resume=False):
    with pytest.raises(KeyboardInterrupt), run.stage(stage, resume=resume):
        raise KeyboardInterrupt


@pytest.mark.parametrize("stage", ["sft:direct_il_sft", "ctr", "grpo:direct_il_grpo"])
def test_only_a_training_with_this_config_and_data_leaves_checkpoints_to_resume_from(tmp_path, stage):
    run = Run.open(tmp_path, parse(SPLIT))
    with run.stage("prepare"):
        pass
    cut_off(run, stage)
    found, best = leave_checkpoints(run, stage)
    cut_off(run, stage, resume=True)
    assert all(path.exists() for path in found)
    run.forget("prepare")  # other data
    cut_off(run, stage, resume=True)
    assert not any(path.exists() for path in found)
    assert best.exists()


def test_a_kill_while_a_training_is_taken_up_again_loses_nothing_of_it(tmp_path, monkeypatch):
    run = Run.open(tmp_path, parse(SPLIT))
    cut_off(run, "ctr")
    found, _ = leave_checkpoints(run, "ctr")

    def killed():
        raise KeyboardInterrupt

    monkeypatch.setattr("aigq.runs.versions", killed)  # called before the stage is recorded
    cut_off(run, "ctr", resume=True)
    assert run.started("ctr")
    assert all(path.exists() for path in found)


def test_checkpoints_of_another_config_are_gone_before_the_new_one_is_recorded(tmp_path):
    with Run.open(tmp_path, parse(SPLIT)).stage("grpo:direct_grpo") as result:
        result["steps"] = 3
    again = Run.open(tmp_path, parse({**SPLIT, "grpo": {"steps": 4}}))
    found, _ = leave_checkpoints(again, "grpo:direct_grpo")
    again.forget("grpo:direct_grpo")  # --force
    cut_off(again, "grpo:direct_grpo")
    assert again.started("grpo:direct_grpo")
    assert not any(path.exists() for path in found)
