"""What is predicted, per unit: moments (cuts) and the queries that came after them.

Each unit gives two pure functions: its cuts, which must be known before behaviours are merged
(history/behaviours.py says why), and its targets.
"""

import ibis
import ibis.expr.types as ir

from aigq.history.engine import whole
from aigq.history.queries import searches
from aigq.history.sessions import day_of, midnight


def changed_queries(events: ir.Table) -> ir.Table:
    """user_id, cut, query of every search not for the user's previous query; the first one included."""
    issued = searches(events).select("user_id", "ts", "query").distinct()
    before = issued.query.lag().over(ibis.window(group_by="user_id", order_by=["ts", "query"]))
    marked = issued.mutate(before=before)
    changed = marked.filter(marked.before.isnull() | (marked.query != marked.before))
    return changed.select("user_id", "query", cut=changed.ts)


def exposures(hints: ir.Table) -> ir.Table:
    """request_id, user_id, cut, shown of every exposure, with the distinct hints in order of position.

    Args:
        hints: user_id, ts, action, query (normalised), request_id, position of hint events; rows without a
            request_id cannot be attributed and are left out.
    """
    cuts, slots = _slots(hints)
    lists = slots.group_by("user_id", "request_id").agg(shown=_in_order(slots, "place", "query"))
    joined = cuts.left_join(lists, ["user_id", "request_id"])
    return joined.select("user_id", "request_id", "cut", "shown")


def _slots(hints: ir.Table) -> tuple[ir.Table, ir.Table]:
    """user_id, request_id, cut of every exposure, and user_id, request_id, query, place of its hints.

    An exposure began no later than its first click, whatever the clocks of shop and shopper say.
    """
    told = hints.filter(hints.action.isin(["hint_impression", "hint_click"]) & hints.request_id.notnull())
    shown = told.filter(told.action == "hint_impression")
    cuts = told.group_by("user_id", "request_id").agg(cut=lambda t: t.ts.min())
    cuts = cuts.semi_join(shown, ["user_id", "request_id"])
    texts = shown.filter(shown.query.notnull())
    return cuts, texts.group_by("user_id", "request_id", "query").agg(place=lambda t: t.position.min())


def exposure_rows(hints: ir.Table, behaviours: ir.Table, first_row: int = 0) -> ir.Table:
    """Every exposure that showed a query, before split and filters: EXPOSURES without sample_id and split.

    Args:
        hints: see `exposures`.
        behaviours: of the same users.
        first_row: how many rows of other users come before these behaviours.
    """
    cuts, slots = _slots(hints)
    clicks = _clicks(hints).select("user_id", "request_id", "query", clicked=ibis.literal(True)).distinct()
    marked = slots.left_join(clicks, ["user_id", "request_id", "query"])
    marked = marked.select("user_id", "request_id", "query", "place", clicked=marked.clicked.fill_null(False))
    row = ibis.struct({"place": marked.place, "query": marked.query, "clicked": marked.clicked})
    lists = marked.group_by("user_id", "request_id").agg(rows=row.collect().sort())
    joined = lists.join(cuts, ["user_id", "request_id"])
    joined = joined.select(
        "user_id", "request_id", "cut",
        shown=joined.rows.map(lambda row: row["query"]),
        clicked=joined.rows.map(lambda row: row["clicked"]),
    )  # fmt: skip
    return _with_history(joined, behaviours, first_row)


def _clicks(hints: ir.Table) -> ir.Table:
    return hints.filter(hints.action == "hint_click", hints.query.notnull(), hints.request_id.notnull())


def cut_instants(events: ir.Table, hints: ir.Table, unit: str) -> ir.Table:
    """The cuts of the unit: distinct user_id, cut."""
    source = changed_queries(events) if unit == "next_query" else exposures(hints)
    return source.select("user_id", "cut").distinct()


def targets(events: ir.Table, hints: ir.Table, unit: str, judged_from: int) -> ir.Table:
    """What is to be predicted: one row (user_id, cut, request_id, query, place) per target.

    `place` orders the targets of a sample; `request_id` tells apart samples of one cut. With the unit
    `exposure`, days before `judged_from` have a sample for each exposure with a click, and later ones one
    for each user-day. method.md section 3: trained at exposure level, tested on user-days.
    """
    if unit == "user_day":
        issued = searches(events)
        per_day = issued.mutate(cut=midnight(issued.ts)).group_by("user_id", "cut", "query")
        return per_day.agg(place=lambda t: t.ts.min()).mutate(request_id=ibis.literal(""))
    if unit == "next_query":
        changed = changed_queries(events)
        return changed.mutate(place=changed.cut, request_id=changed.query)
    clicked, wanted = clicked_hints(hints), wanted_after_hints(events, hints)
    trained = clicked.filter(day_of(clicked.cut) < judged_from)
    return trained.union(wanted.filter(day_of(wanted.cut) >= judged_from))


def clicked_hints(hints: ir.Table) -> ir.Table:
    """The clicked hints of every exposure, in the columns of `targets`."""
    first = _clicks(hints).group_by("user_id", "request_id", "query").agg(place=lambda t: t.ts.min())
    cuts, _ = _slots(hints)
    joined = first.join(cuts, ["user_id", "request_id"])
    return joined.select("user_id", "cut", "query", "place", "request_id")


