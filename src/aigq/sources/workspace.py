"""A DuckDB connection that spills to disk, and readers that say clearly what is wrong with a file."""

import codecs
import csv
import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from duckdb.sqltypes import DuckDBPyType

from aigq.errors import SourceError, is_disk_full

MEMORY_LIMIT = "2GB"
_CHUNK = 1 << 22
NOT_JSON = (
    "CASE WHEN json IS NULL THEN "
    "CASE WHEN contains(line, chr(65533)) THEN 'invalid UTF-8' ELSE 'not a JSON object' END END"
)
"""SQL for the reason to refuse a row of `Workspace.json_rows`, null where it is an object."""
_LINES = pa.schema([("_row", pa.int64()), ("line", pa.string())])
_FARTHEST_MS = 9_000_000_000_000_000
_EXPORTS = (".jsonl", ".ndjson", ".json", ".parquet", ".gz")
_MAGIC = {b"PAR1": "a Parquet file", b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "a gzip file"}


def sql(value: str | Path) -> str:
    """A text as an SQL literal."""
    return "'" + str(value).replace("'", "''") + "'"


def quoted(name: str) -> str:
    """A column's name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def text_of_bytes(value: str) -> str:
    """SQL that reads a BLOB as text; bytes that are no text become the mark that `check` refuses."""
    return f"CASE WHEN {value} IS NOT NULL THEN coalesce(TRY(decode({value})), chr(65533)) END"


def decoded(value: str, kind: Any, depth: int = 0) -> str:
    """SQL that reads the bytes in a value of DuckDB type `kind` as text, in lists and structs too."""
    if kind.id == "blob":
        return text_of_bytes(value)
    if kind.id == "list":
        inner = decoded(f"x{depth}", kind.children[0][1], depth + 1)
        return f"list_transform({value}, lambda x{depth}: {inner})"
    if kind.id == "struct":
        fields = ((quoted(name), inner) for name, inner in kind.children)
        parts = (f"{name} := {decoded(f'{value}.{name}', inner, depth)}" for name, inner in fields)
        return f"CASE WHEN {value} IS NOT NULL THEN struct_pack({', '.join(parts)}) END"
    return value


def export_files(source: str, path: Path | None) -> list[Path]:
    """The file of an export, or in a folder those that may be part of one.

    Raises:
        SourceError: there is no path, or no such file in the folder.
    """
    if path is None:
        raise SourceError(f"{source}: expected the path of a file or folder; found none")
    files = sorted(file for file in path.iterdir() if file.suffix in _EXPORTS) if path.is_dir() else [path]
    if not files:
        raise SourceError(f"{path}: expected {', '.join(_EXPORTS)} files in the folder; found none")
    return files


class Workspace:
    """One import's database, in a temporary folder that is removed at the end."""

    def __init__(self, memory_limit: str = MEMORY_LIMIT) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="aigq-import-"))
        self.db = duckdb.connect(str(self.folder / "import.duckdb"))
        self.db.execute(f"SET memory_limit = {sql(memory_limit)}")
        self.db.execute(f"SET temp_directory = {sql(self.folder / 'spill')}")
        self.db.execute("SET TimeZone = 'UTC'")
        self.db.execute("SET enable_progress_bar = false")
        self.db.execute(
            "CREATE TABLE malformed (view VARCHAR, file VARCHAR, row BIGINT, content VARCHAR, reason VARCHAR)"
        )
        self._texts = 0

    def __enter__(self) -> "Workspace":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.db.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Run SQL and fetch everything."""
        return self.db.execute(query).fetchall()

    def columns(self, relation: str) -> dict[str, str]:
        """The columns of a table, a view or a bracketed query, with their DuckDB types."""
        return {row[0]: row[1] for row in self.rows(f"DESCRIBE SELECT * FROM {relation}")}

    def csv(self, view: str, path: Path, needed: Sequence[str] = ()) -> None:
        """A table of a CSV file with a header: all columns text, plus `_row`, the line where the row begins.

        Lines that are not CSV go to the table `malformed` (view, file, row, content, reason).
        """
        text = self.text(path)
        with text.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline().strip()
        delimiter = max(",;\t|", key=header.count)
        names = next(csv.reader([header], delimiter=delimiter), [])
        if not all(names) or len(set(names)) < len(names):
            raise SourceError(f"{path}: expected a header line of distinct names; found {header[:100]!r}")
        columns = ", ".join(f"{sql(name)}: 'VARCHAR'" for name in names)
        options = (
            f"columns = {{{columns}}}, delim = {sql(delimiter)}, quote = '\"', escape = '\"', header = true, "
            "auto_detect = false, ignore_errors = true, store_rejects = true, rejects_limit = 0, "
            "max_line_size = 33554432"
        )
        try:
            self.db.execute(
                f"CREATE OR REPLACE TABLE {view} AS "
                f"SELECT *, row_number() OVER () + 1 AS _row FROM read_csv({sql(text)}, {options})"
            )
        except duckdb.Error as error:
            if is_disk_full(error):
                raise
            raise SourceError(f"{path}: expected CSV with a header line; {first_line(error)}") from None
        self._number_lines(view, path, text, delimiter)
        self.require(view, path, needed)

    def json_rows(self, table: str, paths: Sequence[Path]) -> None:
        """A table of objects from JSON lines or Parquet: file, _row, line (text), json (null: no object).

        Blank lines are not rows, but count in `_row`, the line of the file.
        """
        parts: list[str] = []
        for path in paths:
            if path.suffix == ".parquet":
                view = f"{table}_{len(parts)}"
                self.parquet(view, path)
                texts = [f"{decoded(name, kind)} AS {name}" for name, kind in self._blobs(view)]
                replaced = f"REPLACE ({', '.join(texts)})" if texts else ""
                rows = f"SELECT _row, to_json(r)::VARCHAR AS line FROM (SELECT * {replaced} FROM {view}) r"
            else:
                text = self.text(path)
                _refuse_array(path, text)
                view = f"{table}_{len(parts)}"
                self.db.register(view, pa.RecordBatchReader.from_batches(_LINES, _lines(text)))
                rows = f"SELECT _row, line FROM {view}"
            parts.append(f"SELECT {sql(path.name)} AS file, _row, line FROM ({rows})")
        self.db.execute(
            f"CREATE OR REPLACE TABLE {table} AS SELECT file, _row, line, "
            "CASE WHEN json_valid(line) AND json_type(line) = 'OBJECT' THEN line::JSON END AS json "
            f"FROM ({' UNION ALL '.join(parts)}) WHERE trim(line) <> ''"
        )
        counts = self.rows(f"SELECT count(*), count(json), min(left(line, 60)) FROM {table}")[0]
        if counts[0] and not counts[1]:
            raise SourceError(f"{paths[0]}: expected JSON lines, one object a line; found {counts[2]!r}")

    def _blobs(self, view: str) -> list[tuple[str, DuckDBPyType]]:
        """The columns, quoted, that hold bytes somewhere, with their types."""
        relation = self.db.table(view)
        kinds = zip(relation.columns, relation.types, strict=True)
        return [(quoted(name), kind) for name, kind in kinds if "BLOB" in str(kind)]

    def need_keys(self, table: str, path: Path, keys: Sequence[str]) -> None:
        """Raise SourceError when no object of the table has one of the keys."""
        found = {row[0] for row in self.rows(f"SELECT DISTINCT unnest(json_keys(json)) FROM {table}")}
        missing = [key for key in keys if key not in found]
        if missing and found:
            raise SourceError(
                f"{path}: expected key{'s' * (len(missing) > 1)} {', '.join(missing)} in its objects; "
                f"found {', '.join(sorted(found)[:12])}"
            )

    def parquet(self, view: str, path: Path, needed: Sequence[str] = ()) -> None:
        """A view of a Parquet file, plus `_row` (from 1)."""
        self.exists(path)
        try:
            readable = self._with_times_in_range(path)
            self.db.execute(
                f"CREATE OR REPLACE VIEW {view} AS "
                "SELECT * EXCLUDE (file_row_number), file_row_number + 1 AS _row "
                f"FROM read_parquet({sql(readable)}, file_row_number = true)"
            )
        except duckdb.Error as error:
            raise SourceError(f"{path}: expected a Parquet file; {first_line(error)}") from None
        self.require(view, path, needed)

    def _with_times_in_range(self, path: Path) -> Path:
        """The file itself, or a copy where times are milliseconds that no count of microseconds can hold.

        The engine reads no file that has one such row. In the copy they are the farthest that it can read,
        which `check` refuses.
        """
        columns = self.columns(f"read_parquet({sql(path)})")
        times = [quoted(name) for name, kind in columns.items() if kind.startswith("TIMESTAMP")]
        try:
            if times:
                seen = ", ".join(f"max({name}) IS NULL" for name in times)
                self.rows(f"SELECT {seen} FROM read_parquet({sql(path)})")
            return path
        except duckdb.ConversionException:
            self._texts += 1
            copy = self.folder / f"times-{self._texts}.parquet"
            _clip_times(path, copy)
            return copy

    def require(self, view: str, path: Path, needed: Sequence[str]) -> None:
        """Raise SourceError when a needed column is absent."""
        found = [name for name in self.columns(view) if not name.startswith("_")]
        missing = [name for name in needed if name not in found]
        if missing:
            raise SourceError(
                f"{path}: expected column{'s' * (len(missing) > 1)} {', '.join(missing)}; "
                f"found {', '.join(found[:12])}{', ...' * (len(found) > 12)}"
            )

    def exists(self, path: Path) -> None:
        """Raise SourceError when there is no such file, or it is empty."""
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "nothing"
            raise SourceError(f"{path}: expected a file; found {kind}")
        if not path.stat().st_size:
            raise SourceError(f"{path}: the file is empty")

    def text(self, path: Path) -> Path:
        """The file itself if it is UTF-8, else a copy whose invalid bytes are marked; gzip is unpacked."""
        self.exists(path)
        try:
            return self._text(path)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise SourceError(f"{path}: expected a whole gzip file; {first_line(error)}") from None

    def _text(self, path: Path) -> Path:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rb") as file:
            head = file.read(4)
            for magic, name in _MAGIC.items():
                if head.startswith(magic):
                    raise SourceError(f"{path}: expected text; found {name}")
            if path.suffix != ".gz" and not head.startswith((b"\xff\xfe", b"\xfe\xff")) and _is_utf8(path):
                return path
        if head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise SourceError(f"{path}: expected UTF-8 text; found UTF-16")
        self._texts += 1
        copy = self.folder / f"text-{self._texts}"
        with opener(path, "rb") as source, copy.open("w", encoding="utf-8", newline="") as target:
            for line in source:
                target.write(line.decode("utf-8", errors="replace"))
        return copy

    def _number_lines(self, view: str, path: Path, text: Path, delimiter: str) -> None:
        """Correct `_row` where a row is not one line of the file, and keep what is malformed."""
        bad = {line for (line,) in self.rows("SELECT line FROM reject_errors")}
        places: dict[int, int] = {}
        if _count_lines(text) != self.rows(f"SELECT count(*) + 1 FROM {view}")[0][0]:
            jumps, places = _places(text, delimiter, bad)
            firsts, offsets = zip(*jumps, strict=True)
            self.db.register("jumps", pa.table({"_first": firsts, "_jump": offsets}))
            self.db.execute(
                f"CREATE OR REPLACE TABLE {view} AS SELECT * EXCLUDE (_first, _jump) "
                f"REPLACE (_row + _jump AS _row) FROM {view} ASOF JOIN jumps ON _row >= _first"
            )
            self.db.unregister("jumps")
        numbers = (pa.array(list(column), pa.int64()) for column in (places.keys(), places.values()))
        self.db.register("places", pa.table(dict(zip(("number", "place"), numbers, strict=True))))
        self.db.execute(
            f"INSERT INTO malformed SELECT {sql(view)}, {sql(path.name)}, coalesce(any_value(place), line), "
            "trim(any_value(csv_line), chr(10) || chr(13)), 'malformed CSV line' "
            "FROM reject_errors LEFT JOIN places ON number = line GROUP BY line"
        )
        self.db.unregister("places")
        self.db.execute("DROP TABLE reject_errors")
        self.db.execute("DROP TABLE reject_scans")


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).strip().split("\n", 1)[0]


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        try:
            while chunk := file.read(_CHUNK):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _refuse_array(path: Path, text: Path) -> None:
    """One array over many lines would lose every line but its last, which ends without a comma."""
    with text.open("rb") as file:
        if file.read(_CHUNK).removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            raise SourceError(
                f"{path}: expected JSON lines, one object a line; found a JSON array: jq -c '.[]' makes lines"
            )


def _lines(text: Path) -> Iterator[pa.RecordBatch]:
    """The lines of UTF-8 text with their numbers. Nothing in a line can end it but a newline."""
    row = 1
    with text.open(encoding="utf-8-sig", newline="\n") as file:
        while lines := file.readlines(_CHUNK):
            stripped = [line.rstrip("\r\n") for line in lines]
            yield pa.record_batch([pa.array(range(row, row + len(lines))), stripped], schema=_LINES)
            row += len(lines)


def _count_lines(text: Path) -> int:
    count, last = 0, b""
    with text.open("rb") as file:
        while chunk := file.read(_CHUNK):
            count, last = count + chunk.count(b"\n"), chunk
    return count + (not last.endswith(b"\n"))


def _places(text: Path, delimiter: str, bad: set[int]) -> tuple[list[tuple[int, int]], dict[int, int]]:
    """Where the rows of a CSV file begin, which has blank lines, bad rows or rows of several lines.

    Args:
        text: the file, in UTF-8.
        delimiter: between its fields.
        bad: the rows that the engine refused, counted from 1 with the header and blank lines.

    Returns:
        From which row on (of those that the engine read, the header is 1) how many lines more to count than
        rows; and the line of each bad row.
    """
    jumps, places, row, number, line = [(1, 0)], dict[int, int](), 0, 0, 1
    with text.open(encoding="utf-8-sig", newline="") as file, suppress(csv.Error):
        reader = csv.reader(file, delimiter=delimiter)
        for number, fields in enumerate(reader, start=1):
            if number in bad:
                places[number] = line
            elif fields:
                row += 1
                if line - row != jumps[-1][1]:
                    jumps.append((row, line - row))
            line = reader.line_num + 1
    places.setdefault(number + 1, line)  # a quote that never closes can be more than Python reads
    return jumps, places


def _clip_times(path: Path, copy: Path) -> None:
    """Write a Parquet file again with its columns of milliseconds as microseconds, as far as these reach."""
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        coarse = [
            i for i, kind in enumerate(schema.types) if pa.types.is_timestamp(kind) and kind.unit == "ms"
        ]
        for i in coarse:
            schema = schema.set(i, schema.field(i).with_type(pa.timestamp("us", schema.field(i).type.tz)))
        with pq.ParquetWriter(copy, schema) as writer:
            for batch in file.iter_batches():
                columns = batch.columns
                for i in coarse:
                    low = pc.min_element_wise(columns[i].cast(pa.int64()), _FARTHEST_MS, skip_nulls=False)
                    clipped = pc.max_element_wise(low, -_FARTHEST_MS, skip_nulls=False)
                    columns[i] = pc.multiply(clipped, 1000).cast(schema.field(i).type)
                writer.write_batch(pa.record_batch(columns, schema=schema))
