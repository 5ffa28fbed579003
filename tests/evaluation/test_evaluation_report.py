"""What people see: the terminal table, plain text, JSON, and the HTML report."""

import io
import json
import re
from html.parser import HTMLParser

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from evaluation_shop import config, list_table, one_hot, prepared, sample_table
from rich.console import Console

from aigq import training_log
from aigq.evaluation import charts, render
from aigq.evaluation.report import write_report
from aigq.evaluation.table import evaluate_rows

EVIL = "<script>alert(1)</script>"
SAMPLES = sample_table(
    [
        {
            "id": i,
            "user": f"user <b>{i}",
            "targets": ["milk", EVIL],
            "novel": [False, True],
            "n_before": i % 5,
        }
        for i in range(40)
    ]
)
LISTS = {i: ["milk", "bread", EVIL] for i in range(40)}
OTHER = {i: ["bread"] for i in range(0, 40, 2)}


def evaluated(lists=None, samples=SAMPLES, **settings):
    tables = {
        name: list_table(listed) for name, listed in (lists or {"ours": LISTS, "<i>other": OTHER}).items()
    }
    shop = prepared(samples, history=[EVIL, "milk & honey", "bread", "apple"])
    cfg = config(**settings)
    result = evaluate_rows(tables, shop, cfg, samples=samples, encode=one_hot, seconds_per_1k={"ours": 2.0})
    return result, dict(prepared=shop, config=cfg, samples=samples, lists=tables)


def printed(result, **options):
    console = Console(file=io.StringIO(), **options)
    render.show(result, console=console)
    return console.file.getvalue()


def test_plain_text_when_piped():
    text = printed(evaluated()[0])
    assert "\x1b" not in text
    assert (
        "tiny shop · bootstrap mode · typed queries · test 2024-10-04 to 2024-10-04 · 40 users · seed 0"
        in text
    )
    assert re.search(r"ours +1\.0000\* \[1\.000, 1\.000\]", text)
    assert "<i>other: 100.00% of lists break a rule" not in text
    assert "<i>other: 50.00% of lists break a rule (empty 50.00%)" in text
    assert render.DASH in text  # no seconds for the other row


def test_steps_of_the_method_are_told_with_their_intervals(tmp_path):
    result, parts = evaluated({"direct_sft": OTHER, "direct_il_sft": LISTS})
    step = r"direct_il_sft – direct_sft.{1,30}\+1\.0000\* \[1\.0000, 1\.0000\]"
    assert re.search(step, printed(result))
    html = write_report(result, tmp_path, **parts).read_text(encoding="utf-8")
    assert "<h2>Steps of the method</h2>" in html
    assert re.search(step, html)
    result, parts = evaluated()
    assert "Steps" not in printed(result)
    assert "Steps" not in write_report(result, tmp_path, **parts).read_text(encoding="utf-8")


def test_a_table_of_before_a_metric_was_there_is_shown_without_it():
    result = evaluated()[0]
    for row in result["rows"]:
        del row["novel_cate_hr"], row["ci95"]["novel_cate_hr"]
    assert "Novel Cate HR" in printed(result)


@pytest.mark.parametrize("width", [80, 160])
def test_a_terminal_shows_the_best_in_bold(width):
    text = printed(evaluated()[0], force_terminal=True, width=width, color_system="standard")
    assert re.search(r"\x1b\[1m *1\.0000", text)
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in text.splitlines()) <= width


@pytest.mark.parametrize(
    ("bounds", "short"),
    [("[0.1, 10.0]", ".1–10.0"), ("[30.0, 30.0]", "30.0–30.0"), ("[-0.2, 1.0]", "-.2–1.0")],
)
def test_intervals_are_short_on_terminals(bounds, short):
    assert render._compact(bounds) == short


