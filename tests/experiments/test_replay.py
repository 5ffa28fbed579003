"""The replay: its parts by hand, and the whole on a small log, up to the samples of exposure mode."""

import json
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from recall_shop import GROUPS

from aigq.config import ReplayConfig, parse
from aigq.errors import ConfigError, SourceError
from aigq.evaluation.render import mode_text
from aigq.experiments.replay import appeal, draw, look, replay
from aigq.prepared import Prepared
from aigq.samples.prepare import prepare
from aigq.tables import EVENTS, IMPORTED_TABLES

FIRST = date(2026, 1, 1)
DAYS = 40


def write_log(folder):
    """Sixteen shoppers of two groups, two searches on most days."""
    rng, rows = np.random.default_rng(0), []
    for number in range(16):
        wanted = GROUPS["sea" if number % 2 == 0 else "snow"]
        for day in range(DAYS):
            if rng.random() < 0.3:
                continue
            for minute, query in enumerate(rng.choice(wanted, size=2, replace=False).tolist()):
                ts = datetime(2026, 1, 1) + timedelta(days=day, hours=10, minutes=minute)
                base = dict(user_id=f"u{number:02d}", ts=ts, action="search", query=query, item_id=None)
                rows.append(base | dict(request_id=None, position=None, session_id=None))
    folder.mkdir(parents=True)
    tables = {name: schema.empty_table() for name, schema in IMPORTED_TABLES.items()}
    tables["events"] = pa.Table.from_pylist(rows, schema=EVENTS)
    for name, table in tables.items():
        pq.write_table(table, folder / f"{name}.parquet")
    (folder / "import.json").write_text(json.dumps({"source": "made", "provenance": "typed"}))
    return folder


def config(tables, unit="user_day", valid=10, test=30, **constants):
    days = {"validation_from": FIRST + timedelta(days=valid), "test_from": FIRST + timedelta(days=test)}
    return parse(
        {
            "data": {"tables": str(tables)},
            "split": {name: str(day) for name, day in days.items()},
            "samples": {"unit": unit, "k_users": 3},
            "ctr": {"epochs": 10, "batch_size": 32, "eval_every": 10},
            "replay": {
                "channels": ["popular", "personal", "coclick"],
                "exploration": 0.1,
                "click_wanted": 0.6,
            }
            | constants,
        }
    )


@pytest.fixture(scope="module")
def replayed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replay")
    tables = write_log(folder / "log")
    settings = config(tables)
    prepare(settings, folder / "run")
    return folder, replay(settings, folder / "run", folder / "out")


def hints_of(folder):
    events = pq.read_table(folder / "out" / "events.parquet")
    return events.filter(pc.starts_with(events["action"], "hint_"))


def test_it_is_labelled_simulated_and_keeps_every_original_event(replayed):
    folder, summary = replayed
    assert summary["clicks"] == "simulated"
    assert summary["replay"]["constants"]["click_wanted"] == 0.6
    events = pq.read_table(folder / "out" / "events.parquet")
    assert events.schema.equals(EVENTS)
    original = pq.read_table(folder / "log" / "events.parquet")
    searches = events.filter(pc.equal(events["action"], "search"))
    order = [("user_id", "ascending"), ("ts", "ascending"), ("query", "ascending")]
    assert searches.sort_by(order).equals(original.sort_by(order))
    assert summary["actions"]["hint_impression"] == 3 * summary["replay"]["exposures"]
    assert summary["actions"]["hint_click"] == summary["replay"]["clicks"] > 0


def test_hints_come_before_the_days_searches_and_only_after_the_channels_learned(replayed):
    folder, _ = replayed
    hints = hints_of(folder)
    log = pq.read_table(folder / "log" / "events.parquet").to_pylist()
    first = {}
    for row in sorted(log, key=lambda r: r["ts"], reverse=True):
        first[row["user_id"], row["ts"].date()] = row["ts"]
    for row in hints.to_pylist():
        until = first[row["user_id"], row["ts"].date()] - row["ts"]
        wanted = timedelta(seconds=60 if row["action"] == "hint_impression" else 30)
        assert until == wanted
        assert row["ts"].date() >= FIRST + timedelta(days=10)


