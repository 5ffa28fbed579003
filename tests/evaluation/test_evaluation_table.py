"""The table end to end on the tiny shop: numbers, differences, reuse of lists, edge cases."""

import json
import re
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from evaluation_shop import Fixed, config, list_table, one_hot, prepared, sample_table

from aigq.errors import ConfigError, EmptyLogError, StageError
from aigq.evaluation import table
from aigq.evaluation.lists import file_of
from aigq.evaluation.table import build_table, clean, evaluate_rows, subset
from aigq.recall.channel import RowMissing
from aigq.tables import LISTS, PREPARED_TABLES

SAMPLES = sample_table(
    [
        {"id": 1, "user": "a", "targets": ["milk", "bread"], "novel": [False, True], "n_before": 4},
        {"id": 2, "user": "a", "targets": ["milk"], "novel": [False], "n_before": 4},
        {"id": 3, "user": "b", "targets": ["apple"], "novel": [True], "n_before": 3},
    ]
)
GOOD = {1: ["milk", "cheese"], 2: ["milk"], 3: ["bread", "milk", "apple"]}
BAD = {1: ["cheese"], 2: ["cheese"], 3: ["cheese"]}


def evaluate(lists, samples=SAMPLES, categories=None, encode=one_hot, **evaluation):
    tables = {name: list_table(listed) for name, listed in lists.items()}
    result = evaluate_rows(
        tables,
        prepared(samples, categories),
        config(**evaluation),
        samples=samples,
        encode=encode,
        seconds_per_1k={"good": 1.5},
    )
    json.dumps(result, allow_nan=False)
    return result, {row["system"]: row for row in result["rows"]}


def test_a_row_by_hand():
    result, rows = evaluate({"good": GOOD, "bad": BAD})
    good = rows["good"]
    # user a: (1/2 + 1) / 2, user b: 1 at K=4 and 0 at K=2
    assert good["query_hr"] == pytest.approx((0.75 + 1.0) / 2)
    assert good["query_hr_at"] == {"2": pytest.approx((0.75 + 0.0) / 2), "4": pytest.approx(0.875)}
    assert good["query_hr_any"] == 1.0
    assert good["query_hr_curve"] == pytest.approx([0.375, 0.375, 0.875, 0.875])
    assert good["sem_sim"] == pytest.approx(0.875)  # only equal texts resemble each other
    assert good["novel_query_hr"] == pytest.approx((0.0 + 1.0) / 2)
    assert good["repeat_query_hr"] == 1.0
    assert good["cate_hr"] == pytest.approx((0.75 + 1.0) / 2)
    assert good["unique_cates"] == pytest.approx((1.0 + 3.0) / 2)
    assert (good["novel_users"], good["repeat_users"], good["users"]) == (2, 1, 2)
    assert good["slices"]["cold"]["query_hr"] == 1.0
    assert good["slices"]["warm"]["users"] == 1
    assert good["seconds_per_1k_users"] == 1.5
    assert rows["bad"]["seconds_per_1k_users"] is None
    assert result["compare_to"] == "bad"
    assert "difference" not in rows["bad"]
    assert good["difference"]["query_hr"]["mean"] == pytest.approx(0.875)
    assert good["difference"]["query_hr"]["significant"]


def test_what_a_number_must_be_quoted_with():
    result, rows = evaluate({"good": GOOD})
    named = ("dataset", "mode", "queries", "k", "ks", "split", "seed")
    assert [result[name] for name in named] == ["tiny shop", "bootstrap", "typed", 4, [2, 4], "test", 0]
    assert (result["users"], result["samples"], result["targets"]) == (2, 3, 4)
    wanted = {"system", "query_hr", "query_hr_any", "cate_hr", "sem_sim", "unique_cates", "novel_query_hr"}
    assert wanted | {"users", "ci95", "seconds_per_1k_users"} <= rows["good"].keys()
    low, high = rows["good"]["ci95"]["query_hr"]
    assert low <= rows["good"]["query_hr"] <= high


