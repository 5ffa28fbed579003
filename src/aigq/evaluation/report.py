"""RUN/report.html: one file that opens without a network and runs no script.

Everything that came from a log or a config is escaped; charts are inline SVG.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from aigq.config import Config
from aigq.evaluation import charts, render
from aigq.evaluation.curves import figure, trainings
from aigq.evaluation.lists import atomic
from aigq.evaluation.people import people
from aigq.prepared import Prepared

STYLE = Path(__file__).with_name("report.css")


def write_report(
    result: Mapping[str, Any],
    run: Path,
    *,
    prepared: Prepared,
    config: Config,
    samples: pa.Table,
    lists: Mapping[str, pa.Table],
) -> Path:
    """Write RUN/report.html and return its path.

    Args:
        result: the content of metrics.json.
        run: the run folder; its training logs are read when there are any.
        prepared: for the histories of the shoppers shown.
        config: the run; `evaluation.report_users` shoppers are shown.
        samples: the samples that were judged.
        lists: a LISTS table per system; the compared row's lists are shown.
    """
    shown = _draw(samples, config.evaluation.report_users, config.seed)
    sections = [
        _header(result),
        _section("Results", _table(result) + _notes(result)),
        *_steps(result),
        *_chart_sections(result),
        *_training(run),
        _section("Lists", _checks(result)),
        people(
            result["compare_to"],
            lists[result["compare_to"]],
            prepared,
            shown,
            result["k"],
            config.samples.k_users,
        ),
        _footer(result),
    ]
    path = run / "report.html"
    with atomic(path) as partial:
        partial.write_text(_page(result, "\n".join(sections)), encoding="utf-8")
    return path


def _page(result: Mapping[str, Any], body: str) -> str:
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(result['dataset'])} – query recommendation report</title>\n"
        f"<style>{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _header(result: Mapping[str, Any]) -> str:
    dates = result["dates"]
    facts = {
        "Mode": render.mode_text(result),
        "Queries": result["queries"],
        "Split": f"{result['split']}, {dates['first_sample']} to {dates['last_sample']}",
        "Training ends before": dates["validation_from"],
        "Validation ends before": dates["test_from"],
        "Users": render.users(result),
        "Samples": f"{result['samples']:,} ({result['unit'].replace('_', ' ')})",
        "Held-out queries": f"{result['targets']:,}, {render.percent(result['novel_targets'])} novel",
        "Seed": str(result["seed"]),
    }
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
    return (
        f'<header><p class="kicker">Query recommendation</p><h1>{escape(result["dataset"])}</h1>'
        f'<dl class="facts">{items}</dl></header>'
    )


def _table(result: Mapping[str, Any]) -> str:
    columns = render.visible(result)
    headings = "".join(
        f'<th scope="col" title="{escape(c.meaning)}">{escape(c.heading(result["k"]))}</th>' for c in columns
    )
    body = "".join(
        f'<tr{_compared(result, row)}><th scope="row">{escape(row["system"])}</th>'
        + "".join(_cell(result, row, column) for column in columns)
        + "</tr>"
        for row in result["rows"]
    )
    caption = f"<caption>{escape(render.title(result))}</caption>"
    head = f"<thead><tr><th scope='col'>System</th>{headings}</tr></thead>"
    return _scroll(f"<table>{caption}{head}<tbody>{body}</tbody></table>")


def _cell(result: Mapping[str, Any], row: Mapping[str, Any], column: render.Column) -> str:
    value = escape(render.number(row[column.key], column.decimals))
    if render.is_best(result, row, column):
        value = f"<strong>{value}</strong>"
    if render.is_significant(row, column):
        value += '<abbr title="differs from the compared row">*</abbr>'
    bounds = render.interval(row, column)
    return f"<td>{value}" + (f'<span class="ci">{bounds}</span>' if bounds else "") + "</td>"


def _notes(result: Mapping[str, Any]) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in render.footnotes(result))
    meanings = "".join(
        f"<div><dt>{escape(c.heading(result['k']))}</dt><dd>{escape(c.meaning)}</dd></div>"
        for c in render.COLUMNS
    )
    return (
        f'<ul class="notes">{lines}</ul>'
        f'<details><summary>What the columns mean</summary><dl class="meanings">{meanings}</dl></details>'
    )


def _steps(result: Mapping[str, Any]) -> list[str]:
    if not result["steps"]:
        return []
    table = _plain_table(*render.step_lines(result))
    return [_section(render.STEPS_TITLE, f"<p>{escape(render.STEPS_MEANING)}</p>{table}")]


def _chart_sections(result: Mapping[str, Any]) -> list[str]:
    if not charts.available():
        return [_section("Charts", "<p>Charts need altair: <code>pip install 'aigq[train]'</code>.</p>")]
    metrics = ("query_hr", "cate_hr", "novel_query_hr")
    drawn = [charts.bars(result, metric) for metric in metrics]
    bars = "".join(figure(svg, _say(result, m)) for svg, m in zip(drawn, metrics, strict=True) if svg)
    k = result["k"]
    return [
        _section("With 95 % intervals", f'<div class="grid three">{bars}</div>'),
        _section(
            "Shorter lists",
            figure(charts.curve(result), f"Query HR at every K up to {k}, a line per system"),
        ),
        _section(
            "Slices", figure(charts.slices(result), f"Query HR@{k} per slice and system, with intervals")
        ),
    ]


def _training(run: Path) -> list[str]:
    drawn = trainings(run) if charts.available() else ""
    return [_section("Training", drawn)] if drawn else []


def _checks(result: Mapping[str, Any]) -> str:
    rules = ("valid", "empty", "too_long", "repeats", "unservable")
    heads = ["System", "Valid lists", "Empty", "Too long", "With repeats", "Not servable"]
    lines = [
        [row["system"], *(render.percent(row["validity"][rule]) for rule in rules)] for row in result["rows"]
    ]
    rule = (
        f"A list is valid when it holds 1 to {result['k']} queries, none twice, each issued by at least "
        f"{result['k_users']} distinct users before the day it is shown."
    )
    return f"<p>{rule}</p>{_plain_table(heads, lines)}"


def _plain_table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Lines of texts, the first of each its heading."""
    columns = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(line[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in line[1:])
        + "</tr>"
        for line in lines
    )
    return _scroll(f"<table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>")


def _footer(result: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    encoder = f" SemSim encoder: {result['encoder']}." if result["encoder"] else ""
    return f"<footer>{escape(versions)}.{escape(encoder)}</footer>"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _scroll(table: str) -> str:
    return f'<div class="scroll" tabindex="0" role="region" aria-label="table">{table}</div>'


def _compared(result: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    return ' class="compared"' if row["system"] == result["compare_to"] else ""


def _say(result: Mapping[str, Any], metric: str) -> str:
    values = ", ".join(f"{row['system']} {render.number(row[metric], 4)}" for row in result["rows"])
    return f"{metric} at {result['k']}: {values}"


def _draw(samples: pa.Table, n: int, seed: int) -> pa.Table:
    """One sample each of n seeded users."""
    users: Sequence[str] = samples["user_id"].to_pylist()
    rng = np.random.default_rng(seed)
    chosen: dict[str, int] = {}
    for index in rng.permutation(len(users)):
        if len(chosen) == n:
            break
        chosen.setdefault(users[index], int(index))
    return samples.take(pa.array(sorted(chosen.values()), pa.int64()))
