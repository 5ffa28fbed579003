"""Names of the rows of a table."""

from typing import Final

DIRECT: Final = ("direct_sft", "direct_il_sft")
"""Generators that write a list at once."""

THINK: Final = ("think_sft", "think_il_sft")
"""Generators that write interest points with their queries."""

SFT: Final = (*DIRECT, *THINK)
"""Generators that supervised training makes, each after those that it may start from."""

GENERATORS: Final = SFT
"""Rows that this package trains; any other row is a recall channel."""

NEW: Final = ":new"
"""Ends the name of a row whose lists leave out the shopper's own earlier queries, see recall/only_new.py."""


def stage_of(system: str) -> str:
    """The stage that trains a generator: `sft:NAME`, or `think:NAME`, which may start from an `sft`."""
    return f"{'think' if system in THINK else 'sft'}:{system}"


def base(row: str) -> str:
    """The system behind a row: `popular:new` -> `popular`."""
    return row.removesuffix(NEW)
