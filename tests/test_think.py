"""Think from the command line, on the made-up log of test_cli: trained after Direct, a row of the table."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import test_zero_shot
import torch
import yaml

from aigq import config as configs
from aigq.cli import main
from aigq.cli_common import DONE, FAILED, INTERRUPTED
from aigq.models.generator import load
from aigq.models.think_grammar import read
from aigq.models.vocabulary import Vocabulary
from aigq.prepared import CausalCounts, Prepared
from aigq.runs import Run
from aigq.stages import channel_of
from aigq.training.encoding import EncodedLists
from aigq.training.grpo import make_task
from aigq.training.materials import make_materials
from test_cli import GAMES, SMALL, write_log

endpoint = test_zero_shot.endpoint

ROWS = [
    *("think_il_sft", "think_sft", "think_il_sft:new", "direct_il_sft", "think_il_grpo"),
    *("u2q", "x2q", "blend"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run with Think trained on labels and, for two steps, with rewards."""
    folder = tmp_path_factory.mktemp("think")
    write_log(folder / "searches.csv")
    data = {"tables": str(folder / "tables"), "source": "bestbuy", "path": str(folder / "searches.csv")}
    limits = {"think": {"max_triggers": 2, "rationale_tokens": 24}}
    rows = {"evaluation": {**SMALL["evaluation"], "rows": ROWS}}
    rewards = {
        "ctr": {"auc_floor": 0.5, "max_samples": 200, "eval_samples": 100},
        "grpo": {"steps": 2, "prompts": 2, "group": 2, "eval_every": 2},
    }
    shop = {"name": "shop", "data": data, **SMALL, **limits, **rows, **rewards}
    (folder / "shop.yaml").write_text(yaml.safe_dump(shop))
    assert main(["table", "--config", str(folder / "shop.yaml"), "--run", str(folder / "run")]) == DONE
    return folder / "run"


def opened(run: Path) -> Run:
    return Run.open(run, configs.load(run / "config.yaml"))


def test_the_table_has_the_rows_each_trained_after_those_that_it_starts_from(run):
    rows = {row["system"]: row for row in json.loads((run / "metrics.json").read_text())["rows"]}
    assert list(rows) == ROWS
    assert rows["think_il_sft"]["query_hr"] > 0.3  # ten games, lists of five
    stages = json.loads((run / "stages.json").read_text())
    needed = ("sft:direct_il_sft", "think:think_il_sft", "ctr", "grpo:think_il_grpo")
    begun = [stages[name]["started"] for name in needed]
    assert begun == sorted(begun)


def test_the_served_rows_show_the_generators_lists_and_say_what_only_they_supply(run):
    result = json.loads((run / "metrics.json").read_text())
    rows = {row["system"]: row for row in result["rows"]}
    assert rows["u2q"]["query_hr"] == pytest.approx(rows["direct_il_sft"]["query_hr"], abs=0.1)
    assert rows["x2q"]["query_hr"] > 0
    assert rows["blend"]["validity"]["valid"] == 1
    queries = rows["blend"]["supply"]["queries"]
    assert queries["shown"] == 5 * result["samples"]
    assert 0 < queries["aigq"] <= queries["shown"]
    assert queries["only_aigq"] == 0, "the popular list knows all ten games"
    assert "supply" not in rows["u2q"]
    warm = rows["blend"]["slices"]["warm"]
    assert warm["with_hints"] == warm["samples"] == result["samples"]
    assert "only u2q and x2q supply" in (run / "report.html").read_text()


def test_the_table_x2q_of_the_training_part_is_made_once_and_ends_before_validation(run, monkeypatch):
    from aigq import generation

    opened_run = opened(run)
    path = run / "served" / "tables" / "x2q.parquet"
    before = path.stat().st_mtime_ns

    def load():
        raise AssertionError("Think is not asked again")

    assert generation.connect_training(opened_run, load) == path
    assert path.stat().st_mtime_ns == before

    prepared, asked = Prepared.load(run / "prepared"), []
    thinker = channel_of(opened_run, "think_il_sft")
    think = thinker.think
    monkeypatch.setattr(thinker, "think", lambda moments, n: asked.extend(moments) or think(moments, n))
    few = configs.load(run / "config.yaml", ["x2q.max_users=20"])
    generation.connect_training(Run(run, few), lambda: thinker)
    assert len(asked) == 20
    assert {moment.day for moment in asked} == {prepared.validation_day}
    latest = {moment.user_id: moment.history["ts"][-1].as_py() for moment in asked}
    training = prepared.training_rows().group_by("user_id").aggregate([("ts", "max")])
    ends = dict(zip(training["user_id"].to_pylist(), training["ts_max"].to_pylist(), strict=True))
    assert latest == dict(sorted(ends.items(), key=lambda end: end[1])[-20:])


