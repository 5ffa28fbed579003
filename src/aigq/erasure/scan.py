"""A look into every file and key: is the id of a user anywhere?

Files are read as bytes, Parquet by column, archives (.npz, .pt) by member, SQLite by row. An id counts as
found where it stands as a word of its own: `user17` is not in `user170`. An id shorter than SHORTEST is found
in many a number, so it is sought only where ids stand: columns of users, names of keys, users of messages.
"""

import html
import json
import mmap
import re
import sqlite3
import zipfile
from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from aigq.erasure import rows
from aigq.serving import keys
from aigq.serving.stores import Store
from aigq.serving.streams import EventLog
from aigq.sources.workspace import quoted

SHORTEST: Final = 6
"""Characters of an id that is sought in any bytes."""

_LETTER: Final = rb"[0-9A-Za-z]"


@dataclass(frozen=True)
class Sought:
    """The id of a user, and what stores call the user; the same where names are not hashed."""

    ids: frozenset[str]

    @cached_property
    def long(self) -> list[str]:
        """Those that are sought in any bytes."""
        return sorted(each for each in self.ids if len(each) >= SHORTEST)

    @cached_property
    def pattern(self) -> re.Pattern[bytes] | None:
        """The long ones as bytes: in UTF-8, as JSON and HTML escape them, and as numpy keeps texts."""
        forms = {form for each in self.long for form in (each, json.dumps(each)[1:-1], html.escape(each))}
        encoded = [form.encode("utf-8", "surrogatepass") for form in forms]
        encoded += [each.encode("utf-32-le", "surrogatepass") for each in self.long]
        words = b"|".join(re.escape(form) for form in sorted(encoded))
        return re.compile(rb"(?<!%b)(?:%b)(?!%b)" % (_LETTER, words, _LETTER)) if encoded else None

    def within(self, data: Any) -> bool:
        """Whether bytes hold an id."""
        return self.pattern is not None and self.pattern.search(data) is not None


@dataclass(frozen=True)
class Scanned:
    """How much was looked at, and where the user still is."""

    looked_at: int
    found: list[str]


def scan_files(roots: Collection[Path], sought: Sought) -> Scanned:
    """Every file under these files and folders. A link is not followed."""
    under = {path for root in roots for path in (root.rglob("*") if root.is_dir() else [root])}
    files = sorted(path for path in under if path.is_file() and not path.is_symlink())
    return Scanned(len(files), [place for path in files for place in _in_file(path, sought)])


async def scan_store(store: Store, sought: Sought) -> Scanned:
    """The name and the value of every key of ours."""
    looked_at, found = 0, []
    async for key, value in store.dump():
        looked_at += 1
        name = key.decode("utf-8", "replace")
        if any(keys.is_of(each, name) for each in sought.ids) or sought.within(key) or sought.within(value):
            found.append(f"store: a key {':'.join(name.split(':')[:2])}:...")
    return Scanned(looked_at, found)


async def scan_log(log: EventLog, sought: Sought) -> Scanned:
    """The user and the body of every message and dead letter."""
    looked_at, found = 0, []
    async for user, body in log.dump():
        looked_at += 1
        if user in sought.ids or sought.within(body):
            found.append("log: a message")
    return Scanned(looked_at, found)


def _in_file(path: Path, sought: Sought) -> Iterator[str]:
    if sought.within(str(path).encode("utf-8", "surrogateescape")):
        yield f"the name of a file in {path.parent}"
    if path.stat().st_size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        head, raw = data[:16], sought.within(data)
    if raw:
        yield str(path)
    elif head[:4] == b"PAR1":
        yield from (f"{path}, column {column}" for column in _in_parquet(path, sought))
    elif head[:4] == b"PK\x03\x04" and zipfile.is_zipfile(path):
        yield from (f"{path}, {member}" for member in _in_archive(path, sought))
    elif head == b"SQLite format 3\x00":
        yield from (f"{path}, table {table}" for table in _in_sqlite(path, sought))


def _in_parquet(path: Path, sought: Sought) -> list[str]:
    users, found = rows.of_users(sought.ids, "user_id"), dict[str, None]()
    with pq.ParquetFile(path) as file:
        texts = [field.name for field in file.schema_arrow if _holds_text(field.type)]
        columns = texts if sought.long else [name for name in texts if name == "user_id"]
        for batch in file.iter_batches(columns=columns):
            for name in columns:
                is_user = name == "user_id" and pc.any(users(batch)).as_py()
                parts = _parts(batch.column(name)) if sought.long else ()
                if is_user or any(_names(part, sought.long) for part in parts):
                    found[name] = None
    return list(found)


def _holds_text(kind: pa.DataType) -> bool:
    nested = [kind.field(i).type for i in range(kind.num_fields)]
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or any(map(_holds_text, nested))


def _parts(column: pa.Array) -> Iterator[pa.Array]:
    """The text arrays inside a column of texts, lists, maps or structs."""
    if pa.types.is_map(column.type):
        yield from (*_parts(column.keys), *_parts(column.items))
    elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        yield from _parts(column.flatten())
    elif pa.types.is_struct(column.type):
        for part in column.flatten():
            yield from _parts(part)
    elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        yield column


def _names(texts: pa.Array, ids: Collection[str]) -> bool:
    batch = pa.record_batch([texts], names=["text"])
    return bool(pc.any(rows.naming(ids, "text")(batch)).as_py())


def _in_archive(path: Path, sought: Sought) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return [name for name in archive.namelist() if sought.within(archive.read(name))]


def _in_sqlite(path: Path, sought: Sought) -> list[str]:
    found = []
    with closing(sqlite3.connect(path)) as db:
        tables = [name for (name,) in db.execute("select name from sqlite_master where type = 'table'")]
        for table in tables:
            cells = (cell for row in db.execute(f"select * from {quoted(table)}") for cell in row)
            if any(_in_cell(cell, sought) for cell in cells):
                found.append(table)
    return found


def _in_cell(cell: Any, sought: Sought) -> bool:
    if isinstance(cell, str):
        return sought.within(cell.encode("utf-8", "surrogatepass"))
    return isinstance(cell, bytes) and sought.within(cell)
