"""deploy/prometheus and deploy/grafana: every query parses and names metrics and labels that exist."""

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import promql_parser
import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from aigq.serving import keys, metrics

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "aigq.json"
PROMETHEUS = ROOT / "deploy" / "prometheus"
OF_PROMETHEUS = {"up": {"job", "instance"}}
ENDS = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


def existing():
    """Metric name as Prometheus stores it -> its labels."""
    found = dict(OF_PROMETHEUS)
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase):
            (described,) = metric.describe()
            for end in ENDS[described.type]:
                found[described.name + end] = {*metric._labelnames, "job", "instance"} | (
                    {"le"} if end == "_bucket" else set()
                )
    return found


def selectors(expression):
    """Every metric that a parsed PromQL expression reads, with the labels that it asks for or keeps."""
    if isinstance(expression, promql_parser.VectorSelector):
        return [(expression.name, {matcher.name for matcher in expression.matchers.matchers})]
    parts = [
        getattr(expression, name, None) for name in ("lhs", "rhs", "expr", "vector_selector", "args", "param")
    ]
    flat = [p for part in parts if part is not None for p in (part if isinstance(part, list) else [part])]
    found = [pair for part in flat for pair in selectors(part)]
    if isinstance(expression, promql_parser.AggregateExpr) and expression.modifier is not None:
        return [(name, labels | set(expression.modifier.labels)) for name, labels in found]
    return found


def read_by(query):
    return selectors(promql_parser.parse(query.replace("$__rate_interval", "5m")))


def targets():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [(panel["title"], target) for panel in panels for target in panel.get("targets", ())]


def alerts():
    groups = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


QUERIES = {
    **{f"{title} {t['refId']}": (t["expr"], t["legendFormat"]) for title, t in targets()},
    **{rule["alert"]: (rule["expr"], json.dumps(rule["annotations"])) for rule in alerts()},
}


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_reads_what_exists(name):
    query, words = QUERIES[name]
    known, read = existing(), read_by(query)
    assert read
    for metric, labels in read:
        assert metric in known
        assert labels <= known[metric]
    named = set(re.findall(r"\{\{\s*\$labels\.(\w+)\s*\}\}|\{\{(\w+)\}\}", words))
    kept = set().union(*(labels for _, labels in read)) | (known["up"] if query.startswith("up") else set())
    assert {a or b for a, b in named} <= kept


def test_a_wrong_name_or_label_would_be_seen():
    assert read_by("sum by (rout) (rate(aigq_request_total[5m]))") == [("aigq_request_total", {"rout"})]
    assert "aigq_request_total" not in existing()
    assert "rout" not in existing()["aigq_requests_total"]


def test_the_dashboard_shows_every_metric():
    shown = {name for _, target in targets() for name, _ in read_by(target["expr"])}
    known = existing().keys() - OF_PROMETHEUS.keys()
    histograms = {n.removesuffix("_bucket") for n in known if n.endswith("_bucket")}
    assert {n for n in known if n.endswith("_bucket")} <= shown
    assert known - shown == {f"{n}{end}" for n in histograms for end in ("_count", "_sum")}


def test_the_dashboard_is_what_its_script_writes():
    spec = importlib.util.spec_from_file_location("gen_dashboard", ROOT / "tools" / "gen_dashboard.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert DASHBOARD.read_text() == module.text(), "run python tools/gen_dashboard.py"


def test_panels_do_not_cover_each_other():
    cells = [
        (x, y)
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23


def test_alerts_are_complete():
    rules = alerts()
    names = [rule["alert"] for rule in rules]
    assert len(names) == len(set(names)) > 5
    for rule in rules:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]


def test_the_guide_explains_every_alert_and_metric():
    guide = (ROOT / "docs" / "operations.md").read_text()
    assert [rule["alert"] for rule in alerts() if f"- **{rule['alert']}**: " not in guide] == []
    bases = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in existing() if name != "up"}
    assert [name for name in bases if f"`{name}`" not in guide] == []


def test_prometheus_reads_the_alerts_and_both_processes():
    config = yaml.safe_load((PROMETHEUS / "prometheus.yaml").read_text())
    assert [(PROMETHEUS / file).exists() for file in config["rule_files"]] == [True]
    jobs = [job["job_name"] for job in config["scrape_configs"]]
    assert jobs == ["aigq-serve", "aigq-nearline"]
    down = next(rule["expr"] for rule in alerts() if rule["alert"] == "AigqDown")
    matcher = re.search(r'job=~"([^"]+)"', down)
    assert all(re.fullmatch(matcher[1], job) for job in jobs)
    assert re.findall(r'absent\(up\{job="([^"]+)"\}\)', down) == jobs


def test_a_first_damaged_value_is_an_increase():
    for family in keys.FAMILIES:  # a counter that begins with 1 has not increased
        assert REGISTRY.get_sample_value("aigq_damaged_values_total", {"family": family}) is not None


SERVE, NEARLINE = 'up{job="aigq-serve", instance="a"}', 'up{job="aigq-nearline", instance="b"}'
TABLE = "aigq_table_published_timestamp_seconds"
NEW = "100+300x1000"  # published all the time
DAMAGED = 'aigq_damaged_values_total{family="live"}'


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize(
    ("alert", "series", "firing"),
    [
        ("AigqDown", {SERVE: "1x1000", NEARLINE: "1x1000"}, 0),
        ("AigqDown", {SERVE: "1x1000", NEARLINE: "0x1000"}, 1),
        ("AigqDown", {SERVE: "1x1000"}, 1),  # a container that stopped has left the DNS
        ("AigqDown", {}, 2),
        ("AigqTableOld", {f"{TABLE}{{instance='a'}}": NEW, f"{TABLE}{{instance='b'}}": NEW}, 0),
        ("AigqTableOld", {f"{TABLE}{{instance='a'}}": NEW, f"{TABLE}{{instance='stuck'}}": "100x1000"}, 1),
        ("AigqTableOld", {f"{TABLE}{{instance='a'}}": NEW, f"{TABLE}{{instance='empty'}}": "0x1000"}, 0),
        ("AigqDamagedValues", {DAMAGED: "0x1000"}, 0),
        ("AigqDamagedValues", {DAMAGED: "0x863 1x200"}, 1),
    ],
)
def test_an_alert_fires_when_it_should(alert, series, firing, tmp_path):
    """Three days, a value every five minutes."""
    expected = {
        "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)',
        "eval_time": "72h",
        "exp_samples": [{"labels": "{}", "value": firing}],
    }
    test = {
        "interval": "5m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [expected],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(PROMETHEUS / "alerts.yaml")], "tests": [test]}))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
