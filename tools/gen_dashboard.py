"""Writes deploy/grafana/dashboards/aigq.json, the Grafana dashboard of the service and the worker.

`python tools/gen_dashboard.py`. A panel is one line of ROWS: title, unit, and what is drawn, as (PromQL,
legend). tests/serving/test_monitoring.py checks the committed file and every metric that it names.
"""

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

FILE: Final = Path(__file__).resolve().parent.parent / "deploy" / "grafana" / "dashboards" / "aigq.json"
WIDTH: Final = 24  # of Grafana's grid
HEIGHT: Final = 8


class Panel(NamedTuple):
    """One time series panel. `unit` is Grafana's name of it."""

    title: str
    unit: str
    drawn: list[tuple[str, str]]
    about: str


def rate(metric: str, by: str, keep: str = "") -> str:
    """Per second, summed over processes."""
    return f"sum by ({by}) (rate({metric}{keep}[$__rate_interval]))"


def quantile(q: float, metric: str) -> str:
    """Of a histogram, over all processes."""
    return f"histogram_quantile({q}, {rate(f'{metric}_bucket', 'le')})"


ROWS: Final[dict[str, list[Panel]]] = {
    "Answers": [
        Panel(
            "Requests",
            "reqps",
            [(rate("aigq_requests_total", "route, status"), "{{route}} {{status}}")],
            "By route and status. Hints are answered with 200 even when the store is away.",
        ),
        Panel(
            "Time of an answer with hints",
            "s",
            [(quantile(q, "aigq_hints_seconds"), f"p{100 * q:g}") for q in (0.5, 0.95, 0.99)],
            "Reads end at serving.deadline_ms; the rest is ranking, guards and waiting for a processor.",
        ),
        Panel(
            "Hints by channel",
            "cps",
            [(rate("aigq_hints_total", "channel"), "{{channel}}")],
            "Where served hints come from. Only popular and fallback left: the store or the worker is away.",
        ),
        Panel(
            "Channels left out",
            "cps",
            [(rate("aigq_channel_left_out_total", "channel, why"), "{{channel}} {{why}}")],
            "Late: slower than the deadline. Failed: the store refused. all failed: see the logs.",
        ),
        Panel(
            "Candidates refused by guards",
            "cps",
            [(rate("aigq_guarded_total", "reason"), "{{reason}}")],
            "One count per query and answer.",
        ),
        Panel(
            "Candidates that made room",
            "cps",
            [(rate("aigq_rotated_total", "reason"), "{{reason}}")],
            "Dismissed, searched just now, or shown often without a click.",
        ),
        Panel(
            "Age of the served table",
            "s",
            [
                (
                    "time() - min by (job, instance) (aigq_table_published_timestamp_seconds > 0)",
                    "{{job}} {{instance}}",
                )
            ],
            "The daily job publishes a new one. One line that goes on rising: that process does not follow.",
        ),
        Panel(
            "Given up and damaged",
            "cps",
            [
                (rate("aigq_shed_total", "what"), "shed {{what}}"),
                (rate("aigq_damaged_values_total", "family"), "damaged {{family}}"),
            ],
            "Shed: above max_in_flight requests, or a signal older than max_age_s. Damaged: store values.",
        ),
    ],
    "Events": [
        Panel(
            "Events taken in",
            "cps",
            [(rate("aigq_events_total", "action"), "{{action}}")],
            "By action, without the impressions that the service writes itself.",
        ),
        Panel(
            "Refused and lost",
            "cps",
            [
                (rate("aigq_events_rejected_total", "why"), "rejected {{why}}"),
                ("sum(rate(aigq_impressions_lost_total[$__rate_interval]))", "impressions lost"),
            ],
            "Events that say nothing; impressions that found the log away for too long.",
        ),
    ],
    "Nearline worker": [
        Panel(
            "Messages not applied yet",
            "short",
            [("max(aigq_backlog_messages)", "messages")],
            "Every worker reports the whole group.",
        ),
        Panel(
            "Age of the oldest message",
            "s",
            [("max(aigq_backlog_oldest_seconds)", "age")],
            "Grows without end when no worker runs or the generator is too slow.",
        ),
        Panel(
            "From a signal to its list",
            "s",
            [(quantile(q, "aigq_freshness_seconds"), f"p{100 * q:g}") for q in (0.5, 0.95)],
            "Includes the pause serving.nearline.debounce_s.",
        ),
        Panel(
            "Time of one batch of the generator",
            "s",
            [(quantile(q, "aigq_generation_seconds"), f"p{100 * q:g}") for q in (0.5, 0.95)],
            "For at most serving.nearline.batch_users shoppers.",
        ),
        Panel(
            "Applied and generated",
            "cps",
            [
                ("sum(rate(aigq_events_applied_total[$__rate_interval]))", "events applied"),
                ("sum(rate(aigq_generated_users_total[$__rate_interval]))", "lists written"),
            ],
            "Lists per event is small: most events are no signal.",
        ),
        Panel(
            "Signals without a list, events set aside",
            "cps",
            [
                (rate("aigq_signals_not_generated_total", "why"), "signal: {{why}}"),
                ("sum(rate(aigq_dead_letters_total[$__rate_interval]))", "set aside"),
            ],
            "budget: above budget_per_hour of a shopper. Set aside: unreadable, or no list could be made.",
        ),
    ],
}


def dashboard() -> dict[str, Any]:
    """The dashboard in Grafana's JSON model, two panels beside each other."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row, of_row in ROWS.items():
        panels.append({"id": len(panels) + 1, "type": "row", "title": row, "gridPos": _place(0, y, WIDTH, 1)})
        y += 1
        for number, panel in enumerate(of_row):
            at = _place(number % 2 * WIDTH // 2, y + number // 2 * HEIGHT, WIDTH // 2, HEIGHT)
            panels.append(_panel(panel, len(panels) + 1, at))
        y += (len(of_row) + 1) // 2 * HEIGHT
    return {
        "uid": "aigq",
        "title": "aigq",
        "tags": ["aigq"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}
            ]
        },
        "panels": panels,
    }


def _place(x: int, y: int, w: int, h: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": w, "h": h}


def _panel(panel: Panel, number: int, at: dict[str, int]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": source,
        "gridPos": at,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": source, "expr": expr, "legendFormat": legend}
            for place, (expr, legend) in enumerate(panel.drawn)
        ],
    }


def text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
