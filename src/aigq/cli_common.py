"""What the verbs of the command line share: exit codes, options, and how results are shown."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter

from aigq import processes
from aigq.runs import Run, resolve

DONE, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130

Set = Annotated[
    tuple[str, ...],
    Parameter(help="Change one config key: --set sft.epochs=3. Repeatable.", show_default=False),
]
Json = Annotated[bool, Parameter(help="Print one JSON object instead of a table.")]
Resume = Annotated[bool, Parameter(help="Continue an interrupted training from its last checkpoint.")]
Force = Annotated[bool, Parameter(help="Redo the stage, and forget what was made from it.")]


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """The options of every verb that works on a run."""

    config: Annotated[
        Path | None,
        Parameter(help="YAML file of the run. Default: the one that an earlier command left in --run."),
    ] = None
    run: Annotated[Path | None, Parameter(help="Run folder. Default: runs/NAME for NAME.yaml.")] = None
    set: Set = ()
    json: Json = False

    def open(self) -> Run:
        """The run folder and its config. Raises UsageError when either is wrong."""
        config, folder = resolve(self.config, self.run, self.set)
        return Run.open(folder, config)


COMMON: Final = Common()


def show(result: dict[str, Any], rendering: Any, *, as_json: bool) -> None:
    """One result on stdout: JSON, a rich rendering, or key and value lines; the first process shows it."""
    if processes.rank() > 0:
        return
    if as_json:
        print(json.dumps(result, ensure_ascii=False, default=str))
        return
    if rendering is None:
        for key, value in result.items():
            print(f"{key}: {json.dumps(value, ensure_ascii=False, default=str)}")
        return
    from rich.console import Console

    Console().print(rendering)


def print_table(run: Run, result: dict[str, Any], *, as_json: bool, report: bool = True) -> None:
    """The rows of a table, and where the report is."""
    if as_json:
        show(result, None, as_json=True)
        return
    from aigq.evaluation import render

    render.show(result)
    if report:
        print(f"report: {run.folder / 'report.html'}")


def print_hints(result: dict[str, Any], *, as_json: bool) -> None:
    """Hints of each user with their reasons."""
    if as_json:
        show(result, None, as_json=True)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    for user in result["users"]:
        known = f"{user['behaviours']} behaviours" if user["behaviours"] else "not in the log: context only"
        print(f"{user['user_id']} on {user['as_of']} ({known}; {result['system']})")
        grid = Table(box=None)
        for column in ("", "hint", "why"):
            grid.add_column(column, overflow="fold")
        for place, hint in enumerate(user["hints"], start=1):
            grid.add_row(str(place), escape(hint["query"]), escape(hint["reason"]))
        Console().print(grid)