class Page(HTMLParser):
    """Collects tags and whatever would be fetched or run."""

    def __init__(self):
        super().__init__()
        self.tags, self.fetched, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [v for k, v in attrs if k in ("src", "href", "xlink:href") and not v.startswith("#")]
        self.fetched += [k for k, _ in attrs if k.startswith("on")]
        if tag not in ("meta", "br", "link", "path", "line", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()


def with_reason(lists, reason):
    return lists.set_column(4, lists.schema.field("reason"), pa.array([reason] * len(lists), pa.string()))


def report(tmp_path, k_users=1, reason="rank 1", **settings):
    result, parts = evaluated(**settings)
    parts["lists"] = {name: with_reason(table, reason) for name, table in parts["lists"].items()}
    samples = parts["config"].samples.model_copy(update={"k_users": k_users})
    parts["config"] = parts["config"].model_copy(update={"samples": samples})
    return write_report(result, tmp_path, **parts).read_text(encoding="utf-8")


def test_the_report_runs_nothing_fetches_nothing_and_closes_its_tags(tmp_path):
    html = report(tmp_path)
    page = Page()
    page.feed(html)
    assert "script" not in page.tags
    assert page.fetched == []
    assert page.open == []
    assert EVIL not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<i>" not in html
    assert "<b>0" not in html
    assert page.tags.count("article") == 12
    assert "milk &amp; honey" in html
    assert not re.search(r"https?://(?!www\.w3\.org)", html)


def test_the_report_quotes_no_query_of_fewer_than_k_shoppers(tmp_path):
    assert "milk &amp; honey" in report(tmp_path, k_users=5)
    those = SAMPLES.filter(pc.greater(SAMPLES["n_before"], 1))
    html = report(tmp_path, k_users=6, reason="because you bought “milk & honey”", samples=those)
    assert "milk &amp; honey" not in html
    assert html.count("a query of fewer than 6 shoppers") > 12


def test_the_report_draws_training_curves_when_there_is_a_log(tmp_path):
    log = tmp_path / "models/direct_il_sft/training/log.jsonl"
    log.parent.mkdir(parents=True)
    lines = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": float("nan")}, {"step": 2, "valid_query_hr": 0.2}]
    log.write_text("\n".join(map(json.dumps, lines)) + '\nnull\n{"step": 3, "lo')
    assert len(training_log.read(log.parent)) == 3
    html = report(tmp_path)
    assert "<h2>Training</h2>" in html
    assert said(html) == [
        "training loss: loss from 3.0000 to 3.0000",
        "Query HR on validation: Query HR from 0.2000 to 0.2000",
    ]
    assert training_log.read(tmp_path) == []


def test_the_report_draws_every_generator_that_left_a_log(tmp_path):
    folders = ("direct_sft/training", "think_il_sft/training", "think_il_sft/training/imitation")
    for folder in folders:
        path = tmp_path / "models" / folder / "log.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"step": 1, "loss": 3.0}\n')
    html = report(tmp_path)
    assert re.findall("<h3>([^<]+)</h3>", html) == [
        "direct_sft",
        "think_il_sft: imitation of the ranker",
        "think_il_sft",
    ]


def said(html):
    """What a screen reader says of the charts of trainings."""
    return re.findall(r'<figure role="img" aria-label="([^"]+ from [^"]+)"', html)


def test_the_report_draws_what_reinforcement_learning_did_for_each_system(tmp_path):
    for system, step in (("direct_grpo", 5), ("think_il_grpo", 9)):
        entry = {"reward": 0.5, "ctr": 0.1, "rouge": 0.3, "entropy": 2.0, "queries": 30.0, "categories": 12.5}
        last = {**entry, "step": step, "ctr": 0.25, "no_signal": None, "reward_by_slot": [0.5, 0.125]}
        path = tmp_path / "models" / system / "training" / "log.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(x) + "\n" for x in ({**last, **entry, "step": 1}, last)))
    html = report(tmp_path)
    assert re.findall("<h3>([a-z_]+)</h3>", html) == ["direct_grpo", "think_il_grpo"]
    assert said(html)[5:] == [
        "reward of a query: reward from 0.5000 to 0.5000",
        "reward by part: CTR from 0.1000 to 0.2500, ROUGE-L from 0.3000 to 0.3000",
        "distinct per list: queries from 30.0000 to 30.0000, categories from 12.5000 to 12.5000",
        "entropy of a token: entropy from 2.0000 to 2.0000",
        "reward by place in the list: step 1 from 0.5000 to 0.1250, step 9 from 0.5000 to 0.1250",
    ]
    assert html.count("reward hacking") == 1


def test_reports_without_charts_without_people_without_numbers(tmp_path, monkeypatch):
    samples = sample_table([{"id": 0, "user": "a", "targets": ["milk"], "novel": [False]}])
    html = report(tmp_path, lists={"ours": {}}, samples=samples, report_users=5)
    assert "an empty list" in html
    assert "nothing yet" in html
    assert "NaN" not in html
    assert "<h2>Shoppers</h2>" not in report(tmp_path, report_users=0)
    monkeypatch.setattr(charts, "available", lambda: False)
    assert "Charts need altair" in report(tmp_path)
