"""The few places where the engine shows: keeping a result, reading it in order, dividing a large one.

Engines are DuckDB, and Spark with an active session (`ibis.pyspark.connect`).
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from pydantic import ByteSize, TypeAdapter

BATCH_ROWS: Final = 262_144
ROW_BYTES: Final = 250
"""Memory for each event of a part: 10 million events used 2.7 of 3 GB as one part."""
_SAMPLE: Final = 100_000


def divide(table: ir.Table, key: str, rows: int) -> list[ir.Table]:
    """A table in parts that fit in memory, in order of `key`; no value of it is in two parts.

    Sorts and windows of a table larger than memory go to disk and back, those of its parts do not. Every part
    reads the whole table again: for a few dozen parts that costs less than writing each to a file.

    Args:
        table: what to divide; it comes back as it is where it fits, and where the engine has no limit.
        key: a column of texts, never null.
        rows: how many the table has.
    """
    backend: Any = table.get_backend()
    if backend.name != "duckdb":
        return [table]
    limit = backend.con.execute("SELECT current_setting('memory_limit')").fetchall()[0][0]
    parts = -(-rows * ROW_BYTES // TypeAdapter(ByteSize).validate_python(limit))
    if parts < 2:
        return [table]
    drawn = sorted(row[key] for row in read(table.select(key).sample(min(1.0, _SAMPLE / rows))))
    bounds = sorted({drawn[len(drawn) * n // parts] for n in range(1, parts)})
    between = [table.filter(table[key] >= low, table[key] < high) for low, high in pairwise(bounds)]
    return [table.filter(table[key] < bounds[0]), *between, table.filter(table[key] >= bounds[-1])]


def keep(table: ir.Table) -> ir.Table:
    """Compute a table once and read it from then on; it lives as long as the connection."""
    backend: Any = table.get_backend()
    if backend.name == "duckdb":
        return backend.create_table(ibis.util.gen_name("kept"), table, temp=True)
    # without a checkpoint Spark plans all steps so far again, and runs out of memory at it
    return _view(backend, _frame(table).localCheckpoint())


def drop(table: ir.Table) -> None:
    """Free a kept table that is not read any more."""
    backend: Any = table.get_backend()
    if backend.name == "duckdb":
        # ibis 12 drops tables with a statement that DuckDB 2 refuses
        backend.con.execute(f"DROP TABLE {table.get_name()}")
    else:
        _spark().catalog.dropTempView(table.get_name())


def batches(table: ir.Table) -> Iterator[pa.RecordBatch]:
    """The rows of a table as record batches, in its order."""
    backend: Any = table.get_backend()
    if backend.name != "duckdb":
        # ibis goes through pandas, which makes structs of maps
        yield from _frame(table).toArrow().to_batches(BATCH_ROWS)
        return
    # ibis 12 reads batches through a method that DuckDB 2 no longer has
    yield from backend.con.sql(ibis.to_sql(table, dialect="duckdb")).to_arrow_reader(BATCH_ROWS)


def whole(total: ir.NumericValue) -> ir.IntegerValue:
    """A sum as int64: DuckDB sums into 128 bits, which ibis takes for int64 and so skips a plain cast."""
    return total.cast("float64").cast("int64")


def put(backend: Any, rows: pa.Table) -> ir.Table:
    """A small Arrow table as a table of the engine."""
    if backend.name != "duckdb":
        return _view(backend, _spark().createDataFrame(rows))
    # ibis 12 drops its own in-memory tables with a statement that DuckDB 2 refuses
    name = ibis.util.gen_name("put")
    backend.con.register(name, rows)
    return backend.table(name)


def read(table: ir.Table) -> list[dict[str, Any]]:
    """The rows of a small table, in its order."""
    return [row for batch in batches(table) for row in batch.to_pylist()]


def _spark() -> Any:
    """The session of this thread."""
    from pyspark.sql import SparkSession

    return SparkSession.active()


def _frame(table: ir.Table) -> Any:
    """A table as a Spark data frame."""
    backend: Any = table.get_backend()
    return _spark().sql(backend.compile(table))


def _view(backend: Any, rows: Any) -> ir.Table:
    """A Spark data frame as a table of the engine."""
    name = ibis.util.gen_name("view")
    rows.createOrReplaceTempView(name)
    return backend.table(name)
