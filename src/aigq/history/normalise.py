"""One spelling per query, and the texts that must never become queries.

`normalise_query` and `is_private` (spelling.py) define both; `query_forms` gives the same answers
for a whole table: ASCII text is handled in SQL, and only the distinct non-ASCII strings go through Python.
"""

from typing import Final

import ibis.expr.types as ir
import pyarrow as pa

from aigq.history.engine import put, read
from aigq.spelling import PRIVATE_PATTERNS, is_private, normalise_query

__all__ = ["is_private", "normalise_query", "query_forms"]

SPACE: Final = r"[\x00-\x20\x7f]+"
NOT_ASCII: Final = r"[^\x00-\x7f]"


def query_forms(raw: ir.Table) -> ir.Table:
    """Distinct raw queries -> their normalised form and whether they are private.

    Args:
        raw: a column `raw` of distinct strings, none of them null. It is read once here for its
            non-ASCII strings, so pass a materialised table.

    Returns:
        raw, query (null when empty after normalising), private.
    """
    ascii_only = raw.filter(~raw.raw.re_search(NOT_ASCII))
    text = ascii_only.raw.re_replace(SPACE, " ").strip().lower()
    private = text.re_search("|".join(PRIVATE_PATTERNS))
    simple = ascii_only.select("raw", query=text.nullif(""), private=private)
    others = [row["raw"] for row in read(raw.filter(raw.raw.re_search(NOT_ASCII)))]
    if not others:
        return simple
    return simple.union(put(raw.get_backend(), _forms(others)))


def _forms(texts: list[str]) -> pa.Table:
    columns = {
        "raw": pa.array(texts, pa.string()),
        "query": pa.array([normalise_query(t) or None for t in texts], pa.string()),
        "private": pa.array([is_private(t) for t in texts], pa.bool_()),
    }
    return pa.table(columns)
