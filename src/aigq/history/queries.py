"""What shoppers asked: every query with its leaf category, and its counts per day.

Events may come in parts that share no user, so that counts of users add up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from aigq.history.engine import drop, keep, read, whole


@dataclass(frozen=True)
class Led:
    """How often queries led to items.

    pairs: query, item_id, n: item events, see `led_to`; askers: query, users: whom it led to any item.
    """

    pairs: ir.Table
    askers: ir.Table


def searches(events: ir.Table) -> ir.Table:
    """Search events that have a query."""
    return events.filter((events.action == "search") & events.query.notnull())


def led_to(events: ir.Table) -> ir.Table:
    """Which query led to which item: one row (user_id, query, item_id) per item event that has a query.

    An item event's own query counts; without one, the last search before it in the same session.
    """
    items = events.filter((events.action != "search") & events.item_id.notnull())
    # `searches` counts this instant's searches: several in one instant share a number, the first by name wins
    last = searches(events).group_by("user_id", "session", "searches").agg(last_query=lambda t: t.query.min())
    joined = items.left_join(last, ["user_id", "session", "searches"])
    led = joined.select("user_id", "item_id", query=ibis.coalesce(joined.query, joined.last_query))
    return led.filter(led.query.notnull())


def count_led(events: ir.Table) -> Led:
    """`led_to`, counted."""
    led = keep(led_to(events))
    pairs = keep(led.group_by("query", "item_id").agg(n=led.count()))
    askers = keep(led.group_by("query").agg(users=led.user_id.nunique()))
    drop(led)
    return Led(pairs, askers)


def total_led(parts: Sequence[Led]) -> Led:
    """`count_led` of all parts of the events; those of the parts are gone then."""
    pairs = total([led.pairs for led in parts], "query", "item_id")
    return Led(pairs, total([led.askers for led in parts], "query"))


def total(counts: Sequence[ir.Table], *keys: str) -> ir.Table:
    """Kept counts of parts of the events as counts of all; those of the parts are gone then."""
    if len(counts) == 1:
        return counts[0]
    every = ibis.union(*counts)
    sums = {name: whole(every[name].sum()) for name in every.columns if name not in keys}
    made = keep(every.group_by(*keys).agg(**sums))
    for part in counts:
        drop(part)
    return made


def most_frequent(pairs: ir.Table, key: str, value: str) -> ir.Table:
    """For every key the value it occurs with most; ties go to the smallest value. Columns key, value.

    Args:
        pairs: key, value, n: how often, in one row or several.
    """
    counts = pairs.group_by(key, value).agg(n=lambda t: t.n.sum())
    best = ibis.window(group_by=key, order_by=[ibis.desc("n"), value])
    ranked = counts.mutate(place=ibis.row_number().over(best))
    return ranked.filter(ranked.place == 0).select(key, value)


def leaf_categories(items: ir.Table) -> ir.Table | None:
    """item_id -> leaf, the last name of its category path; None where paths tell nothing apart.

    A shop whose items share one leaf category (or have none) would give every query the same category,
    so there the item id is the leaf.
    """
    path = items.category
    leaf = (path.length() > 0).ifelse(path[path.length() - 1], ibis.null("string"))
    leaves = keep(items.select("item_id", leaf=leaf).filter(lambda t: t.leaf.notnull()))
    kinds = read(leaves.agg(n=leaves.leaf.nunique()))[0]["n"]
    return leaves if kinds >= 2 else None


def query_categories(pairs: ir.Table, leaves: ir.Table | None) -> ir.Table:
    """query -> category: the leaf that its item events mostly lead to. `pairs` is of training events."""
    if leaves is None:
        pairs = pairs.select("query", "n", category="item_id")
    else:
        pairs = pairs.join(leaves, "item_id").select("query", "n", category="leaf")
    return most_frequent(pairs, "query", "category")


def query_table(days: ir.Table, categories: ir.Table, provenance: str) -> ir.Table:
    """Table QUERIES from the training days of table QUERY_DAYS."""
    groups = days.group_by("query")
    counts = groups.agg(issues=lambda t: whole(t.issues.sum()), users=lambda t: whole(t.new_users.sum()))
    joined = counts.left_join(categories, "query")
    return joined.select("query", "category", "issues", "users", provenance=ibis.literal(provenance))


def query_days(issued: ir.Table) -> ir.Table:
    """Table QUERY_DAYS from all searches: issues and first-time users of every query and day."""
    issues = issued.group_by("query", "day").agg(issues=lambda t: t.count())
    first = issued.group_by("query", "user_id").agg(day=lambda t: t.day.min())
    new = first.group_by("query", "day").agg(new_users=lambda t: t.count())
    joined = issues.left_join(new, ["query", "day"])
    return joined.select("query", "day", "issues", new_users=joined.new_users.fill_null(0))