def test_a_click_is_on_a_hint_of_its_exposure_and_there_is_one_at_most(replayed):
    shown, clicked = {}, {}
    for row in hints_of(replayed[0]).to_pylist():
        part = shown if row["action"] == "hint_impression" else clicked
        part.setdefault(row["request_id"], []).append((row["position"], row["query"], row["user_id"]))
    assert all(sorted(p for p, _, _ in hints) == [0, 1, 2] for hints in shown.values())
    assert all(len({q for _, q, _ in hints}) == 3 for hints in shown.values())
    assert all(len(c) == 1 and c[0] in shown[request] for request, c in clicked.items())


def test_what_the_shopper_will_issue_is_clicked_more(replayed):
    table = pq.read_table(replayed[0] / "out" / "simulation.parquet").to_pandas()
    rate = table.groupby("appeal")["clicked"].mean()
    assert rate[0.6] > 3 * rate[0.01]
    by_place = table[table["appeal"] == 0.6].groupby("position")["clicked"].mean()
    assert by_place[0] > by_place[2]
    assert ((table["propensity"] > 0) & (table["propensity"] <= 1)).all()


def test_the_same_again_changes_nothing_another_seed_does(replayed, tmp_path):
    folder, summary = replayed
    settings = config(folder / "log")
    before = (folder / "out" / "events.parquet").stat().st_mtime_ns
    assert replay(settings, folder / "run", folder / "out") == json.loads(json.dumps(summary))
    assert (folder / "out" / "events.parquet").stat().st_mtime_ns == before
    replay(settings, folder / "run", tmp_path / "again")
    same = pq.read_table(tmp_path / "again" / "events.parquet")
    assert same.equals(pq.read_table(folder / "out" / "events.parquet"))
    (tmp_path / "again" / "events.parquet").unlink()  # as a replay that was cut off leaves it
    replay(settings, folder / "run", tmp_path / "again")
    assert same.equals(pq.read_table(tmp_path / "again" / "events.parquet"))
    replay(settings.model_copy(update={"seed": 1}), folder / "run", tmp_path / "again")
    assert not same.equals(pq.read_table(tmp_path / "again" / "events.parquet"))


def test_exposure_mode_makes_samples_of_clicked_exposures_and_keeps_all_for_the_ctr_model(replayed, tmp_path):
    folder, summary = replayed
    made = prepare(config(folder / "out", "exposure", valid=25, test=33), tmp_path / "run")
    assert (made["mode"], made["clicks"]) == ("exposure", "simulated")
    prepared = Prepared.load(tmp_path / "run" / "prepared")
    assert prepared.clicks == "simulated"
    assert mode_text({"mode": "exposure", "clicks": prepared.clicks}) == "exposure (simulated clicks)"
    exposures = prepared.exposures.to_pylist()
    assert len(exposures) == summary["replay"]["exposures"]
    assert sum(sum(row["clicked"]) for row in exposures) == summary["replay"]["clicks"]
    clicks = sum(sum(row["clicked"]) for row in exposures if row["split"] == "train")
    assert prepared.split("train").num_rows == clicks  # one click an exposure at most
    later = {(row["user_id"], row["day"]) for row in exposures if row["split"] != "train"}
    judged = [(row["user_id"], row["day"]) for row in prepared.samples.to_pylist() if row["split"] != "train"]
    assert sorted(judged) == sorted(later)  # a shopper always issues something on the replayed days
    assert {row["split"] for row in exposures} == {"train", "valid", "test"}
    for row, moment in zip(exposures, prepared.moments(prepared.exposures), strict=True):
        assert moment.history.num_rows == row["n_before"]
        assert all(ts < moment.cut for ts in moment.history["ts"].to_numpy())
        assert set(moment.history["user_id"].to_pylist()) <= {row["user_id"]}
        assert moment.cut - np.datetime64(moment.day, "D") > np.timedelta64(9, "h")


