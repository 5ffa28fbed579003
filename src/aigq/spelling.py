"""One spelling per query, and the texts that must never become queries, on strings.

`aigq.history.normalise` gives the same answers for a whole table. This module loads nothing heavy: the
service uses it on every request.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Final

KEPT_FORMATS: Final = frozenset("\u200c\u200d")  # joiners: Persian words, emoji sequences

FULL_STOPS: Final = frozenset("。．｡")
"""Ideographic, full-width and half-width ones, which mail programs take for the dot of a domain."""

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
        folded = "".join(map(_ascii, folded))
    return _PRIVATE.search(folded) is not None


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


def _ascii(char: str) -> str:
    """Digits, hyphens and full stops as contact data has them; joiners, which part digits unseen, go."""
    category = unicodedata.category(char)
    if category == "Nd":
        return str(unicodedata.digit(char))
    if category == "Pd" or char == "\u2212":
        return "-"
    if char in KEPT_FORMATS:
        return ""
    return "." if char in FULL_STOPS else char


@lru_cache(maxsize=10_000)
def script_of(char: str) -> str:
    """LATIN, CYRILLIC, CJK ...: the first word of the character's Unicode name."""
    return unicodedata.name(char, "UNKNOWN").split()[0]