def test_the_category_of_a_new_query_counts_though_the_query_is_missed():
    samples = sample_table(
        [{"id": 1, "user": "a", "targets": ["milk", "bread", "apple"], "novel": [False, True, True]}]
    )
    _, rows = evaluate({"good": {1: ["apple", "milk"]}, "kin": {1: ["cheese", "milk"]}}, samples)
    assert [rows[name]["novel_cate_hr"] for name in ("good", "kin")] == [0.5, 0.0]
    assert [rows[name]["cate_hr"] for name in ("good", "kin")] == pytest.approx([2 / 3, 1 / 3])
    assert rows["good"]["ci95"]["novel_cate_hr"] == [0.5, 0.5]
    assert rows["good"]["difference"]["novel_cate_hr"]["mean"] == 0.5
    relatives = sample_table([{"id": 1, "user": "a", "targets": ["oat milk"], "novel": [True]}])
    _, rows = evaluate({"kin": {1: ["cheese"]}}, relatives)
    assert (rows["kin"]["novel_query_hr"], rows["kin"]["novel_cate_hr"]) == (0.0, 1.0)


def test_a_table_holds_the_config_and_the_machine_that_made_it():
    result, _ = evaluate({"good": GOOD}, bootstrap=150)
    assert result["config"]["evaluation"]["bootstrap"] == 150
    assert result["config"]["samples"]["k_users"] == 1
    assert "path" not in result["config"]["data"]  # where a log lay changes no number
    assert re.fullmatch(r"\S+ \S+, \d+ cores", result["machine"])


def test_identical_rows_do_not_differ():
    _, rows = evaluate({"good": GOOD, "twin": GOOD})
    for difference in rows["good"]["difference"].values():
        assert difference == {"mean": 0.0, "ci95": [0.0, 0.0], "significant": False}


def test_steps_of_the_method_are_compared_where_their_rows_are_there():
    names = {"ebr": BAD, "direct_sft": BAD, "direct_il_sft": GOOD, "zero_shot:gpt": GOOD, "popular": GOOD}
    result, rows = evaluate(names, compare_to="direct_sft")
    steps = {(step["row"], step["above"]): step["difference"] for step in result["steps"]}
    assert list(steps) == [("direct_il_sft", "direct_sft"), ("zero_shot:gpt", "ebr")]
    assert steps["direct_il_sft", "direct_sft"] == rows["direct_il_sft"]["difference"]
    assert steps["zero_shot:gpt", "ebr"]["query_hr"]["mean"] == pytest.approx(0.875)
    assert evaluate({"good": GOOD, "bad": BAD})[0]["steps"] == []


def test_users_may_come_in_any_order():
    backwards = SAMPLES.take([2, 1, 0])
    assert evaluate({"good": GOOD}, backwards)[1] == evaluate({"good": GOOD})[1]


def test_users_without_novel_targets_are_left_out_and_none_at_all_is_null():
    samples = sample_table([{"id": 1, "user": "a", "targets": ["milk"], "novel": [False]}])
    _, rows = evaluate({"good": GOOD}, samples)
    assert rows["good"]["novel_query_hr"] is None
    assert rows["good"]["ci95"]["novel_query_hr"] == [None, None]
    assert rows["good"]["novel_users"] == 0


def test_no_categories_no_encoder_empty_lists():
    _, rows = evaluate({"good": GOOD, "empty": {}}, categories={}, encode=None)
    assert rows["good"]["cate_hr"] is None
    assert rows["good"]["unique_cates"] is None
    assert rows["good"]["sem_sim"] is None
    assert rows["empty"]["query_hr"] == 0.0
    assert rows["empty"]["near_dup"] is None
    assert rows["empty"]["validity"]["empty"] == 1.0


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="nobody is not among the rows good"):
        evaluate({"good": GOOD}, compare_to="nobody")
    with pytest.raises(EmptyLogError):
        evaluate({"good": GOOD}, SAMPLES.slice(0, 0))


def test_not_a_number_becomes_null():
    assert clean({"a": [np.nan, np.float32(0.5), np.int64(2)], "b": float("inf")}) == {
        "a": [None, 0.5, 2],
        "b": None,
    }


def test_a_subset_of_users_is_seeded_and_keeps_all_their_samples():
    some = subset(SAMPLES, 1, seed=0)
    assert some.equals(subset(SAMPLES, 1, seed=0))
    assert some["sample_id"].to_pylist() in ([1, 2], [3])
    assert subset(SAMPLES, None, 0) is SAMPLES