def test_the_ctr_model_learns_from_exposures(replayed, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    pytest.importorskip("lightgbm")
    from aigq.recall.ctr_scorer import ClickModel
    from aigq.training import click_rows
    from aigq.training.ctr import train_ctr

    class Letters:
        def __init__(self, name):
            pass

        def encode(self, texts):
            return np.array([[t.count(c) for c in "abcdefghijklmnop"] for t in texts], dtype=np.float32)

    monkeypatch.setattr(click_rows, "TextEncoder", Letters)
    mixed = config(replayed[0] / "log", channels=["popular"], exploration=9.0)  # hints of both groups
    replay(mixed, replayed[0] / "run", tmp_path / "mixed")
    settings = config(tmp_path / "mixed", "exposure", valid=25, test=33)
    prepare(settings, tmp_path / "run")
    prepared = Prepared.load(tmp_path / "run" / "prepared")
    summary = train_ctr(settings, tmp_path / "run")
    assert (summary["mode"], summary["clicks"]) == ("exposure", "simulated")
    assert summary["pairs"]["train"] == 3 * summary["moments"]["train"]
    assert summary["later_days"]["auc"] > 0.6
    moments = prepared.moments(prepared.split("test"))[:8]
    found = ClickModel.load(tmp_path / "run", prepared).probabilities(moments, [["sled", "sun cream"]] * 8)
    wanted = [[1, 0] if int(m.user_id[1:]) % 2 else [0, 1] for m in moments]
    assert np.mean([np.argmax(p) == np.argmax(w) for p, w in zip(found, wanted, strict=True)]) > 0.7


@pytest.mark.parametrize("last", ["import.json", "simulation.parquet", "events.parquet"])
def test_a_replay_that_was_killed_is_done_again(replayed, tmp_path, monkeypatch, last):
    folder, _ = replayed
    replay(config(folder / "log"), folder / "run", tmp_path / "out")
    other = config(folder / "log", exploration=9.0)
    real = Path.replace

    def killed(path, target):
        real(path, target)
        if target == tmp_path / "out" / last:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            replay(other, folder / "run", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "import.json").read_text())["clicks"] == "simulated"
    again = replay(other, folder / "run", tmp_path / "out")
    assert again == replay(other, folder / "run", tmp_path / "fresh")
    for name in ("events", "simulation"):
        found, fresh = (pq.read_table(tmp_path / out / f"{name}.parquet") for out in ("out", "fresh"))
        assert found == fresh


def test_draws_without_replacement_have_their_probability():
    rng, scores = np.random.default_rng(0), np.log(np.array([0.5, 0.3, 0.2]))
    drawn = [draw(scores, 2, 1.0, rng) for _ in range(4000)]
    assert np.mean([d[0] == 0 for d, _ in drawn]) == pytest.approx(0.5, abs=0.03)
    for d, p in drawn[:50]:
        share = np.array([0.5, 0.3, 0.2])
        assert p == pytest.approx([share[d[0]], share[d[1]] / (1 - share[d[0]])])
        assert len(set(d)) == 2
    assert draw(scores, 2, 1e-3, rng)[0][0] == 0  # cold: the best
    assert len(draw(scores, 9, 1e3, rng)[0]) == 3


def test_appeal_by_hand():
    kinds = {"milk": "dairy", "butter": "dairy", "soap": "home"}
    found = appeal(["milk", "butter", "soap", "odd"], ["milk"], kinds, ReplayConfig())
    assert found.tolist() == [0.3, 0.04, 0.01, 0.01]


def test_the_shopper_looks_down_the_list_and_stops_at_a_click():
    rng = np.random.default_rng(0)
    clicks = [look(np.array([0.4, 0.4, 0.0]), [0.9, 0.5, 0.5], rng) for _ in range(20_000)]
    assert np.mean([c == 0 for c in clicks]) == pytest.approx(0.9 * 0.4, abs=0.015)
    assert np.mean([c == 1 for c in clicks]) == pytest.approx(0.5 * 0.6 * 0.4, abs=0.015)
    assert 2 not in clicks


def test_wrong_use_is_refused(replayed, tmp_path):
    folder, _ = replayed
    with pytest.raises(ConfigError, match="user_day"):
        replay(config(folder / "log", "next_query"), folder / "run", tmp_path / "out")
    with pytest.raises(ConfigError, match="2 rates for 3 hints"):
        replay(config(folder / "log", examination=[1.0, 0.5]), folder / "run", tmp_path / "out")
    with pytest.raises(SourceError, match="did not write"):
        replay(config(folder / "log"), folder / "run", folder / "log")
    assert not (tmp_path / "out").exists()
