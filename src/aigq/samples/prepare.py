"""`aigq prepare`: imported tables -> RUN/prepared, everything that training and evaluation read."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aigq.config import Config
from aigq.erased import Erased
from aigq.errors import EmptyLogError, SourceError, StageError
from aigq.history import behaviours as histories
from aigq.history import queries, surrogates
from aigq.history.engine import batches, drop, keep, put, read
from aigq.history.prompt import check_profiles
from aigq.progress import note
from aigq.samples import examples
from aigq.samples.clean import Part, actions_of, clean
from aigq.samples.split import EPOCH, add_drop_reason, add_split, epoch_day
from aigq.tables import EXPOSURES, IMPORTED_TABLES, PREPARED_TABLES

VERSION: Final = 2
"""Raise it when the same input gives other tables, so that old ones are made anew."""

_WORK: Final = ".prepare-"
_SCHEMAS: Final = {**PREPARED_TABLES, "exposures": EXPOSURES}


@dataclass(frozen=True)
class Log:
    """The imported tables as expressions, and what the import said about them."""

    events: ir.Table
    items: ir.Table
    users: ir.Table
    provenance: str
    clicks: str  # on hints: "logged" or "simulated"


def prepare(config: Config, run: Path, *, force: bool = False) -> dict[str, Any]:
    """Write RUN/prepared and return its summary; at once when it is there already for this input and config.

    With `history.item_text: generated`, items have the texts of RUN/tables/item_text.parquet.

    Raises:
        SourceError: `data.tables` has no events.
        ConfigError: `prompt.profile` or `ctr.profile` names a field that no user has.
        StageError: that table is not there.
        EmptyLogError: a split has no samples.
    """
    folder = run / "prepared"
    fingerprint = fingerprint_of(config, run)
    if not force and (done := _read_json(folder / "summary.json")).get("fingerprint") == fingerprint:
        return done
    run.mkdir(parents=True, exist_ok=True)
    for leftover in run.glob(f"{_WORK}*"):  # of a command that was killed; it may hold gigabytes
        shutil.rmtree(leftover, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=_WORK, dir=run))
    try:
        out = work / "prepared"
        out.mkdir()
        with database(config, work / "spill") as con:
            summary = {"fingerprint": fingerprint, **_write_tables(config, con, out, _item_text(config, run))}
        (out / "summary.json").write_text(json.dumps(summary, indent=2, ensure_ascii=False), encoding="utf-8")
        if folder.exists():
            folder.rename(work / "old")
        out.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return summary


def fingerprint_of(config: Config, run: Path) -> str:
    """A hash of all that `prepare` reads: input files, generated texts, its sections of the config."""
    sections = (config.split, config.samples)
    # without defaults, so that a key of a later version of aigq leaves the runs of an earlier one as they are
    settings: list[Any] = [section.model_dump(mode="json", exclude_defaults=True) for section in sections]
    settings.append(config.history.session_gap_minutes)
    if (written := _item_text(config, run)) is not None:
        settings.append(hashlib.blake2b(json.dumps(written.to_pydict()).encode()).hexdigest())
    digest = hashlib.blake2b(json.dumps([VERSION, config.name, settings]).encode())
    for name in (*(f"{table}.parquet" for table in ("events", "items", "users")), "import.json"):
        path = config.data.tables / name
        digest.update(name.encode())
        if path.exists():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()[:32]


def _item_text(config: Config, run: Path) -> pa.Table | None:
    """item_id, text as the model wrote them, where `history.item_text` asks for it."""
    if config.history.item_text == "template":
        return None
    path = run / "tables" / "item_text.parquet"
    if not path.exists():
        raise StageError(
            f"{path} is not there: run `aigq train item-text` first, or set history.item_text=template"
        )
    return pq.read_table(path, columns=["item_id", "text"])


def _write_tables(config: Config, con: Any, out: Path, written: pa.Table | None) -> dict[str, Any]:
    log = open_log(con, config.data.tables)
    check_profiles(config, batches(log.users))
    counts = actions_of(log.events)
    validation = epoch_day(config.split.validation_from)
    parts, leds, per_day = [], [], []
    for part in clean(log.events, config, counts):
        parts.append(part)
        leds.append(queries.count_led(part.events.filter(part.events.day < validation)))
        per_day.append(keep(queries.query_days(queries.searches(part.events))))
    led, days = queries.total_led(leds), queries.total(per_day, "query", "day")
    leaves = queries.leaf_categories(log.items)
    categories = keep(queries.query_categories(led.pairs, leaves))
    texts = keep(surrogates.template(with_leaf(log.items, leaves), led, config.samples.k_users))
    if written is not None:
        texts = keep(surrogates.generated(put(con, written), texts))
    asked = keep(queries.query_table(days.filter(days.day < validation), categories, log.provenance))
    _warn_of_nothing_to_show(asked, config.samples.k_users)

    def worded(events: ir.Table) -> ir.Table:
        rows = histories.collapse(histories.add_texts(events, texts))
        return histories.add_categories(rows, categories, leaves)

    mode = "exposure" if config.samples.unit == "exposure" else "bootstrap"
    about = {"dataset": config.name, "mode": mode, "queries": log.provenance, "unit": config.samples.unit}
    with _Files(out, {"validation_day": str(validation), "clicks": log.clicks}) as files:
        made, seen = _write_behaviours(parts, worded, config, files, counts)
        sizes = _check_splits(ibis.union(*made), config)
        files.append("queries", asked.order_by("query"))
        files.append("query_days", days.order_by("day", "query"))
        files.append("samples", _in_order(made))
        files.append("users", log.users.order_by("user_id"))
        if mode == "exposure":
            about["clicks"] = log.clicks
            files.append("exposures", _in_order(seen))
    return {**about, **sizes, "rows": files.rows, "events": counts}


def _write_behaviours(
    parts: list[Part],
    worded: Callable[[ir.Table], ir.Table],
    config: Config,
    files: "_Files",
    counts: dict[str, Any],
) -> tuple[list[ir.Table], list[ir.Table]]:
    """Writes the behaviours; returns the samples and the exposures of each part, kept, before filters.

    Takes the item events that have a text off `counts["items_without_words"]`.
    """
    unit, validation = config.samples.unit, epoch_day(config.split.validation_from)
    only_new = config.samples.only_new
    made, seen = [], []
    for part in parts:
        rows = keep(worded(part.events))
        counts["items_without_words"] -= int(read(rows.agg(n=rows.of_items.sum()))[0]["n"] or 0)
        earlier = files.rows.get("behaviours", 0)
        found = examples.samples(part.events, part.hints, rows, unit, validation, earlier, only_new=only_new)
        made.append(_labelled(found, config))
        if unit == "exposure":
            seen.append(_labelled(examples.exposure_rows(part.hints, rows, earlier), config))
        files.append("behaviours", rows.order_by("user_id", "ts", "session", "segment", "text"))
        for table in (rows, part.events, part.hints):
            drop(table)
    return made, seen


def _labelled(made: ir.Table, config: Config) -> ir.Table:
    return keep(add_drop_reason(add_split(made, config.split), config))


def with_leaf(items: ir.Table, leaves: ir.Table | None) -> ir.Table:
    """item_id, title, brand and leaf; no leaf where that would be the item id, which is not a text."""
    if leaves is None:
        return items.select("item_id", "title", "brand", leaf=ibis.null("string"))
    return items.left_join(leaves, "item_id").select("item_id", "title", "brand", "leaf")


def _check_splits(made: ir.Table, config: Config) -> dict[str, Any]:
    """Samples per split and dropped samples per reason; EmptyLogError where a split is empty."""
    groups = made.group_by("split", "dropped").agg(n=lambda t: t.count(), users=lambda t: t.user_id.nunique())
    rows = read(groups.order_by("split", "dropped"))
    kept = {row["split"]: row["n"] for row in rows if row["dropped"] is None}
    users = {row["split"]: row["users"] for row in rows if row["dropped"] is None}
    dropped = {f"{row['split']}: {row['dropped']}": row["n"] for row in rows if row["dropped"] is not None}
    empty = [split for split in ("train", "valid", "test") if split not in kept]
    if empty:
        days = read(made.agg(first=made.day.min(), last=made.day.max()))[0]
        raise EmptyLogError(_explain_empty(empty, days, dropped, config))
    return {"samples": kept, "users": users, "dropped": dropped}


def _warn_of_nothing_to_show(asked: ir.Table, k_users: int) -> None:
    most = read(asked.agg(users=asked.users.max()))[0]["users"] or 0
    if most < k_users:
        note(
            f"no query of the training days was issued by {k_users} users (at most by {most}): lists will be "
            "empty and nothing can be trained; use a longer log, or lower samples.k_users"
        )


def _explain_empty(empty: list[str], days: dict[str, Any], dropped: dict[str, int], config: Config) -> str:
    split, unit = config.split, config.samples.unit
    if days["first"] is None or days["last"] is None:
        needs = "hints that were shown and clicked" if unit == "exposure" else "searches"
        return f"no samples: the log has nothing for samples.unit {unit}, which needs {needs}"
    first, last = (EPOCH + timedelta(days=days[end] or 0) for end in ("first", "last"))
    present = f"the log's {unit} samples are of {first} to {last}"
    reasons = f"; dropped: {', '.join(f'{why} {n}' for why, n in dropped.items())}" if dropped else ""
    return (
        f"no samples for {', '.join(empty)}: {present}, validation starts {split.validation_from} "
        f"and test {split.test_from}{reasons}; move split.validation_from and split.test_from"
    )


def _in_order(made: list[ir.Table]) -> ir.Table:
    """The kept samples in order of day, user and cut."""
    everything = ibis.union(*made)
    return everything.filter(everything.dropped.isnull()).order_by("day", "user_id", "cut", "request_id")


class _Files(AbstractContextManager["_Files"]):
    """The prepared tables as files, each in its exact schema."""

    def __init__(self, folder: Path, metadata: dict[str, str]) -> None:
        self.rows: dict[str, int] = {}
        self._folder, self._metadata = folder, metadata
        self._open: dict[str, pq.ParquetWriter] = {}

    def append(self, name: str, table: ir.Table) -> None:
        """Stream rows to the end of a table, in their order; `sample_id` counts them from 0."""
        schema = _SCHEMAS[name].with_metadata(self._metadata if name == "samples" else None)
        if name not in self._open:
            self._open[name] = pq.ParquetWriter(self._folder / f"{name}.parquet", schema, compression="zstd")
            self.rows[name] = 0
        for batch in batches(table.select(*(column for column in schema.names if column != "sample_id"))):
            rows = pa.Table.from_batches([batch])
            if "sample_id" in schema.names:
                first = self.rows[name]
                rows = rows.add_column(0, "sample_id", pa.array(np.arange(first, first + len(rows))))
            self._open[name].write_table(rows.cast(schema))
            self.rows[name] += len(rows)

    def __exit__(self, *_: object) -> None:
        for writer in self._open.values():
            writer.close()


def open_log(con: Any, folder: Path) -> Log:
    """The imported tables. Raises SourceError where they are missing, damaged or of other columns."""
    if not (folder / "events.parquet").exists():
        raise SourceError(f"no events.parquet in {folder}; run `aigq import` with --out {folder} first")
    about = _read_json(folder / "import.json")
    provenance, clicks = str(about.get("provenance", "typed")), str(about.get("clicks", "logged"))
    events, items, users = (_open(con, folder, name) for name in ("events", "items", "users"))
    erased = Erased.load(folder)
    return Log(_without(events, erased), items, _without(users, erased), provenance, clicks)


def _without(rows: ir.Table, erased: Erased) -> ir.Table:
    """Leaves out erased users, also where the tables were written by another program than `aigq import`."""
    if not erased.users:
        return rows
    digests = (ibis.literal(erased.salt) + rows.user_id).hexdigest("sha256")
    return rows.filter(digests.notin(sorted(erased.users)))


def _open(con: Any, folder: Path, name: str) -> ir.Table:
    path = folder / f"{name}.parquet"
    schema = IMPORTED_TABLES[name]
    if not path.exists():
        return put(con, schema.empty_table())
    try:
        found = pq.read_schema(path)
    except pa.ArrowInvalid:
        raise SourceError(f"{path} is damaged, or no Parquet file; import again, into a new folder") from None
    missing = [column for column in schema.names if column not in found.names]
    if missing:
        raise SourceError(f"{path} lacks {', '.join(missing)}; import it again")
    for column in schema.names:
        if found.field(column).type != schema.field(column).type:
            raise SourceError(
                f"{path} holds {column} as {found.field(column).type}, not {schema.field(column).type}; "
                "make it with `aigq import`"
            )
    return con.read_parquet(path).select(*schema.names)


@contextmanager
def database(config: Config, spill: Path) -> Iterator[Any]:
    """DuckDB in memory, with its limit, spilling into the run folder."""
    con = ibis.duckdb.connect(
        memory_limit=config.history.memory_limit, temp_directory=str(spill), preserve_insertion_order=False
    )
    try:
        yield con
    finally:
        con.disconnect()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
