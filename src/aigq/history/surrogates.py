"""An item in the words that shoppers search with. Paper section 3.1, item-to-text."""

import ibis
import ibis.expr.types as ir

from aigq.history.engine import keep
from aigq.history.normalise import query_forms
from aigq.history.queries import Led, most_frequent


def template(items: ir.Table, led: Led, k_users: int) -> ir.Table:
    """The query that most often led to the item, else its title with brand, else its leaf category.

    Returns item_id, text; items that have none of these are left out.

    Args:
        items: item_id, title, brand, leaf.
        led: of training events.
        k_users: a query becomes an item's text only if so many distinct users issued it.
    """
    asked = most_frequent(led.pairs.semi_join(common_queries(led, k_users), "query"), "item_id", "query")
    described = _described(items)
    joined = asked.outer_join(described, "item_id")
    text = ibis.coalesce(joined.query, joined.description)
    named = joined.select(item_id=ibis.coalesce(joined.item_id, joined.item_id_right), text=text)
    return named.filter(named.text.notnull())


def generated(written: ir.Table, otherwise: ir.Table) -> ir.Table:
    """The text that the item-to-text model wrote; an item for which it wrote none keeps its other text.

    Args:
        written: item_id, text of RUN/tables/item_text.parquet; no text where the model wrote none.
        otherwise: item_id, text of every item that has one, see `template`.
    """
    known = written.filter(written.text.notnull()).select("item_id", "text")
    joined = known.outer_join(otherwise, "item_id")
    item_id = ibis.coalesce(joined.item_id, joined.item_id_right)
    return joined.select(item_id=item_id, text=ibis.coalesce(joined.text, joined.text_right))


def common_queries(led: Led, k_users: int) -> ir.Table:
    """The queries that so many distinct users issued before an item event."""
    return led.askers.filter(led.askers.users >= k_users).select("query")


def _described(items: ir.Table) -> ir.Table:
    """item_id, description: normalised title (with the brand where the title lacks it), or leaf category.

    A title that may hold contact data, as a long number may, is none.
    """
    title = items.title.re_replace(r"\s*[\(\[][^\)\]]*[\)\]]", " ").strip().nullif("")
    lacks_brand = items.brand.notnull() & (items.brand != "") & ~title.lower().contains(items.brand.lower())
    branded = lacks_brand.fill_null(False).ifelse(items.brand + " " + title, title)
    titles = items.select("item_id", raw=branded, place=ibis.literal(0, "int8"))
    leaves = items.select("item_id", raw=items.leaf, place=ibis.literal(1, "int8"))
    raw = keep(titles.union(leaves).filter(lambda t: t.raw.notnull()))
    forms = query_forms(keep(raw.select("raw").distinct()))
    good = raw.join(forms.filter(forms.query.notnull() & ~forms.private), "raw")
    return good.group_by("item_id").agg(description=good.query.argmin(good.place))
