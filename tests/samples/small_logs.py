"""Small logs in DuckDB, for the tests of history and samples."""

from datetime import datetime, timedelta

import ibis
import pyarrow as pa

from aigq.history import behaviours as histories
from aigq.history.engine import keep, put, read
from aigq.history.sessions import add_segments, add_sessions, day_of
from aigq.samples import examples
from aigq.tables import EVENTS

START = datetime(2024, 3, 1, 22, 0)
FAR = 100_000
SURROGATES = {"i1": "red shoe", "i2": "tent"}


def event(user, minutes, action, query=None, item=None, request=None, position=None):
    """One event so many minutes after START."""
    return {
        "user_id": user, "ts": START + timedelta(minutes=minutes), "action": action, "query": query,
        "item_id": item, "request_id": request, "position": position,
    }  # fmt: skip


def table(con, rows):
    """Rows as a table with the columns of EVENTS."""
    return put(con, pa.Table.from_pylist(rows, schema=EVENTS))


def history(con, rows, unit="user_day", gap=30):
    """Events, hints and behaviours of the rows, as `prepare` makes them."""
    raw = table(con, rows)
    shopping = raw.filter(raw.action.isin(list(histories.STRENGTH)))
    hints = raw.filter(raw.action.startswith("hint_"))
    events = keep(add_sessions(shopping.mutate(day=day_of(shopping.ts)), gap))
    cuts = None if unit == "user_day" else examples.cut_instants(events, hints, unit)
    events = keep(add_segments(events, cuts))
    texts = pa.table({"item_id": list(SURROGATES), "text": list(SURROGATES.values())})
    merged = histories.collapse(histories.add_texts(events, put(con, texts)))
    return events, hints, keep(merged.order_by("user_id", "ts", "session", "segment", "text"))


def behaviour_rows(rows, unit="user_day"):
    """The merged behaviours of the rows, as dicts in their order."""
    con = ibis.duckdb.connect()
    try:
        return read(history(con, rows, unit)[2].order_by("user_id", "ts", "session", "segment", "text"))
    finally:
        con.disconnect()


def sample_rows(rows, unit, judged_from=FAR):
    """The samples of the rows, before split and filters; days from `judged_from` on are for judging."""
    con = ibis.duckdb.connect()
    try:
        events, hints, merged = history(con, rows, unit)
        made = examples.samples(events, hints, merged, unit, judged_from)
        return read(made.order_by("user_id", "cut", "request_id"))
    finally:
        con.disconnect()
