"""One spelling per query, and the texts that must never become queries.

`normalise_query` and `is_private` define both; `query_forms` gives the same answers for a whole table:
ASCII text is handled in SQL, and only the distinct non-ASCII strings go through Python.
"""

import re
import unicodedata
from typing import Final

import ibis.expr.types as ir
import pyarrow as pa

from aigq.history.engine import put, read

SPACE: Final = r"[\x00-\x20\x7f]+"
NOT_ASCII: Final = r"[^\x00-\x7f]"
KEPT_FORMATS: Final = frozenset("\u200c\u200d")  # joiners: Persian words, emoji sequences

PRIVATE_PATTERNS: Final = (
    r"[^\s@]+@[^\s@]+\.[^\s@]",  # email address; also user@host in a URL
    r"\+[ ]?[0-9](?:[ ().\-/]{0,2}[0-9]){6,}",  # international phone number
    r"(?:^|[^0-9])[(]?[0-9]{3}[)]?[ .\-]{1,2}[0-9]{3}[ .\-][0-9]{4}(?:$|[^0-9])",  # North American phone
    r"(?:^|[^0-9])[0-9]{3}-[0-9]{4}(?:$|[^0-9])",  # the same without its area code
    r"[0-9](?:[ .\-/()]{0,2}[0-9]){8,}",  # nine digits or more: cards, phones, accounts
    r"[a-z][a-z0-9+.\-]*://[^\s/]*:[^\s/]*@",  # URL with a password
    # URL with a token
    r"(?:https?://|www\.)[^\s]*[?&#;][a-z0-9_\-]*(?:token|key|secret|passw|pwd|auth|sid|sig|code)[a-z]*=",
)
"""Lower-case text; only syntax that Python, RE2 and Java share."""

_PRIVATE = re.compile("|".join(PRIVATE_PATTERNS))


def normalise_query(text: str) -> str:
    """The one spelling of a query: NFKC, lower case, no control characters, single spaces. Idempotent.

    Letters of every script and emoji stay. An empty result means that there was no query.
    """
    for _ in range(8):
        folded = _fold(text)
        if folded == text:
            break
        text = folded
    return text


def is_private(text: str) -> bool:
    """Whether a query may hold contact data or a credential, and so never becomes text of the product.

    Errs on the safe side: any nine digits with at most two separators between them count, barcodes included.
    """
    folded = normalise_query(text)
    if not folded.isascii():
        folded = "".join(_ascii_digit(c) for c in folded)
    return _PRIVATE.search(folded) is not None


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


def _fold(text: str) -> str:
    lowered = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    return " ".join("".join(map(_visible, lowered)).split())


def _visible(char: str) -> str:
    category = unicodedata.category(char)
    if category == "Cc":
        return " "
    if category == "Cf" and char not in KEPT_FORMATS:
        return ""
    return char


def _ascii_digit(char: str) -> str:
    return str(unicodedata.digit(char)) if unicodedata.category(char) == "Nd" else char
