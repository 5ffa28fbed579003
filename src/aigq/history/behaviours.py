"""From events to behaviours: one text per row, repeats within a stretch of a session merged.

Leak-free by construction: time is divided at *cuts*, the moments from which samples predict: each midnight,
each query that differs from the previous one, or each hint exposure. Rows merge only within one day of one
(session, segment), where a segment runs from one cut to the next. So a row that begins before a cut holds
nothing from the cut or later, and truncating the log at any cut leaves the earlier rows as they are.
"""

from typing import Final

import ibis
import ibis.expr.types as ir

STRENGTH: Final = {"search": 0, "click": 1, "cart": 2, "purchase": 3}
"""Actions that are behaviours, by how much interest they show."""


def add_texts(events: ir.Table, surrogates: ir.Table) -> ir.Table:
    """Adds `text`: the query of a search, the surrogate of an item event or else its own query."""
    known = surrogates.select(item="item_id", surrogate="text")
    joined = events.left_join(known, events.item_id == known.item)
    is_search = joined.action == "search"
    text = is_search.ifelse(joined.query, ibis.coalesce(joined.surrogate, joined.query))
    return joined.mutate(text=text).drop("item", "surrogate")


def collapse(events: ir.Table) -> ir.Table:
    """Merge rows of one text within (user, session, segment): strongest action, earliest time.

    `query` is the text itself if it was issued, else the first by name of the queries issued with it.
    `item_id` is the first by name among the strongest actions. Rows without a text are left out. `of_items`
    is how many of the rows were no searches.

    Args:
        events: user_id, ts, day, session, segment, action, query, item_id, text.
    """
    strength = events.action.cases(*STRENGTH.items(), else_=0).cast("int8")
    rows = events.filter(events.text.notnull()).mutate(strength=strength)
    groups = rows.group_by("user_id", "session", "segment", "day", "text").agg(
        ts=rows.ts.min(),
        strength=rows.strength.max(),
        own=rows.query.min(where=rows.query == rows.text),
        other=rows.query.min(where=rows.query != rows.text),
        of_items=rows.count(where=rows.action != "search"),
        **{f"item_{name}": rows.item_id.min(where=rows.action == name) for name in STRENGTH},
    )
    item = ibis.coalesce(groups.item_purchase, groups.item_cart, groups.item_click, groups.item_search)
    action = groups.strength.cases(*((n, name) for name, n in STRENGTH.items()), else_="search")
    return groups.select(
        "user_id", "ts", "day", "session", "segment", "text", "of_items",
        action=action, query=ibis.coalesce(groups.own, groups.other), item_id=item,
    )  # fmt: skip


def add_categories(behaviours: ir.Table, categories: ir.Table, leaves: ir.Table | None) -> ir.Table:
    """Adds `category`: of the text as a query, else the leaf of the item, or the item without `leaves`."""
    known = categories.select(asked="query", asked_in="category")
    rows = behaviours.left_join(known, behaviours.text == known.asked)
    if leaves is None:
        return rows.mutate(category=ibis.coalesce(rows.asked_in, rows.item_id)).drop("asked", "asked_in")
    items = leaves.select(item="item_id", leaf="leaf")
    rows = rows.left_join(items, rows.item_id == items.item)
    category = ibis.coalesce(rows.asked_in, rows.leaf)
    return rows.mutate(category=category).drop("asked", "asked_in", "item", "leaf")
