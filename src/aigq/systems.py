"""Names of the rows of a table."""

from collections.abc import Sequence
from typing import Final

DIRECT: Final = ("direct_sft", "direct_sft_ranked", "direct_il_sft")
"""Generators that write a list at once; the middle one is a step of the ablation ladder."""

THINK: Final = ("think_sft", "think_sft_ranked", "think_il_sft")
"""Generators that write interest points with their queries, again with a step of the ladder."""

SFT: Final = (*DIRECT, *THINK)
"""Generators that supervised training makes, each after those that it may start from."""

FROM_DIRECT: Final = ("think_sft_ranked", "think_il_sft")
"""Think generators that may start from the imitation of direct_il_sft."""

GRPO: Final = {
    "direct_grpo": "direct_il_sft",
    "direct_il_grpo": "direct_il_sft",
    "think_grpo": "think_il_sft",
    "think_il_grpo": "think_il_sft",
}
"""Generators that reinforcement learning makes, and the system that each one starts from."""

GENERATORS: Final = (*SFT, *GRPO)
"""Rows that this package trains; any other row is a recall channel."""

CTR: Final = "ctr"
"""The row that orders recall candidates by the CTR model, a stage of its own."""

SERVED: Final = ("u2q", "x2q", "blend")
"""Rows that ask the serving path at each moment: one of its channels alone, or all together."""

AIGQ_CHANNELS: Final = ("u2q", "x2q")
"""Channels of the blend that the generators supply; any shop could have the others."""

CHANNELS: Final = ("popular", "personal", "coclick", "ranker", CTR, "sasrec", "ease", "als", "ebr")
"""Recall channels, besides zero_shot:NAME for each NAME of channels.llms."""

NEW: Final = ":new"
"""Ends the name of a row whose lists leave out the shopper's own earlier queries, see recall/only_new.py."""


STEPS: Final = (
    ("direct_sft_ranked", "direct_sft"),
    ("direct_il_sft", "direct_sft_ranked"),
    ("direct_il_sft", "direct_sft"),
    ("direct_grpo", "direct_il_sft"),
    ("direct_il_grpo", "direct_il_sft"),
    ("direct_il_grpo", "direct_grpo"),
    ("think_sft_ranked", "think_sft"),
    ("think_il_sft", "think_sft_ranked"),
    ("think_il_sft", "think_sft"),
    ("think_grpo", "think_il_sft"),
    ("think_il_grpo", "think_il_sft"),
    ("think_il_grpo", "think_grpo"),
    ("think_il_sft", "direct_il_sft"),
    ("think_il_grpo", "direct_il_grpo"),
    ("direct_il_grpo", "ebr"),
    ("think_il_grpo", "ebr"),
    ("blend", "u2q"),
    ("blend", "x2q"),
)
"""Steps and relations of the paper's tables, method.md section 7: a row, and the one that it is above."""


def steps(rows: Sequence[str]) -> list[tuple[str, str]]:
    """Those of STEPS whose rows are there, and large language models against `ebr`."""
    there = set(rows)
    asked = [(row, "ebr") for row in rows if row.startswith("zero_shot:")]
    return [(row, other) for row, other in (*STEPS, *asked) if {row, other} <= there]


def base(row: str) -> str:
    """The system behind a row: `popular:new` -> `popular`."""
    return row.removesuffix(NEW)


def thinks(system: str) -> bool:
    """Whether a generator writes interest points with their queries."""
    return GRPO.get(system, system) in THINK


def starts_from(system: str) -> set[str]:
    """The systems that are trained before a generator, because it may start from their weights."""
    if system in GRPO:
        return {GRPO[system]} | starts_from(GRPO[system])
    return {"direct_il_sft"} if system in FROM_DIRECT else set()


def stage_of(system: str) -> str:
    """The stage that trains a system: `direct_il_sft` -> `sft:direct_il_sft`, `ctr` -> `ctr`."""
    if system == CTR:
        return CTR
    kind = "think" if system in THINK else "grpo" if system in GRPO else "sft"
    return f"{kind}:{system}"
