"""Every error that aigq raises on purpose.

AigqError
├── UsageError        wrong flag, wrong config key, wrong file: exit code 2
│   ├── ConfigError
│   └── SourceError   a file is not what it claims to be
└── StageError        the work itself failed: exit code 1
    └── EmptyLogError nothing is left to learn from
"""


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
