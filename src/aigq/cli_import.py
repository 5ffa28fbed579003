"""The verb import."""

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from aigq import config as configs
from aigq.cli_common import DONE, Json, show
from aigq.errors import UsageError


def import_(
    source: Annotated[
        str, Parameter(help="Log format: journey, bestbuy, online_retail, kuaisearch, ubi, ga4, files, log.")
    ],
    path: Annotated[
        str | None,
        Parameter(
            help="File or folder; not needed for journey, a package. For `log`: the URL of the event log of "
            "`aigq serve`; default: AIGQ_LOG in the environment."
        ),
    ] = None,
    *,
    out: Annotated[Path, Parameter(help="Folder for the tables.")],
    columns: Annotated[Path | None, Parameter(help="Column map (YAML) of the source `files`.")] = None,
    config: Annotated[
        Path | None,
        Parameter(help="For `log`: the YAML file of the run, if its serving.hash_users_with hashes users."),
    ] = None,
    hints_only: Annotated[
        bool, Parameter(help="For `log`: only hints shown and clicked, if another log tells the rest.")
    ] = False,
    json: Json = False,
) -> int:
    """Read a shop's log into the tables events, items, users and rejected."""
    from aigq.sources import import_source, render

    with redirect_stdout(sys.stderr):
        if source == "log":
            from aigq.serving.log_import import import_log

            secret = configs.load(config).serving.hash_users_with if config is not None else None
            summary = import_log(_log_url(path), out, hash_users_with=secret, hints_only=hints_only)
        else:
            column_map = _read_columns(columns) if columns is not None else None
            where = Path(path) if path is not None else None
            summary = import_source(source, where, out, columns=column_map)
    show(summary.to_dict(), render(summary), as_json=json)
    return DONE


def _log_url(path: str | None) -> str:
    url = path or os.environ.get("AIGQ_LOG")
    if not url:
        raise UsageError("give the URL of the event log, or set AIGQ_LOG")
    return url


def _read_columns(path: Path) -> dict[str, Any]:
    """The column map of `aigq import files`. Raises UsageError when it is none."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"no column map at {path}") from None
    except (OSError, yaml.YAMLError, ValueError) as error:  # no UTF-8, or a date that does not exist
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold `column: name` lines")
    return content