def test_rewards_train_on_from_the_labels_and_the_row_writes_interest_points(run):
    log = (run / "models/think_il_grpo/training/log.jsonl").read_text().splitlines()
    steps = [line for line in map(json.loads, log) if "trigger" in line]
    assert [line["step"] for line in steps] == [1, 2]
    assert all(0 <= line["trigger"] <= 1 and line["rouge"] > 0 for line in steps)
    summary = json.loads((run / "models/think_il_grpo/training.json").read_text())
    assert summary["steps"] == 2
    generator = channel_of(opened(run), "think_il_grpo")
    prepared = Prepared.load(run / "prepared")
    generator.fit(prepared)
    thoughts = generator.think(prepared.moments(prepared.split("test").slice(0, 20)), 5)
    assert any(interest.triggers for interests in thoughts for interest in interests)


def test_references_of_rewards_are_the_labels_as_think_writes_them(run):
    config, prepared = opened(run).config, Prepared.load(run / "prepared")
    vocabulary = Vocabulary.load(run / "models/think_il_sft")
    task = make_task(config, config.grpo, run, prepared, vocabulary, think=True)
    assert task.judge.points == config.think.max_points
    for queries, triggers, behaviours in zip(
        task.judge.references, task.judge.triggers, task.thoughts.behaviours, strict=True
    ):
        assert len(queries) == 5
        assert 0 < len(triggers) <= len(queries)
        assert all(0 <= index <= behaviours for named in triggers for index in named)
    assert any(len(triggers) > 1 for triggers in task.judge.triggers)


def test_think_starts_from_the_weights_of_directs_imitation(run):
    imitation = load(run / "models/direct_il_sft/training/imitation/best").get_input_embeddings().weight
    start = load(run / "models/think_il_sft/training/init").get_input_embeddings().weight
    torch.testing.assert_close(start[: len(imitation)], imitation)
    assert len(start) == len(imitation) + 3
    summary = json.loads((run / "models/think_il_sft/training.json").read_text())
    assert summary["steps"] > 0
    assert "imitation" not in summary  # Direct's stands for it


def test_training_lists_reason_in_part_and_the_plain_row_never(run):
    shares = {}
    for system in ("think_sft", "think_il_sft"):
        folder = run / "models" / system / "training"
        vocabulary = Vocabulary.load(folder / "init")
        lists = EncodedLists.load(folder / "train.npz")
        firsts = [int(lists.tokens[a + n]) for a, n in zip(lists.starts, lists.prompt_lengths, strict=False)]
        marks = [vocabulary.special[token] for token in firsts]
        assert set(marks) <= {"<think>", "<interest>"}
        shares[system] = marks.count("<think>") / len(marks)
    assert shares["think_sft"] == 0
    assert 0.2 < shares["think_il_sft"] < 0.6


def test_interest_points_name_the_shoppers_behaviours_and_only_servable_queries(run):
    prepared, at = Prepared.load(run / "prepared"), opened(run)
    generator = channel_of(at, "think_il_sft")
    generator.fit(prepared)
    moments = prepared.moments(prepared.split("test").slice(0, 20))
    counts = CausalCounts(prepared.query_days, None)
    lists = generator.recommend(moments, 5)
    for moment, interests, hints in zip(moments, generator.think(moments, 5), lists, strict=True):
        written = [query for interest in interests for query in interest.queries]
        assert sorted(written) == sorted(hint.query for hint in hints)
        assert len(set(written)) == len(written) == 5
        assert set(written) <= counts.servable(moment.day, at.config.samples.k_users) <= set(GAMES)
        texts = moment.history["text"].to_pylist()
        reasons = {hint.query: hint.reason for hint in hints}
        for interest in interests:
            assert all(trigger.text == texts[-trigger.index] for trigger in interest.triggers)
            latest = min(interest.triggers, key=lambda t: t.index, default=None)
            if latest:
                assert all(reasons[query] == f"because of “{latest.text}”" for query in interest.queries)
            else:
                assert all(reasons[q] != "new for you" for q in interest.queries if q in texts[-8:])


