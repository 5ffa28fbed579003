"""What a stage says while it works: on stderr, a bar on a terminal, plain lines otherwise.

stdout is left to results, so that `aigq table --json > table.json` is exactly that.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aigq import processes

Advance = Callable[[int], None]
_LINE_EVERY_SECONDS = 15.0


def note(text: str, level: int = logging.INFO) -> None:
    """One line about what happens now; of several processes only the first speaks.

    `level` counts only where lines become log lines.
    """
    if processes.rank() == 0:
        _say(level, text)


def speak_through(say: Callable[[int, str], Any]) -> None:
    """Hand every later line, with its level, to `say` instead of printing it."""
    global _say
    _say = say


def _print(_level: int, text: str) -> None:
    print(text, file=sys.stderr, flush=True)


_say: Callable[[int, str], Any] = _print


@contextmanager
def task(description: str, total: int | None = None) -> Iterator[Advance]:
    """A piece of work; call the yielded function with the number of units that were done.

    On a terminal: a bar with the time left. Otherwise: a line now and then, and one at the end.
    """
    if sys.stderr.isatty() and processes.rank() == 0:
        with _bar(description, total) as advance:
            yield advance
        return
    start = last = time.monotonic()
    done = 0

    def advance_lines(units: int) -> None:
        nonlocal done, last
        done += units
        if time.monotonic() - last >= _LINE_EVERY_SECONDS:
            last = time.monotonic()
            note(f"{description}: {done:,}{f' of {total:,}' if total else ''} after {last - start:.0f} s")

    yield advance_lines
    note(f"{description}: done in {time.monotonic() - start:.1f} s")


@contextmanager
def _bar(description: str, total: int | None) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(description, total=total)
        yield lambda units: progress.advance(bar, units)
