import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from channel_contract import K_USERS, check
from recall_shop import GROUPS

from aigq.config import parse
from aigq.errors import StageError, UsageError
from aigq.prepared import Prepared
from aigq.recall import build_channel
from aigq.recall.coclick import CoClick
from aigq.recall.histories import best_columns
from aigq.recall.personal import Personal
from aigq.recall.popular import Popular

CONFIG = {"split": {"validation_from": "2026-01-31", "test_from": "2026-02-05"}}


@pytest.mark.parametrize(
    "channel", [Popular(7, K_USERS), Personal(7, K_USERS), CoClick(10, 7, K_USERS)], ids=lambda c: c.name
)
def test_contract(channel, prepared: Prepared) -> None:
    check(channel, prepared)


def test_personal_is_the_decayed_frequency(prepared: Prepared) -> None:
    channel = Personal(5, K_USERS)
    channel.fit(prepared)
    moment = prepared.moments(prepared.split("test"))[0]
    weights: dict[str, float] = {}
    for row in moment.history.to_pylist():
        age = (moment.cut - np.datetime64(row["ts"])) / np.timedelta64(1, "D")
        weights[row["query"]] = weights.get(row["query"], 0.0) + 0.5 ** (age / 5)
    expected = sorted(weights, key=lambda q: -weights[q])[:3]
    hints = channel.recommend([moment], 3)[0]
    assert [h.query for h in hints] == expected
    assert hints[0].score == pytest.approx(weights[expected[0]])
    assert hints[0].reason.startswith("you searched this")


def test_rare_queries_stay_private(prepared: Prepared) -> None:
    moments = [m for m in prepared.moments(prepared.split("test")) if m.user_id == "u03"]
    assert moments
    for channel in (Personal(7, K_USERS), CoClick(10, 7, K_USERS)):
        channel.fit(prepared)
        assert all(h.query != "a secret of mine" for hints in channel.recommend(moments, 30) for h in hints)


def test_coclick_stays_in_the_group(prepared: Prepared) -> None:
    channel = CoClick(10, 7, K_USERS, self_weight=0.0)
    channel.fit(prepared)
    for moment, hints in zip(
        moments := prepared.moments(prepared.split("test")), channel.recommend(moments, 5), strict=True
    ):
        group = GROUPS["sea" if int(moment.user_id[1:]) % 2 == 0 else "snow"]
        assert {h.query for h in hints} <= set(group)


def test_coclick_reads_item_events_without_query(prepared: Prepared) -> None:
    channel = CoClick(10, 7, K_USERS)
    channel.fit(prepared)
    moment = prepared.moments(prepared.split("test"))[0]
    position = moment.history.schema.get_field_index("query")
    blank = moment.history.set_column(
        position, moment.history.schema.field("query"), pa.nulls(moment.history.num_rows, pa.string())
    )
    hints = channel.recommend([type(moment)(0, "u", moment.cut, moment.day, blank)], 5)[0]
    assert hints == channel.recommend([moment], 5)[0]


def test_coclick_names_no_query_of_one_shopper_to_another(prepared: Prepared) -> None:
    moment = next(m for m in prepared.moments(prepared.split("test")) if m.user_id == "u02")
    bought = moment.history.slice(0, 1).to_pylist()[0] | {"query": None, "item_id": "item a secret of mine"}
    history = pa.Table.from_pylist([bought], schema=moment.history.schema)
    channel = CoClick(10, 7, k_users=1)  # as if everybody might see it: the channel has something to say
    channel.fit(prepared)
    assert "a secret of mine" in channel.recommend([replace(moment, history=history)], 5)[0][0].reason
    channel = CoClick(10, 7, K_USERS)
    channel.fit(prepared)
    assert channel.recommend([replace(moment, history=history)], 5) == [[]]


def test_best_columns_breaks_ties_by_column() -> None:
    lists = best_columns(np.array([[1.0, 2.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0]]), 2)
    assert [row.tolist() for row in lists] == [[1, 2], []]


def test_recommend_before_fit_says_so() -> None:
    with pytest.raises(StageError, match="before fit"):
        Popular(7, 3).recommend([], 3)


def test_unknown_names_list_the_known_ones(tmp_path: Path) -> None:
    config = parse(CONFIG)
    with pytest.raises(UsageError, match="popular, personal, coclick"):
        build_channel("nonsense", config, tmp_path)
    with pytest.raises(UsageError, match="did you mean direct_il_sft"):
        build_channel("direct_il_sf", config, tmp_path)
    with pytest.raises(UsageError, match="none is configured"):
        build_channel("zero_shot:gpt", config, tmp_path)
    assert build_channel("coclick", config, tmp_path).name == "coclick"


def test_import_is_light() -> None:
    code = (
        "import sys, aigq.recall as r; print({'torch', 'scipy', 'openai', 'transformers'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
