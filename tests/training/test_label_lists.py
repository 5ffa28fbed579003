"""The labels of a sample, the same for SFT and for the references of IL-GRPO."""

from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("torch")

from recall_shop import GROUPS, START, build

from aigq.config import parse
from aigq.models.vocabulary import Vocabulary, train_tokenizer
from aigq.recall.ctr_scorer import ClickModel
from aigq.tables import SAMPLES
from aigq.training import grpo
from aigq.training.label_lists import label_lists, rankings, training_samples, user_days

SEA, SNOW = GROUPS["sea"], GROUPS["snow"]


def config(unit="exposure", **sft):
    return parse(
        {
            "split": {"validation_from": "2026-01-31", "test_from": "2026-02-05"},
            "samples": {"unit": unit, "k_users": 3, "list_length": 6},
            "sft": {"ranker": {"popular": 1.0}, **sft},
        }
    )


def exposures(*rows):
    """SAMPLES rows of clicked exposures: user, hour of the first day, shown, clicked."""
    made = [
        dict(sample_id=7 + i, user_id=user, cut=datetime(2026, 1, 1, hour), day=START, split="train")
        | dict(first_row=0, n_before=0, targets=clicked, novel=[True] * len(clicked), shown=shown)
        for i, (user, hour, shown, clicked) in enumerate(rows)
    ]
    return pa.Table.from_pylist(made, schema=SAMPLES)


def queries(config, samples, orders, tmp_path, *, think=False):
    made = label_lists(config, tmp_path, build(), samples, orders, {*SEA, *SNOW}, think=think)
    return [[(label.query, label.source) for label in labels] for labels in made]


def test_productions_order_of_the_exposure_stands_before_the_rankers(tmp_path):
    shown = [SNOW[2], SEA[4], SNOW[0], "of two people"]
    samples = exposures(("u00", 9, shown, [SNOW[0], SEA[4]]), ("u01", 9, None, [SNOW[0], SEA[4]]))
    ranking = [SNOW[0], SEA[1], SEA[4], SNOW[2]]
    with_exposure, without = queries(config(tail=5), samples, [ranking, ranking], tmp_path)
    assert with_exposure == [
        (SEA[4], "clicked"),  # production had it higher, whatever the ranker thinks
        (SNOW[0], "clicked"),
        (SNOW[2], "ranker"),
        (SEA[1], "ranker"),
    ]
    assert [query for query, _ in without] == [SNOW[0], SEA[4], SEA[1], SNOW[2]]


def test_a_random_order_of_clicks_is_the_samples_own(tmp_path):
    samples = exposures(*[("u00", 9, None, SEA)] * 6)
    settings = config(clicked_order="random", tail=0)
    whole = queries(settings, samples, [[]] * 6, tmp_path)
    assert len({tuple(row) for row in whole}) > 1
    assert whole[3:] == queries(settings, samples.slice(3), [[]] * 3, tmp_path)


def test_labels_in_log_order_need_no_ranker(tmp_path):
    samples = exposures(("u00", 9, SNOW[:2], [SEA[1], SEA[0]]))
    assert queries(config(labels="log_order"), samples, [], tmp_path) == [
        [(SEA[1], "clicked"), (SEA[0], "clicked")]
    ]


def test_think_learns_from_user_days():
    samples = exposures(
        ("u00", 9, SEA[:3], [SEA[1]]),
        ("u00", 12, SEA[2:], [SEA[4], SEA[1]]),
        ("u01", 8, SNOW[:3], [SNOW[0]]),
    )
    days = user_days(samples)
    assert days.schema.equals(SAMPLES)
    assert days["sample_id"].to_pylist() == [7, 9]
    assert days["targets"].to_pylist() == [[SEA[1], SEA[4]], [SNOW[0]]]
    assert days["novel"].to_pylist() == [[True, True], [True]]
    assert days["shown"].to_pylist() == [SEA[:3], SNOW[:3]]
    assert user_days(samples.slice(0, 0)).num_rows == 0


def test_only_exposures_are_joined_to_days_and_only_for_think():
    prepared = build()
    train = prepared.split("train")
    twice = pa.concat_tables([prepared.samples, train])
    prepared = type(prepared)(**{**vars(prepared), "samples": twice})
    for unit, think, expected in (
        ("exposure", True, train.num_rows),
        ("exposure", False, 2 * train.num_rows),
        ("next_query", True, 2 * train.num_rows),
    ):
        assert training_samples(config(unit), prepared, think=think).num_rows == expected


class Clicks:
    """A CTR model that finds everything equally likely."""

    def probabilities(self, moments, lists):
        return [np.full(len(one), 0.1) for one in lists]


@pytest.mark.parametrize("tail", [0, 4])
def test_il_grpo_refers_to_the_labels_of_sft(tmp_path, monkeypatch, tail):
    monkeypatch.setattr(ClickModel, "load", lambda run, prepared: Clicks())
    prepared, settings = build(), config("user_day", tail=tail, clicked_order="random")
    few = settings.grpo.model_copy(update={"steps": 2, "prompts": 3})
    words = Vocabulary(train_tokenizer([(query, 3) for query in SEA + SNOW], 300, []))
    task = grpo.make_task(settings, few, tmp_path, prepared, words)
    train = grpo.subset(prepared.split("train"), 6, settings.seed)
    orders = rankings(settings, tmp_path, prepared, prepared.moments(train))
    labels = label_lists(settings, tmp_path, prepared, train, orders, {*SEA, *SNOW}, think=False)
    assert task.judge.references == [[label.query for label in one] for one in labels]
    assert max(map(len, task.judge.references)) <= max(tail, 3)
