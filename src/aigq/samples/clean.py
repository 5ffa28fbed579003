"""The imported events, cleaned: each once, queries in one spelling, none private, with their sessions."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ibis
import ibis.expr.types as ir

from aigq.config import Config
from aigq.history.behaviours import STRENGTH
from aigq.history.engine import divide, drop, keep, read
from aigq.history.normalise import query_forms
from aigq.history.sessions import add_segments, add_sessions, day_of
from aigq.samples import examples
from aigq.tables import EVENT_KEY


@dataclass(frozen=True)
class Part:
    """The shopping events and the hint events of some users, both kept."""

    events: ir.Table
    hints: ir.Table


def actions_of(events: ir.Table) -> dict[str, Any]:
    """How many events there are, in all and of each action."""
    found = read(events.group_by("action").agg(n=lambda t: t.count()).order_by("action"))
    return {"read": sum(row["n"] for row in found), "actions": {row["action"]: row["n"] for row in found}}


def clean(raw: ir.Table, config: Config, counts: dict[str, Any]) -> Iterator[Part]:
    """The events in parts that fit in memory, in order of their users, none of whom is in two parts.

    A part is made when it is asked for: what is counted of it at once is still in memory.

    Args:
        raw: imported events.
        config: says what a session and a cut is.
        counts: see `actions_of`; what is found in the events is added.
    """
    spellings = keep(raw.filter(raw.query.notnull()).select(raw="query").distinct())
    forms = keep(query_forms(spellings))
    shopped = sum(n for action, n in counts["actions"].items() if action in STRENGTH)
    counts |= {"duplicates": shopped, "private_queries": 0, "searches_without_query": 0}
    counts["items_without_words"] = 0
    for rows in divide(raw, "user_id", counts["read"]):
        part = _clean(rows, forms, config)
        _add_counts(counts, part.events)
        yield part


def _clean(raw: ir.Table, forms: ir.Table, config: Config) -> Part:
    shopping = raw.filter(raw.action.isin(list(STRENGTH))).select(*EVENT_KEY).distinct()
    events = _with_forms(shopping, forms).drop("request_id")
    events = add_sessions(events.mutate(day=day_of(events.ts)), config.history.session_gap_minutes)
    hints = raw.filter(raw.action.startswith("hint_"))
    hints = hints.group_by(*EVENT_KEY).agg(position=lambda t: t.position.min())
    hints = keep(_with_forms(hints, forms))
    unit = config.samples.unit
    if unit == "user_day":
        return Part(keep(add_segments(events, None)), hints)
    events = keep(events)
    segmented = keep(add_segments(events, examples.cut_instants(events, hints, unit)))
    drop(events)
    return Part(segmented, hints)


def _add_counts(counts: dict[str, Any], events: ir.Table) -> None:
    found = events.agg(
        duplicates=-events.count(),
        private_queries=events.private.sum(),
        searches_without_query=((events.action == "search") & events.query.isnull() & ~events.private).sum(),
        items_without_words=(events.action != "search").sum(),  # less those that get a text, see `prepare`
    )
    for name, value in read(found)[0].items():
        counts[name] += int(value or 0)


def _with_forms(events: ir.Table, forms: ir.Table) -> ir.Table:
    """Replaces `query` by its normalised form, null where that is private, and says so in `private`."""
    known = forms.select("raw", "private", form="query")
    joined = events.left_join(known, events.query == known.raw)
    private = joined.private.fill_null(False)
    query = private.ifelse(ibis.null("string"), joined.form)
    return joined.mutate(query=query, private=private).drop("raw", "form")
