"""The places of a run where rows of a user are: the imported tables, and what was made from them."""

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import pyarrow.compute as pc
import pyarrow.parquet as pq

from aigq.erasure import rows
from aigq.errors import EmptyLogError, UsageError
from aigq.progress import note
from aigq.runs import Run, remove
from aigq.samples.prepare import prepare
from aigq.sources.workspace import Workspace, sql
from aigq.sources.writing import state_of

PREPARED: Final = ("behaviours", "samples", "exposures", "users")
"""Tables of RUN/prepared with a user in each row."""

_CACHES: Final = (
    "lists",
    "channels",
    ".prepare-*",
    "tables/*.parts",
    "tables/*.part",
    "models/*/training/**/*.npz",
    "models/*/training/**/encoded.*",
    "models/*/training/**/valid.json",
    "models/*/training/**/checkpoint[.-]*",
)
"""What holds rows, lists or samples by user and is made again when it is needed. Weights stay."""


def erase_tables(folder: Path, ids: Collection[str]) -> dict[str, int]:
    """Remove the users from the imported tables; returns rows by file, `events.parquet` last.

    `simulation.parquet`, which `aigq replay` writes, knows its exposures by the requests of the events.
    """
    for leftover in folder.glob(".*.part"):  # of a command that was killed
        leftover.unlink()
    users, removed = rows.of_users(ids), {}
    shown = rows.of_users(_requests(folder / "events.parquet", ids), "request_id")
    for name, column, gone in (
        ("simulation", "request_id", shown),
        ("rejected", "content", rows.naming(ids)),
        ("users", "user_id", users),
        ("events", "user_id", users),
    ):
        removed[f"{name}.parquet"] = rows.remove(folder / f"{name}.parquet", column, gone)
    _describe(folder)
    return removed


def prepared_rows(folder: Path, ids: Collection[str]) -> dict[str, int]:
    """Rows of the users by file of RUN/prepared."""
    gone = rows.of_users(ids)
    return {f"{name}.parquet": rows.count(folder / f"{name}.parquet", "user_id", gone) for name in PREPARED}


def remove_caches(run: Path) -> list[str]:
    """Remove what is made again anyway; returns the places, relative to the run."""
    found = sorted({path for pattern in _CACHES for path in run.glob(pattern)})
    for path in found:
        remove(path)
    return [str(path.relative_to(run)) for path in found]


def prepare_again(run: Run) -> None:
    """Make RUN/prepared from the tables of now, counts of queries included; where that fails, remove it."""
    if run.finished("prepare"):
        try:
            run.replace_result("prepare", prepare(run.config, run.folder, force=True))
            return
        except (EmptyLogError, UsageError) as error:
            note(f"prepare: {error}; what was prepared with the user's rows is removed")
            run.forget("prepare")
    shutil.rmtree(run.folder / "prepared", ignore_errors=True)


def _requests(events: Path, ids: Collection[str]) -> list[str]:
    if not events.exists():
        return []
    table = pq.read_table(events, columns=["request_id"], filters=pc.field("user_id").isin(sorted(ids)))
    return [request for request in pc.unique(table["request_id"]).to_pylist() if request is not None]


def _describe(folder: Path) -> None:
    """What import.json says of the tables, counted again; what it says of the import stays."""
    path = folder / "import.json"
    if not path.exists() or not (folder / "events.parquet").exists():
        return
    about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    with Workspace() as workspace:
        for name in ("events", "items", "users"):
            table = folder / f"{name}.parquet"
            workspace.db.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet({sql(table)})")
        state = state_of(workspace)
    state |= {key: state[key] and state[key].isoformat(sep=" ") for key in ("first_ts", "last_ts")}
    if "replay" in about:  # its fingerprint is that of the simulation
        del state["fingerprint"]
    if {**about, **state} != about:
        part = folder / ".import.json.part"
        part.write_text(json.dumps({**about, **state}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(path)
