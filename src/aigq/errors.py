"""Every error that aigq raises on purpose.

AigqError
├── UsageError        wrong flag, wrong config key, wrong file: exit code 2
│   ├── ConfigError
│   └── SourceError   a file is not what it claims to be
└── StageError        the work itself failed: exit code 1
    └── EmptyLogError nothing is left to learn from
"""

import difflib
import errno
from collections.abc import Collection
from typing import Final


class AigqError(Exception):
    """An error whose message says what happened and what to do about it."""

    exit_code = 1


class UsageError(AigqError):
    """The command, the config or the input file is wrong; nothing was written."""

    exit_code = 2


class ConfigError(UsageError):
    """A key of the YAML file or of `--set` is unknown or has a wrong value."""


class SourceError(UsageError):
    """A file is missing, is not the format it claims to be, or lacks a column."""


class StageError(AigqError):
    """A stage could not finish; what it had written before stays usable."""


class EmptyLogError(StageError):
    """After checks and splits no rows are left for the stage."""


_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_SAYS_DISK_FULL: Final = (
    "No space left on device",
    "max_temp_directory_size",  # DuckDB limits what it spills to the space that the disk has left
)


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk, or a used-up quota, is behind this error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            return True
        if any(text in str(error) for text in _SAYS_DISK_FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def suggestion(name: str, known: Collection[str]) -> str:
    """The end of a message about a name that is not known: the nearest one, or all."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
