"""The table on a terminal, or as plain text in a pipe."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 240
FEW_USERS = 30
DASH = "–"
STEPS_TITLE = "Steps of the method"
STEPS_MEANING = "The first row minus the second, on the same users; *: the interval leaves out 0."


@dataclass(frozen=True)
class Column:
    """One metric of the table: where it is in a row, its heading, which direction is better."""

    key: str
    label: str
    meaning: str
    better: Literal["high", "low"] = "high"
    decimals: int = 4
    at_k: bool = True
    minor: bool = False  # left out on narrow terminals

    def heading(self, k: int) -> str:
        """The heading with its cut-off."""
        return f"{self.label}@{k}" if self.at_k else self.label


COLUMNS = (
    Column("query_hr", "Query HR", "share of what was searched next that the list holds"),
    Column("query_hr_any", "Any hit", "share of lists that hold at least one of them", minor=True),
    Column("cate_hr", "Cate HR", "the same on leaf categories; targets without a category are left out"),
    Column("sem_sim", "SemSim", "mean best cosine between what was searched and the list"),
    Column("unique_cates", "Unique cates", "distinct leaf categories in the list", decimals=1, at_k=False),
    Column("novel_query_hr", "Novel HR", "Query HR on queries that the shopper had never issued before"),
    Column(
        "novel_cate_hr",
        "Novel Cate HR",
        "Cate HR on queries that the shopper had never issued before",
        minor=True,
    ),
    Column(
        "repeat_query_hr", "Repeat HR", "Query HR on queries that the shopper had issued before", minor=True
    ),
    Column(
        "near_dup",
        "Near-dup",
        "share of a list that nearly repeats a query above it (ratio >= 90)",
        "low",
        3,
        False,
        True,
    ),
    Column(
        "seconds_per_1k_users",
        "sec/1k users",
        "seconds to make the lists of all judged moments of 1,000 users",
        "low",
        1,
        False,
    ),
)


def show(result: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Print the content of metrics.json: a table for a terminal, or plain text when piped."""
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console = Console(file=console.file, width=PLAIN_WIDTH, no_color=True, highlight=False)
    console.print(Text(title(result), style="bold"))
    console.print(rich_table(result, console))
    if result.get("steps"):
        console.print(Text(STEPS_TITLE, style="bold"))
        console.print(steps_table(result))
        console.print(Text(STEPS_MEANING, style="dim"))
    for line in footnotes(result):
        console.print(Text(line, style="dim"))


def rich_table(result: Mapping[str, Any], console: Console) -> Table:
    """One line per system; on a terminal the interval stands below its value."""
    columns = visible(result, narrow=console.width < 120)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("System", no_wrap=True)
    for column in columns:
        heading = column.heading(result["k"])
        heading = heading.replace(" ", "\n", 1) if console.is_terminal else heading
        table.add_column(heading, justify="right", no_wrap=True)
    for row in result["rows"]:
        cells = [_cell(result, row, column, console.is_terminal) for column in columns]
        table.add_row(Text(row["system"]), *cells)
    return table


def steps_table(result: Mapping[str, Any]) -> Table:
    """One line per step of the method."""
    heads, lines = step_lines(result)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for i, head in enumerate(heads):
        table.add_column(head, justify="right" if i else "left", no_wrap=True)
    for line in lines:
        table.add_row(*map(Text, line))
    return table


