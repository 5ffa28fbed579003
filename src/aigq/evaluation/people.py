"""The shoppers of the report: what they did, what they were shown, what they searched next."""

from collections.abc import Callable
from html import escape

import numpy as np
import pyarrow as pa

from aigq.evaluation.metrics import normalise
from aigq.prepared import CausalCounts, Moment, Prepared

HISTORY_SHOWN = 12
HINTS_SHOWN = 10
VERBS = {"search": "searched", "click": "clicked", "cart": "added", "purchase": "bought"}

Quote = Callable[[str], str]


def people(system: str, lists: pa.Table, prepared: Prepared, samples: pa.Table, k: int, k_users: int) -> str:
    """The section with one card per sample; nothing when there are no samples.

    Queries that fewer than `k_users` shoppers issued in the whole log are not quoted: reports are passed on.
    """
    if not samples.num_rows:
        return ""
    quote = _quoting(prepared, k_users)
    ids = pa.array(samples["sample_id"].to_pylist(), pa.int64())
    listed: dict[int, list[tuple[str, str]]] = {i: [] for i in ids.to_pylist()}
    kept = lists.filter(pa.compute.is_in(lists["sample_id"], ids)).sort_by(
        [("sample_id", "ascending"), ("rank", "ascending")]
    )
    for row in kept.to_pylist():
        listed[row["sample_id"]].append((row["query"], row["reason"] or ""))
    targets, novel = samples["targets"].to_pylist(), samples["novel"].to_pylist()
    cards = [
        _card(number, moment, listed[moment.sample_id][:k], list(zip(y, new, strict=True)), quote)
        for number, (moment, y, new) in enumerate(
            zip(prepared.moments(samples), targets, novel, strict=True), start=1
        )
    ]
    intro = (
        f"Drawn at random among those judged; hints by <b>{escape(system)}</b>. "
        "<mark>✓ marked</mark> hints were searched next."
    )
    return f"<section><h2>Shoppers</h2><p>{intro}</p>{''.join(cards)}</section>"


def _quoting(prepared: Prepared, k_users: int) -> Quote:
    """What stands for a query."""
    counts = CausalCounts(prepared.query_days, None)
    shared = counts.servable(np.iinfo(np.int64).max, k_users)
    return lambda query: query if query in shared else f"a query of fewer than {k_users} shoppers"


def _card(
    number: int,
    moment: Moment,
    hints: list[tuple[str, str]],
    targets: list[tuple[str, bool]],
    quote: Quote,
) -> str:
    rare = {query for query in moment.history["query"].to_pylist() if query and quote(query) != query}
    hints = [(query, "" if any(text in why for text in rare) else why) for query, why in hints]
    wanted = {normalise(query) for query, _ in targets}
    given = {normalise(query) for query, _ in hints}
    n = moment.history.num_rows
    hit = len(wanted & given)
    summary = f"{n:,} earlier behaviour{'' if n == 1 else 's'} · {hit} of {len(wanted)} found"
    return (
        f'<article class="card"><h3>Shopper {number} <small>{escape(_short(moment.user_id))} on '
        f"{moment.cut.astype('datetime64[D]')} · {summary}</small></h3>"
        f'<div class="steps"><div><h4>Did before</h4>{_history(moment.history, quote)}</div>'
        f"<div><h4>Was shown</h4>{_hints(hints, wanted)}</div>"
        f"<div><h4>Searched next</h4>{_targets(targets, given, quote)}</div></div></article>"
    )


def _history(history: pa.Table, quote: Quote) -> str:
    if not history.num_rows:
        return '<p class="none">nothing yet</p>'
    recent = history.slice(max(0, history.num_rows - HISTORY_SHOWN)).to_pylist()[::-1]
    items = "".join(
        f"<li><span class='when'>{row['ts']:%d %b}</span> "
        f"<span class='verb'>{_verb(row['action'])}</span> "
        # an item without a text of its own goes by the shopper's query, too
        f"{escape(quote(row['text']) if row['text'] == row['query'] else row['text'])}</li>"
        for row in recent
    )
    earlier = history.num_rows - len(recent)
    more = f'<p class="none">and {earlier:,} earlier</p>' if earlier else ""
    return f'<ul class="plain">{items}</ul>{more}'


def _hints(hints: list[tuple[str, str]], wanted: set[str]) -> str:
    if not hints:
        return '<p class="none">an empty list</p>'
    items = [_hint(query, reason, normalise(query) in wanted) for query, reason in hints]
    shown = f"<ol>{''.join(items[:HINTS_SHOWN])}</ol>"
    rest = items[HINTS_SHOWN:]
    if not rest:
        return shown
    found = sum(normalise(query) in wanted for query, _ in hints[HINTS_SHOWN:])
    label = f"{len(rest)} more" + (f", {found} of them searched next" if found else "")
    folded = f'<ol start="{HINTS_SHOWN + 1}">{"".join(rest)}</ol>'
    return f"{shown}<details><summary>{label}</summary>{folded}</details>"


def _hint(query: str, reason: str, hit: bool) -> str:
    text = f"<mark>✓ {escape(query)}</mark>" if hit else escape(query)
    why = f'<span class="why">{escape(reason)}</span>' if reason else ""
    return f"<li>{text}{why}</li>"


def _targets(targets: list[tuple[str, bool]], given: set[str], quote: Quote) -> str:
    items = []
    for query, novel in targets:
        words = escape(quote(query))
        text = f"<mark>✓ {words}</mark>" if normalise(query) in given else words
        items.append(f"<li>{text}{' <span class=tag>new to them</span>' if novel else ''}</li>")
    return f'<ul class="plain">{"".join(items)}</ul>'


def _verb(action: str) -> str:
    return escape(VERBS.get(action, action))


def _short(user_id: str) -> str:
    """Enough to find the shopper in the log. Of a long identifier the beginning is enough."""
    return user_id if len(user_id) <= 12 else f"{user_id[:8]}…"
