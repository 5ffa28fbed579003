"""The shares that only u2q and x2q supply, by hand."""

import pyarrow as pa
import pytest

from aigq.evaluation.supply import shares
from aigq.tables import SUPPLY

OURS, BOTH, OTHERS = ["u2q", "x2q"], ["popular", "u2q"], ["personal"]


def supply(*rows):
    return pa.Table.from_pylist([dict(zip(SUPPLY.names, row, strict=True)) for row in rows], schema=SUPPLY)


def test_by_hand():
    found = shares(
        supply(
            (1, 1, "tent", "camping", OURS),
            (1, 2, "stove", "cooking", BOTH),
            (1, 3, "mug", "camping", OTHERS),  # not shown, but another channel knows the category
            (2, 1, "kayak", "boats", ["u2q"]),
            (2, 2, "paddle", "boats", ["x2q"]),
            (2, 3, "gift card", None, OTHERS),
        ),
        k=2,
    )
    assert found["queries"] == {
        "shown": 4,
        "aigq": 4,
        "only_aigq": 3,
        "only_aigq_of_shown": pytest.approx(3 / 4),
        "only_aigq_of_aigq": pytest.approx(3 / 4),
    }
    # shown: camping, cooking of the first list, boats of the second
    assert (found["categories"]["shown"], found["categories"]["only_aigq"]) == (3, 1)
    assert found["by_channel"] == {"popular": 0.25, "u2q": 0.75, "x2q": 0.5}


def test_what_others_show_counts_in_the_first_denominator_only():
    found = shares(supply((1, 1, "tent", "camping", ["u2q"]), (1, 2, "mug", "cups", OTHERS)), k=2)
    assert found["queries"]["only_aigq_of_shown"] == 0.5
    assert found["queries"]["only_aigq_of_aigq"] == 1.0
    assert found["categories"]["only_aigq_of_shown"] == 0.5


def test_nothing_shown_is_null():
    found = shares(SUPPLY.empty_table(), k=10)
    assert found["queries"]["only_aigq_of_shown"] is None
    assert found["by_channel"] == {}
