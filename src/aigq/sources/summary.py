"""What an import did, as a value, a dict for JSON and a table for people."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final

from rich.markup import escape
from rich.table import Table

from aigq.tables import Provenance

NAME_LENGTH: Final = 40
FOR_THE_CALLER: Final = ("unknown_actions", "rejected_file")
"""Not kept in import.json: text of the log, which no erasure would find there, and a path of this moment."""


@dataclass(frozen=True)
class ImportSummary:
    """The outcome of one import.

    `rows` counts the log lines of this import, and every one is accounted for:
    `rows == new_events + duplicates + sum(rejected.values())`. Some sources also tell when the query behind a
    line was issued; these extra search events are `searches_derived`. `rejected_entities` counts the rows of
    files of items and users that were set aside, by reason; they are no log lines. `events`, `items`, `users`
    and the time range describe the tables after the merge with what the folder held before. `unknown_actions`
    counts the most common names behind the reason `unknown action`, cut to NAME_LENGTH characters, and
    `rejected_file` is where the rejected rows are, null where there is none.
    """

    source: str
    provenance: Provenance
    events: int
    users: int
    items: int
    first_ts: datetime | None
    last_ts: datetime | None
    rows: int
    new_events: int
    searches_derived: int
    duplicates: int
    rejected: dict[str, int] = field(default_factory=dict)
    rejected_entities: dict[str, int] = field(default_factory=dict)
    unknown_actions: dict[str, int] = field(default_factory=dict)
    rejected_file: str | None = None
    actions: dict[str, int] = field(default_factory=dict)
    fingerprint: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values; times are ISO 8601, UTC."""
        values = asdict(self)
        for key in ("first_ts", "last_ts"):
            values[key] = values[key].isoformat(sep=" ") if values[key] else None
        return values


def names_of(unknown_actions: Mapping[str, int]) -> str:
    """The names with their counts; characters that a terminal would obey are escaped."""
    return ", ".join(f"{name!r} {count:,}" for name, count in unknown_actions.items())


def render(summary: ImportSummary) -> Table:
    """A two-column rich table of the summary."""
    table = Table(title=f"imported {summary.source} ({summary.provenance} queries)", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    actions = ", ".join(f"{name} {count:,}" for name, count in summary.actions.items())
    table.add_row("events", f"{summary.events:,}")
    table.add_row("of them", actions)
    table.add_row("users", f"{summary.users:,}")
    table.add_row("items", f"{summary.items:,}")
    table.add_row("from", str(summary.first_ts))
    table.add_row("to", str(summary.last_ts))
    table.add_row("log rows read", f"{summary.rows:,}")
    table.add_row("new events of them", f"{summary.new_events:,}")
    table.add_row("searches derived from them", f"{summary.searches_derived:,}")
    table.add_row("duplicates collapsed", f"{summary.duplicates:,}")
    for reason, count in summary.rejected.items():
        table.add_row(f"rejected: {reason}", f"{count:,}")
    if summary.unknown_actions:
        table.add_row("most common unknown actions", escape(names_of(summary.unknown_actions)))
    for reason, count in summary.rejected_entities.items():
        table.add_row(f"rejected of items and users: {reason}", f"{count:,}")
    if summary.rejected_file:
        table.add_row("rejected rows are in", escape(summary.rejected_file))
    table.add_row("fingerprint", summary.fingerprint[:16])
    return table
