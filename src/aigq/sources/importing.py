"""`aigq import`: one source's log into the four tables."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import duckdb
from filelock import FileLock, Timeout

from aigq.erased import Erased
from aigq.errors import SourceError, is_disk_full
from aigq.sources.checks import RAW_COLUMNS, check, check_entities
from aigq.sources.summary import ImportSummary
from aigq.sources.workspace import MEMORY_LIMIT, Workspace, first_line
from aigq.sources.writing import write_tables
from aigq.tables import Provenance

Load = Callable[[Workspace, Path | None, Mapping[str, Any] | None], Provenance]
"""Makes the relation `raw` (columns of checks.RAW_COLUMNS), and `raw_items` and `raw_users` where known."""

SOURCES: Final = ("journey", "bestbuy", "online_retail", "kuaisearch", "ubi", "ga4", "files")
"""Logs in files. The service's own event log is brought in by `serving.log_import`."""


def import_source(
    source: str,
    path: Path | None,
    out: Path,
    *,
    columns: Mapping[str, Any] | None = None,
    now: datetime | None = None,
    memory_limit: str = MEMORY_LIMIT,
) -> ImportSummary:
    """Read `path` as `source` and write or update the tables of `out`.

    Args:
        source: one of SOURCES.
        path: the file or folder; None for a source that a package ships.
        out: the folder of the tables. Tables that are there are merged with, duplicates collapse. Rows of
            users on its list of erased users are counted and left out.
        columns: for `files`: which column is what, see aigq.sources.files.
        now: the moment against which times in the future are judged.
        memory_limit: DuckDB's; what does not fit spills to disk.

    Raises:
        SourceError: the source is unknown, the file is not what it should be, `out` is no folder or another
            command works in it; nothing was written.
        EmptyLogError: no event is left; nothing was written.
    """
    if source not in SOURCES:
        raise SourceError(f"unknown source {source!r}; known: {', '.join(SOURCES)}, log")
    load: Load = import_module(f"aigq.sources.{source}").load
    where = Path(path) if path is not None else None

    def fill(workspace: Workspace) -> Provenance:
        return load(workspace, where, columns)

    return import_rows(source, fill, out, now=now, memory_limit=memory_limit, name=str(where or source))


def import_rows(
    source: str,
    fill: Callable[[Workspace], Provenance],
    out: Path,
    *,
    now: datetime | None = None,
    memory_limit: str = MEMORY_LIMIT,
    name: str,
) -> ImportSummary:
    """Write or update the tables of `out` from the relations that `fill` makes, see Load; `name` for errors.

    The other arguments and what is raised are those of `import_source`.
    """
    with alone(Path(out)), Workspace(memory_limit) as workspace:
        erased = Erased.load(Path(out))
        _empty_entities(workspace)
        try:
            provenance = fill(workspace)
            check(workspace.db, now, erased)
            check_entities(workspace.db, erased)
        except (duckdb.InvalidInputException, duckdb.DataError) as error:
            # files are read lazily: a damaged page, bytes that are no text and the like show only here
            if is_disk_full(error):
                raise
            raise SourceError(f"{name}: the file cannot be read; {first_line(error)}") from None
        return write_tables(workspace, Path(out), source, provenance, erased)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep other imports and erasures from a folder of tables; the lock goes with the process.

    The folder is made if needed, and goes again where nothing was written.

    Raises:
        SourceError: another command works in the folder, or it is none and cannot become one.
    """
    made, path = not out.exists(), out / ".import.lock"
    lock = FileLock(path, blocking=False)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (FileExistsError, NotADirectoryError):
        raise SourceError(f"{out} is a file, or in one; give --out a folder") from None
    except PermissionError:
        raise SourceError(f"{out} cannot be written: permission denied; give --out another folder") from None
    except Timeout:
        raise SourceError(
            f"another `aigq import` or `aigq erase-user` works in {out}; try again when it has ended"
        ) from None
    try:
        yield
    finally:
        path.unlink()  # before the release: after it, the file may be the lock of another import
        lock.release()
        if made and not any(out.iterdir()):
            out.rmdir()


def _empty_entities(workspace: Workspace) -> None:
    columns = ", ".join(f"NULL::{kind} AS {name}" for name, kind in RAW_COLUMNS.items())
    workspace.db.execute(f"CREATE VIEW raw AS SELECT {columns} WHERE false")
    workspace.db.execute(
        "CREATE VIEW raw_items AS SELECT NULL::VARCHAR AS item_id, NULL::VARCHAR AS title, "
        "NULL::VARCHAR[] AS category, NULL::VARCHAR AS brand, "
        "NULL::MAP(VARCHAR, VARCHAR) AS attributes, NULL::DOUBLE AS price WHERE false"
    )
    workspace.db.execute(
        "CREATE VIEW raw_users AS SELECT NULL::VARCHAR AS user_id, "
        "NULL::MAP(VARCHAR, VARCHAR) AS profile WHERE false"
    )
