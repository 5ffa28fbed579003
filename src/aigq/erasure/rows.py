"""Parquet files without the rows of a user."""

import re
from collections.abc import Callable, Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

Mask = Callable[[pa.RecordBatch], pa.Array]
"""Which rows of a batch go, as booleans without nulls."""

_BATCH = 100_000


def of_users(ids: Collection[str], column: str = "user_id") -> Mask:
    """The rows whose column is one of these ids."""
    wanted = pa.array(sorted(ids), pa.string())
    return lambda batch: pc.is_in(batch.column(column), wanted)


def naming(ids: Collection[str], column: str = "content") -> Mask:
    """The rows whose text names one of these ids as a word of its own."""
    names = "|".join(map(re.escape, sorted(ids)))
    pattern = rf"(^|[^0-9A-Za-z])({names})($|[^0-9A-Za-z])"
    return lambda batch: pc.fill_null(pc.match_substring_regex(batch.column(column), pattern), False)


def count(path: Path, column: str, gone: Mask) -> int:
    """How many rows would go; 0 where there is no such file or column."""
    if not path.exists():
        return 0
    with pq.ParquetFile(path) as file:
        if column not in file.schema_arrow.names:
            return 0
        batches = file.iter_batches(_BATCH, columns=[column])
        return sum(pc.sum(gone(batch)).as_py() or 0 for batch in batches)


def remove(path: Path, column: str, gone: Mask) -> int:
    """Rewrite a file without these rows, in the same schema and order; returns how many went.

    A file that has none of them stays as it is, byte for byte. The new one takes its place at once.
    """
    rows = count(path, column, gone)
    if rows == 0:
        return 0
    part = path.with_name(f".{path.name}.part")
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        with pq.ParquetWriter(part, schema, compression="zstd") as writer:
            for batch in file.iter_batches(_BATCH):
                kept = batch.filter(pc.invert(gone(batch)))
                writer.write_table(pa.Table.from_batches([kept], schema=schema))
    part.replace(path)
    return rows
