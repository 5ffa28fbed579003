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
    changed = parse({"split": split, "channels": {"ebr": {"epochs": 17}}})
    with pytest.raises(UsageError, match=r"channels\.ebr\.epochs"):
        Run.open(tmp_path, changed).check("sft:direct_il_sft")
