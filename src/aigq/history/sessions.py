"""Where one visit ends and the next begins."""

from datetime import datetime
from typing import Final

import ibis
import ibis.expr.types as ir

from aigq.history.engine import whole

START: Final = datetime(1970, 1, 1)
"""Segment of everything before a user's first cut."""


def day_of(ts: ir.TimestampValue) -> ir.IntegerValue:
    """Days since 1970-01-01 of a UTC timestamp."""
    return (ts.truncate("D").epoch_seconds().cast("int64") // 86400).cast("int32")


def midnight(ts: ir.TimestampValue) -> ir.TimestampValue:
    """The start of the UTC day of a timestamp."""
    return ts.truncate("D").cast("timestamp(6)")


def add_sessions(events: ir.Table, gap_minutes: int) -> ir.Table:
    """Adds `session` (ordinal within the user, from 0) and `searches` (so far, this instant's included).

    A pause longer than `gap_minutes` starts a session. Both depend only on rows at or before the event's
    own time, so a log that ends earlier gives the same values.

    Args:
        events: user_id, ts, action.
        gap_minutes: the longest pause within a session.
    """
    by_time = ibis.window(group_by="user_id", order_by="ts")
    before = events.ts.lag().over(by_time)
    pause = before + ibis.interval(minutes=gap_minutes) < events.ts
    starts = events.mutate(starts=pause.fill_null(False).cast("int64"))
    until_now = ibis.range_window(group_by="user_id", order_by="ts", preceding=None, following=0)
    return starts.mutate(
        session=whole(starts.starts.sum().over(until_now)),
        searches=whole((starts.action == "search").cast("int64").sum().over(until_now)),
    ).drop("starts")


def add_segments(events: ir.Table, cuts: ir.Table | None) -> ir.Table:
    """Adds `segment`: the user's latest cut at or before the event, START before the first one.

    Args:
        events: user_id, ts.
        cuts: distinct user_id, cut; None cuts at every midnight.
    """
    if cuts is None:
        return events.mutate(segment=midnight(events.ts))
    instants = events.select("user_id", "ts", cut=ibis.null("timestamp(6)"))
    instants = instants.union(cuts.select("user_id", ts=cuts.cut, cut=cuts.cut.cast("timestamp(6)")))
    instants = instants.group_by("user_id", "ts").agg(cut=lambda t: t.cut.max())
    until_now = ibis.range_window(group_by="user_id", order_by="ts", preceding=None, following=0)
    latest = instants.cut.max().over(until_now).fill_null(ibis.literal(START).cast("timestamp(6)"))
    return events.join(instants.select("user_id", "ts", segment=latest), ["user_id", "ts"])