def run_folder(tmp_path, samples=SAMPLES):
    (tmp_path / "prepared").mkdir()
    for name in PREPARED_TABLES:
        pq.write_table(getattr(prepared(samples), name), tmp_path / "prepared" / f"{name}.parquet")
    return tmp_path


def test_build_table_writes_everything_and_reuses_lists(tmp_path, capsys):
    run = run_folder(tmp_path)
    channels = {"milk": Fixed("milk", ["milk"]), "zero_shot:x/y": Fixed("zero_shot:x/y", ["apple", "bread"])}
    settings = config(rows=list(channels))
    first = build_table(settings, run, build=channels.__getitem__, encode=one_hot)
    assert json.loads((run / "metrics.json").read_text()) == first
    assert pq.read_table(file_of(run, "zero_shot:x/y")).schema == LISTS
    assert "lists of milk: done in " in capsys.readouterr().err
    assert "<svg" in (run / "report.html").read_text()

    again = build_table(settings, run, build=channels.__getitem__, encode=one_hot)
    assert again == first
    assert [channel.fits for channel in channels.values()] == [1, 1]

    build_table(
        settings, run, build=channels.__getitem__, fingerprint=lambda system: f"new {system == 'milk'}"
    )
    assert [channel.fits for channel in channels.values()] == [2, 2]
    marks = {"milk": "newer"}
    build_table(
        settings, run, build=channels.__getitem__, fingerprint=lambda system: marks.get(system, "new False")
    )
    assert [channel.fits for channel in channels.values()] == [3, 2]


def test_lists_are_made_again_for_other_data_or_after_damage(tmp_path):
    run = run_folder(tmp_path)
    channel = Fixed("milk", ["milk"])
    settings = config(rows=["milk"])
    for damage in (
        lambda: None,
        lambda: file_of(run, "milk").write_bytes(b"cut off"),
        lambda: _touch_users(run),
    ):
        damage()
        build_table(settings, run, build=lambda _: channel)
    assert channel.fits == 3
    build_table(config(rows=["milk"], max_users=1), run, build=lambda _: channel)
    assert channel.fits == 4


def test_a_peer_that_is_not_installed_is_left_out_and_named(tmp_path, capsys):
    def build(system):
        if system == "sasrec":
            raise RowMissing("install it with: pip install rectools")
        return Fixed(system, ["milk"])

    result = build_table(config(rows=["sasrec", "milk"]), run_folder(tmp_path), build=build, encode=one_hot)
    assert [row["system"] for row in result["rows"]] == ["milk"]
    assert result["skipped"] == {"sasrec": "install it with: pip install rectools"}
    assert "row sasrec is left out" in capsys.readouterr().err


def test_rows_are_compared_to_the_last_one_where_the_configured_one_is_left_out(tmp_path):
    def build(system):
        if system == "sasrec":
            raise RowMissing("not there")
        return Fixed(system, [system])

    compared = config(rows=["sasrec", "milk", "tea"], compare_to="sasrec")
    run = run_folder(tmp_path)
    assert build_table(compared, run, build=build, encode=one_hot)["compare_to"] == "tea"
    with pytest.raises(StageError, match="every row is left out: sasrec: not there"):
        build_table(config(rows=["sasrec"]), run, build=build, encode=one_hot)


def test_what_rows_cost_that_share_their_work_is_left_out(tmp_path):
    both = config(rows=["milk", "u2q"])
    result = build_table(both, run_folder(tmp_path), build=lambda row: Fixed(row, ["tea"]), encode=one_hot)
    milk, u2q = (row["seconds_per_1k_users"] for row in result["rows"])
    assert milk is not None
    assert u2q is None


def test_the_table_needs_neither_torch_nor_training():
    code = (
        "import sys, aigq.evaluation.table, aigq.evaluation.render\n"
        "print({'torch', 'altair', 'aigq.training'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def _touch_users(run):
    path = run / "prepared" / "users.parquet"
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({"changed": "yes"}), path)


@pytest.mark.parametrize(("users", "significant"), [(1, False), (2, True)])
def test_one_user_is_never_significant(users, significant):
    n = len(table.METRICS)
    found = table._difference(list(table.METRICS), np.ones(n), np.ones((n, 2)), np.full(n, users))
    assert {difference["significant"] for difference in found.values()} == {significant}