def step_lines(result: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a line of cells per step of the method, see `aigq.systems.STEPS`."""
    columns = [column for column in COLUMNS if column.key in ("query_hr", "cate_hr", "unique_cates")]
    heads = ["Step", *(column.heading(result["k"]) for column in columns)]
    return heads, [
        [f"{step['row']} – {step['above']}", *(_step_cell(step, column) for column in columns)]
        for step in result["steps"]
    ]


def _step_cell(step: Mapping[str, Any], column: Column) -> str:
    """+mean [low, high]; * where the interval leaves out 0."""
    found = step["difference"][column.key]
    if found["mean"] is None:
        return DASH
    low, high = found["ci95"]
    mark = "*" if found["significant"] else ""
    digits = max(column.decimals, 2)  # a difference may be smaller than what a value is rounded to
    return f"{found['mean']:+.{digits}f}{mark} [{low:.{digits}f}, {high:.{digits}f}]"


def mode_text(result: Mapping[str, Any]) -> str:
    """The mode, and that clicks are simulated where they are."""
    simulated = result["mode"] == "exposure" and result.get("clicks") == "simulated"
    return f"{result['mode']} (simulated clicks)" if simulated else str(result["mode"])


def title(result: Mapping[str, Any]) -> str:
    """What a number must be quoted with: dataset, mode, typed or constructed, split, dates, users, seed."""
    dates = result["dates"]
    return " · ".join(
        [
            result["dataset"],
            f"{mode_text(result)} mode",
            f"{result['queries']} queries" + (" new to the shopper" if discovers(result) else ""),
            f"{result['split']} {dates['first_sample']} to {dates['last_sample']}",
            users(result),
            f"seed {result['seed']}",
        ]
    )


def discovers(result: Mapping[str, Any]) -> bool:
    """Whether only queries new to the shopper were to be predicted; old tables do not name their config."""
    return bool(result.get("config", {}).get("samples", {}).get("targets") == "new")


def users(result: Mapping[str, Any]) -> str:
    """How many users, of how many when it is a sample."""
    n, all_ = result["users"], result["users_of_split"]
    return f"{n:,} users" if n == all_ else f"{n:,} of {all_:,} users"


def _compared(result: Mapping[str, Any]) -> str:
    """The row, or the rows, that the others are compared with."""
    others = {row["compared_to"] for row in result["rows"] if "compared_to" in row} - {result["compare_to"]}
    return " and ".join([result["compare_to"], *(f"of rows `:new` to {name}" for name in sorted(others))])


def footnotes(result: Mapping[str, Any]) -> list[str]:
    """What the marks mean, and what must be said about the numbers."""
    notes = [
        f"[low, high]: 95 % bootstrap interval over users ({result['bootstrap']:,} resamples). "
        f"*: the paired difference to {_compared(result)} has an interval that leaves out 0."
    ]
    if result["users"] < FEW_USERS:
        only = "one user" if result["users"] == 1 else f"{result['users']} users"
        notes.append(f"Everything rests on {only} only: the intervals say nothing about other users.")
    covered = result["targets_with_category"]
    if covered is not None and covered < 0.9995:
        notes.append(
            f"Cate HR counts the {covered:.1%} of targets whose leaf category is known from training."
        )
    for name in ("novel", "repeat"):
        n = max(row[f"{name}_users"] for row in result["rows"])
        if n < FEW_USERS:
            notes.append(f"{name.capitalize()} HR rests on {n} users only.")
    for row in result["rows"]:
        valid = row["validity"]["valid"]
        if valid is not None and valid < 1:
            notes.append(f"{row['system']}: {1 - valid:.2%} of lists break a rule ({broken_rules(row)}).")
    notes += [supplied(row) for row in result["rows"] if "supply" in row]
    return notes


def supplied(row: Mapping[str, Any]) -> str:
    """What only u2q and x2q supply of a row's lists, and whether cold users get hints."""
    cold, counted = row["slices"]["cold"], [row["supply"][name] for name in ("queries", "categories")]
    queries, categories = (percent(counts["only_aigq_of_shown"]) for counts in counted)
    own_queries, own_categories = (percent(counts["only_aigq_of_aigq"]) for counts in counted)
    return (
        f"{row['system']}: only u2q and x2q supply {queries} of the shown queries and {categories} of the "
        f"lists' leaf categories ({own_queries} and {own_categories} of those that they supply at all). "
        f"{cold['with_hints']:,} of {cold['samples']:,} lists of cold users hold hints."
    )


def percent(share: float | None) -> str:
    """A share as a percentage, or a dash where there is none."""
    return DASH if share is None else f"{share:.1%}"


def broken_rules(row: Mapping[str, Any]) -> str:
    """Which serving rules a row's lists break, and how often."""
    rules = {name: share for name, share in row["validity"].items() if name != "valid" and share}
    return ", ".join(f"{name.replace('_', ' ')} {share:.2%}" for name, share in rules.items())


def visible(result: Mapping[str, Any], *, narrow: bool = False) -> list[Column]:
    """Columns that fit."""
    return [column for column in COLUMNS if not (narrow and column.minor)]


def best(rows: Iterable[Mapping[str, Any]], column: Column) -> float | None:
    """The best value of a column as printed; None when no row has one, or only one row is there."""
    values: list[float] = [
        round(value, column.decimals) for row in rows if (value := row.get(column.key)) is not None
    ]
    if len(values) < 2:
        return None
    return max(values) if column.better == "high" else min(values)


def is_best(result: Mapping[str, Any], row: Mapping[str, Any], column: Column) -> bool:
    """True for the best value of its column, ties included."""
    value = row.get(column.key)
    return value is not None and round(value, column.decimals) == best(result["rows"], column)


def is_significant(row: Mapping[str, Any], column: Column) -> bool:
    """True when the row differs from the compared row beyond its interval."""
    return bool(row.get("difference", {}).get(column.key, {}).get("significant"))


def number(value: float | None, decimals: int) -> str:
    """A number, or a dash where there is none."""
    return DASH if value is None else f"{value:,.{decimals}f}"


def interval(row: Mapping[str, Any], column: Column) -> str:
    """[low, high], or nothing where there is no interval."""
    low, high = row["ci95"].get(column.key, (None, None))
    if low is None or high is None:
        return ""
    decimals = min(column.decimals, 3)
    return f"[{low:.{decimals}f}, {high:.{decimals}f}]"


def _cell(result: Mapping[str, Any], row: Mapping[str, Any], column: Column, stacked: bool) -> Text:
    style = "bold" if is_best(result, row, column) else ""
    cell = Text(number(row.get(column.key), column.decimals), style=style)
    cell.append("*" if is_significant(row, column) else "")
    bounds = interval(row, column)
    if bounds:
        bounds = f"\n{_compact(bounds)}" if stacked else f" {bounds}"
        cell.append(bounds, style="dim not bold")
    return cell


def _compact(bounds: str) -> str:
    """[0.227, 0.244] as .227–.244, to fit a terminal."""
    return re.sub(r"\b0\.", ".", bounds.strip("[]").replace(", ", "–"))
