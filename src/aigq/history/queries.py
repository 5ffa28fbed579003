"""What shoppers asked: every query with its leaf category, and its counts per day."""

import ibis
import ibis.expr.types as ir

from aigq.history.engine import keep, read


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


def most_frequent(pairs: ir.Table, key: str, value: str) -> ir.Table:
    """For every key the value it occurs with most; ties go to the smallest value. Columns key, value."""
    counts = pairs.group_by(key, value).agg(n=lambda t: t.count())
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


def query_categories(led: ir.Table, leaves: ir.Table | None) -> ir.Table:
    """query -> category: the leaf that its item events mostly lead to. `led` is of training events."""
    if leaves is None:
        pairs = led.select("query", category=led.item_id)
    else:
        pairs = led.join(leaves, "item_id").select("query", category="leaf")
    return most_frequent(pairs, "query", "category")


def query_table(issued: ir.Table, categories: ir.Table, provenance: str) -> ir.Table:
    """Table QUERIES from the searches of training events."""
    counts = issued.group_by("query").agg(issues=lambda t: t.count(), users=lambda t: t.user_id.nunique())
    joined = counts.left_join(categories, "query")
    return joined.select("query", "category", "issues", "users", provenance=ibis.literal(provenance))


def query_days(issued: ir.Table) -> ir.Table:
    """Table QUERY_DAYS from all searches: issues and first-time users of every query and day."""
    per_user = issued.group_by("query", "user_id", "day").agg(issues=lambda t: t.count())
    first = per_user.day.min().over(ibis.window(group_by=["query", "user_id"]))
    marked = per_user.mutate(is_new=(per_user.day == first).cast("int64"))
    per_day = marked.group_by("query", "day")
    return per_day.agg(issues=lambda t: t.issues.sum(), new_users=lambda t: t.is_new.sum())