def test_days_with_the_same_queries_share_a_tree_and_few_are_kept(run):
    """A worker lives for weeks after the log has ended: every day may show the same."""
    prepared = Prepared.load(run / "prepared")
    for system in ("direct_il_sft", "think_il_sft"):
        generator = channel_of(opened(run), system)
        generator.fit(prepared)
        moments = prepared.moments(prepared.split("test").slice(0, 2))
        late = max(prepared.query_days["day"].to_pylist()) + 1
        asked = [replace(m, day=late + n) for m in moments for n in range(3)]
        lists = generator.recommend(asked, 5)
        assert len({id(tree) for tree in generator._trees_of(asked).values()}) == 1
        assert lists == generator.recommend(asked, 5)
        generator.recommend([replace(moments[0], day=late - 20)], 5)
        assert len(generator._trees.kept) == 1


def test_think_alone_says_what_it_starts_from(run, tmp_path, capsys):
    config = str(run / "config.yaml")
    common = ["--config", config, "--run", str(tmp_path / "other")]
    assert main(["prepare", *common]) == DONE
    capsys.readouterr()
    assert main(["train", "sft", "--system", "think_il_sft", *common]) == FAILED
    assert "run `aigq train sft --system direct_il_sft` first" in capsys.readouterr().err


def test_a_language_model_teaches_and_adds_labels(run, tmp_path, endpoint, monkeypatch):
    monkeypatch.setattr(test_zero_shot, "ANSWER", "1. zelda\n2. halo\n3. since they like Zelda so much")
    raw = opened(run).config.model_dump(mode="json")
    raw["channels"]["llms"] = {"tiny": {"base_url": endpoint.url, "model": "tiny"}}
    raw["think"] |= {
        "teacher": "tiny",
        "generated_by": "tiny",
        "without_rationale": 0.0,
        "rationale_tokens": 200,
    }
    raw["sft"] |= {
        "tail": 1,
        "max_samples": 40,
        "imitation_epochs": 0.0,
        "imitation_extra": 0,
        "order_noise": 0,
    }
    make_materials(configs.parse(raw), run, tmp_path, think=True)
    vocabulary = Vocabulary.load(tmp_path / "init")
    lists = EncodedLists.load(tmp_path / "train.npz")
    read_back = []
    for start, end, n in zip(lists.starts, lists.starts[1:], lists.prompt_lengths, strict=False):
        read_back.append(read(lists.tokens[start + n : end].tolist(), vocabulary, 8))
    assert all(reading.faults == () for reading in read_back)
    reasons = {text for reading in read_back for text in reading.thought.rationales}
    assert reasons == {"1. zelda 2. halo 3. since they like Zelda so much"}
    queries = [q for reading in read_back for point in reading.thought.points for q in point.queries]
    assert 0 < queries.count("zelda") + queries.count("halo") <= len(queries) - 20
    asked = len(endpoint.requests)
    assert asked > 0
    make_materials(configs.parse(raw), run, tmp_path, think=True)
    assert len(endpoint.requests) == asked  # all answers were kept


def test_generate_x2q_maps_triggers_to_servable_queries_and_goes_on_after_a_stop(run, capsys, monkeypatch):
    from aigq import generation
    from aigq.recall import x2q

    monkeypatch.setattr(generation, "CHUNK", 30)
    calls, think = [], generation.latest_moments
    generator = channel_of(opened(run), "think_il_sft")
    original = type(generator).think

    def stopping(self, moments, n):
        calls.append(len(moments))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, moments, n)

    monkeypatch.setattr(type(generator), "think", stopping)
    counted, score = {}, x2q.trigger_table
    monkeypatch.setattr(
        x2q,
        "trigger_table",
        lambda links, issues, *rest: counted.update(issues) or score(links, issues, *rest),
    )
    assert main(["generate", "x2q", "--run", str(run), "-n", "5"]) == INTERRUPTED
    assert main(["generate", "x2q", "--run", str(run), "-n", "5", "--json"]) == DONE
    assert calls == [30, 30, 30, 10], "the first chunk is not thought over again"
    prepared = Prepared.load(run / "prepared")
    assert len(think(prepared, 0)) == 70
    assert sum(counted.values()) == sum(prepared.query_days["issues"].to_pylist()), "up to the end of the log"
    result = json.loads(capsys.readouterr().out)
    assert result["triggers"]["query"] > 0
    rows = pq.read_table(run / "tables" / "x2q.parquet").to_pylist()
    assert {row["query"] for row in rows} <= set(GAMES)
    assert {row["trigger"] for row in rows if row["kind"] == "query"} <= set(GAMES)
    assert not (run / "tables" / "x2q.parts").exists()