def wanted_after_hints(events: ir.Table, hints: ir.Table) -> ir.Table:
    """What was clicked or searched for on a day after its first exposure, in the columns of `targets`."""
    cuts, _ = _slots(hints)
    cuts = cuts.mutate(day=day_of(cuts.cut))
    row = ibis.struct({"cut": cuts.cut, "request_id": cuts.request_id})
    firsts = cuts.group_by("user_id", "day").agg(first=row.collect().sort())
    firsts = firsts.mutate(first=lambda t: t.first[0])
    firsts = firsts.select("user_id", "day", cut=firsts.first["cut"], request_id=firsts.first["request_id"])
    columns = ("user_id", "ts", "query")
    wanted = searches(events).select(*columns).union(_clicks(hints).select(*columns))
    joined = wanted.mutate(day=day_of(wanted.ts)).join(firsts, ["user_id", "day"])
    later = joined.filter(joined.ts >= joined.cut).group_by("user_id", "cut", "query", "request_id")
    return later.agg(place=lambda t: t.ts.min()).select("user_id", "cut", "query", "place", "request_id")


def add_novelty(wanted: ir.Table, behaviours: ir.Table) -> ir.Table:
    """Adds `novel`: the query is no earlier behaviour's query of the user."""
    known = behaviours.filter(behaviours.query.notnull())
    pairs = known.group_by(known_user=known.user_id, known_query=known.query)
    first = pairs.agg(known_since=lambda t: t.ts.min())
    joined = wanted.left_join(first, [wanted.user_id == first.known_user, wanted.query == first.known_query])
    novel = (joined.known_since >= joined.cut).fill_null(True)
    return joined.mutate(novel=novel).drop("known_user", "known_query", "known_since")


def gather(wanted: ir.Table) -> ir.Table:
    """One row per sample: user_id, cut, request_id, targets, novel."""
    row = ibis.struct({"place": wanted.place, "query": wanted.query, "novel": wanted.novel})
    lists = wanted.group_by("user_id", "cut", "request_id").agg(rows=row.collect().sort())
    return lists.select(
        "user_id", "cut", "request_id",
        targets=lists.rows.map(lambda row: row["query"]),
        novel=lists.rows.map(lambda row: row["novel"]),
    )  # fmt: skip


def first_rows(behaviours: ir.Table) -> ir.Table:
    """user_id -> first_row: where the user's rows begin in `behaviours` sorted by user_id."""
    counts = behaviours.group_by("user_id").agg(n=lambda t: t.count())
    earlier = ibis.window(order_by="user_id", preceding=None, following=0)
    until = counts.n.sum().over(earlier)
    return counts.select("user_id", first_row=whole(until - counts.n))


def rows_before(behaviours: ir.Table, cuts: ir.Table) -> ir.Table:
    """user_id, cut -> n_before: how many behaviours the user had before each of the cuts.

    Segments begin at cuts, so counting whole segments is exact.
    """
    counts = behaviours.group_by("user_id", "segment").agg(n=lambda t: t.count())
    instants = cuts.cut.cast(counts.segment.type())  # engines differ in the digits that they name
    marks = cuts.select("user_id", segment=instants, n=ibis.literal(0, "int64"))
    both = counts.union(marks).group_by("user_id", "segment").agg(n=lambda t: t.n.sum())
    until_now = ibis.window(group_by="user_id", order_by="segment", preceding=None, following=0)
    total = both.n.sum().over(until_now)
    return both.select("user_id", cut=both.segment, n_before=whole(total - both.n))


def samples(
    events: ir.Table,
    hints: ir.Table,
    behaviours: ir.Table,
    unit: str,
    judged_from: int,
    first_row: int = 0,
    *,
    only_new: bool = False,
) -> ir.Table:
    """All samples of the unit, before split and filters: SAMPLES without sample_id and split.

    Args:
        events: of some users, or all.
        hints: of the same users, see `exposures`.
        behaviours: of the same users.
        unit: see `targets`.
        judged_from: see `targets`.
        first_row: how many rows of other users come before these behaviours.
        only_new: queries that the user issued before are no targets.
    """
    wanted = add_novelty(targets(events, hints, unit, judged_from), behaviours)
    lists = gather(wanted.filter("novel") if only_new else wanted)
    if unit == "exposure":
        joined = lists
        seen = exposures(hints).select(seen_user="user_id", seen_request="request_id", shown="shown")
        same = [joined.user_id == seen.seen_user, joined.request_id == seen.seen_request]
        joined = joined.left_join(seen, same).drop("seen_user", "seen_request")
    else:
        joined = lists.mutate(shown=ibis.null("array<string>"))
    return _with_history(joined, behaviours, first_row)


def _with_history(moments: ir.Table, behaviours: ir.Table, first_row: int) -> ir.Table:
    """Adds day, first_row and n_before to moments with user_id and cut."""
    before = rows_before(behaviours, moments.select("user_id", "cut").distinct())
    joined = moments.left_join(before, ["user_id", "cut"]).drop("user_id_right", "cut_right")
    joined = joined.left_join(first_rows(behaviours), "user_id").drop("user_id_right")
    return joined.mutate(
        day=day_of(joined.cut),
        first_row=(joined.first_row + ibis.literal(first_row, "int64")).fill_null(0),
        n_before=joined.n_before.fill_null(0),
    )


def _in_order(table: ir.Table, place: str, value: str) -> ir.ArrayValue:
    """The values of a group as a list, by place and value; the sort is on the list, as every backend can."""
    pairs = ibis.struct({"place": table[place], "value": table[value]}).collect().sort()
    return pairs.map(lambda row: row["value"])
