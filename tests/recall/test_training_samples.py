from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from channel_contract import K_USERS
from recall_shop import GROUPS

from aigq.config_recall import RankerConfig
from aigq.prepared import Prepared
from aigq.recall.histories import training_samples

MEANT = ("user_id", "day", "first_row", "n_before", "targets")


@pytest.fixture
def shown(prepared: Prepared) -> Prepared:
    """The same shop with hints; each was clicked by somebody who looked for something else."""
    samples = prepared.samples
    clicked = pa.array([["sled"]] * len(samples), samples.schema.field("targets").type)
    samples = samples.set_column(
        samples.schema.get_field_index("targets"), samples.schema.field("targets"), clicked
    )
    return replace(
        prepared, samples=samples, exposures=prepared.exposures.from_pylist([{}], prepared.exposures.schema)
    )


def told(samples: pa.Table) -> list[tuple]:
    """What the samples say, in order of day and user."""
    rows = [tuple(row[name] for name in MEANT) for row in samples.select(MEANT).to_pylist()]
    return sorted(rows, key=lambda row: (row[1], row[0]))


def test_without_exposures_they_are_the_split(prepared: Prepared) -> None:
    assert training_samples(prepared).equals(prepared.split("train"))


def test_with_exposures_they_are_the_days_and_what_was_searched_for(
    shown: Prepared, prepared: Prepared
) -> None:
    made = training_samples(shown)
    assert told(made) == told(prepared.split("train"))  # whose unit is the user-day
    assert made["day"].to_pylist() == sorted(made["day"].to_pylist())
    for moment in shown.moments(made):
        assert set(moment.history["user_id"].to_pylist()) <= {moment.user_id}
        assert all(ts < moment.cut.item() for ts in moment.history["ts"].to_pylist())


def test_only_what_is_new_to_the_shopper(shown: Prepared, prepared: Prepared) -> None:
    expected = prepared.split("train").to_pylist()
    for row in expected:
        row["targets"] = [t for t, new in zip(row["targets"], row["novel"], strict=True) if new]
    kept = pa.Table.from_pylist([row for row in expected if row["targets"]], schema=prepared.samples.schema)
    assert told(training_samples(shown, only_new=True)) == told(kept)


def test_behaviours_without_a_query_are_history_alone(shown: Prepared) -> None:
    behaviours = shown.behaviours
    looked = pc.equal(behaviours["query"], "wool hat")
    query = pc.if_else(looked, None, behaviours["query"])
    behaviours = behaviours.set_column(
        behaviours.schema.get_field_index("query"), behaviours.schema.field("query"), query
    )
    before, after = training_samples(shown), training_samples(replace(shown, behaviours=behaviours))
    assert not any("wool hat" in targets for targets in after["targets"].to_pylist())
    n_before = {(row[0], row[1]): row[3] for row in told(before)}
    assert all(n_before[row[0], row[1]] == row[3] for row in told(after))


def test_the_ranker_learns_from_these_days(shown: Prepared, prepared: Prepared) -> None:
    pytest.importorskip("lightgbm")
    from aigq.recall.ranker import Ranker

    ranker = Ranker(RankerConfig(trees=30, leaves=7, min_pairs_in_leaf=2), K_USERS, 0)
    ranker.fit(shown)
    moments = prepared.moments(prepared.split("test"))
    for moment, hints in zip(moments, ranker.recommend(moments, 3), strict=True):
        group = "sea" if int(moment.user_id[1:]) % 2 == 0 else "snow"
        assert {hint.query for hint in hints} <= set(GROUPS[group])
