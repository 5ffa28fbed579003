from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from recall_shop import VALID, build

from aigq.training.materials import between, subset


@pytest.fixture(scope="module")
def prepared():
    return build()


def test_moments_between_are_prefixes_that_end_before_validation(prepared):
    train = prepared.split("train")
    moments = between(prepared, train, 200, seed=0)
    assert 100 < len(moments) <= 200
    for moment in moments:
        rows = prepared.behaviours.filter(np.asarray(prepared.behaviours["user_id"]) == moment.user_id)
        assert moment.history.equals(rows.slice(0, moment.history.num_rows))
        assert moment.history.num_rows > 0
        assert moment.history["ts"].to_numpy()[-1] < moment.cut
        assert moment.cut.astype("datetime64[D]").astype(int) == moment.day < VALID
    again = between(prepared, train, 200, seed=0)
    assert [(m.user_id, m.cut) for m in again] == [(m.user_id, m.cut) for m in moments]


def test_no_moments_between_where_nobody_came_back(prepared):
    first = prepared.split("train").filter(np.asarray(prepared.split("train")["n_before"]) == 0)
    assert between(prepared, first, 50, seed=0) == []
    assert between(prepared, prepared.split("train"), 0, seed=0) == []
    nothing = replace(prepared, behaviours=prepared.behaviours.slice(0, 0))
    assert between(nothing, first, 50, seed=0) == []


def test_a_subset_keeps_the_order_and_is_the_same_for_a_seed(prepared):
    train = prepared.split("train")
    drawn = subset(train, 10, seed=1)["sample_id"].to_pylist()
    assert drawn == sorted(drawn)
    assert len(set(drawn)) == 10
    assert drawn == subset(train, 10, seed=1)["sample_id"].to_pylist()
    assert subset(train, None, seed=1) is train
