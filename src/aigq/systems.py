"""Names of the rows of a table."""

from typing import Final

SFT: Final = ("direct_sft", "direct_il_sft")
"""Generators that supervised training makes."""

GENERATORS: Final = SFT
"""Rows that this package trains; any other row is a recall channel."""

CTR: Final = "ctr"
"""The row that orders recall candidates by the CTR model, a stage of its own."""

NEW: Final = ":new"
"""Ends the name of a row whose lists leave out the shopper's own earlier queries, see recall/only_new.py."""


def base(row: str) -> str:
    """The system behind a row: `popular:new` -> `popular`."""
    return row.removesuffix(NEW)
