"""The steps of the paper's ablation ladder differ in what the step names and in nothing else."""

import pytest

pytest.importorskip("torch")

from aigq.config import parse
from aigq.errors import ConfigError
from aigq.stages import trainings
from aigq.training.sft import variant

SHOP = {
    "split": {"validation_from": "2024-05-01", "test_from": "2024-05-15"},
    "sft": {"imitation_epochs": 2, "imitation_max_steps": 60, "max_steps": 40},
    "think": {"max_steps": 30},
}


def differences(config, one, other):
    """The keys that two rows' configs differ in, as `section.key`."""
    a, b = (variant(config, row).model_dump(mode="json") for row in (one, other))
    pairs = [(f"{s}.{k}", a[s][k], b[s][k]) for s in a if isinstance(a[s], dict) for k in a[s]]
    return {name for name, left, right in pairs if left != right}


def test_directs_ladder_changes_the_labels_and_then_the_prompt():
    config = parse(SHOP)
    labels = differences(config, "direct_sft", "direct_sft_ranked")
    steps = {"sft.imitation_epochs", "sft.epochs", "sft.max_steps", "sft.learning_rate"}
    assert labels == {"sft.labels", *steps, "think.from_direct", "think.without_rationale"}
    assert differences(config, "direct_sft_ranked", "direct_il_sft") == {"prompt.style"}
    plain, ranked = (variant(config, row).sft for row in ("direct_sft", "direct_sft_ranked"))
    assert plain.max_steps == ranked.max_steps + ranked.imitation_max_steps == 100


def test_plain_rows_learn_at_the_rate_of_an_imitation_only_where_there_is_one():
    rates = {"learning_rate": 1e-4, "imitation_learning_rate": 2e-3}
    with_one = parse({**SHOP, "sft": {"imitation_epochs": 2, **rates}})
    without = parse({**SHOP, "sft": {"imitation_epochs": 0, **rates}})
    assert variant(with_one, "direct_sft").sft.learning_rate == 2e-3
    assert variant(without, "direct_sft").sft.learning_rate == 1e-4


def test_thinks_last_step_before_rewards_is_reasoning_alone():
    config = parse(SHOP)
    assert differences(config, "think_sft_ranked", "think_il_sft") == {"think.without_rationale"}
    assert variant(config, "think_sft_ranked").think.without_rationale == 1.0


@pytest.mark.parametrize("row", ["think_sft_ranked", "think_il_sft"])
def test_think_may_imitate_in_its_own_form_after_direct(row):
    none, some = (parse({**SHOP, "think": {"imitation_max_steps": steps}}) for steps in (None, 20))
    assert variant(none, row).sft.imitation_epochs == 0
    sft = variant(some, row).sft
    assert (sft.imitation_epochs, sft.imitation_max_steps) == (2, 20)
    assert sft.imitation_renamed == some.sft.imitation_renamed == 0.5
    own = {"imitation_max_steps": 20, "imitation_renamed": 0, "imitation_learning_rate": 7e-4}
    bare = parse({**SHOP, "think": own})
    for system, share, rate in ((row, 0, 7e-4), ("direct_il_sft", 0.5, 2e-3)):
        changed = variant(bare, system).sft
        assert (changed.imitation_renamed, changed.imitation_learning_rate) == (share, rate)
    assert sft.imitation_learning_rate == 2e-3


def test_a_click_model_that_orders_labels_is_trained_before_them():
    rows = {"rows": ["direct_il_sft"]}
    assert trainings(parse({**SHOP, "evaluation": rows})) == ["sft:direct_il_sft"]
    ordered = parse({**SHOP, "evaluation": rows, "sft": {"ranker": {"ctr": 1}}})
    assert trainings(ordered) == ["ctr", "sft:direct_il_sft"]


def test_a_row_that_does_not_exist_is_named_before_anything_is_trained():
    for row, message in {
        "direct_il_stf": "did you mean direct_il_sft",
        "zero_shot:gpt": "no row is called zero_shot:gpt",
        "u2q:new": "no row is called u2q:new; did you mean u2q",
    }.items():
        with pytest.raises(ConfigError, match=message):
            trainings(parse({**SHOP, "evaluation": {"rows": ["popular:new", row]}}))
    with pytest.raises(ConfigError, match="nobody is not among the rows popular"):
        trainings(parse({**SHOP, "evaluation": {"rows": ["popular"], "compare_to": "nobody"}}))


@pytest.mark.parametrize("row", ["think_sft_ranked", "think_il_sft"])
def test_thinks_steps_are_trained_after_the_imitation_that_they_start_from(row):
    config = parse({**SHOP, "evaluation": {"rows": [row]}})
    assert trainings(config)[0] == "sft:direct_il_sft"
    config = parse({**SHOP, "evaluation": {"rows": [row]}, "think": {"from_direct": False}})
    assert "sft:direct_il_sft" not in trainings(config)
