"""The few places where the engine shows: keeping a result, and reading one in order."""

from collections.abc import Iterator
from typing import Any, Final

import ibis
import ibis.expr.types as ir
import pyarrow as pa

BATCH_ROWS: Final = 262_144


def keep(table: ir.Table) -> ir.Table:
    """Compute a table once and read it from then on; it lives as long as the connection."""
    backend: Any = table.get_backend()
    if backend.name != "duckdb":
        return table.cache()
    return backend.create_table(ibis.util.gen_name("kept"), table, temp=True)


def batches(table: ir.Table) -> Iterator[pa.RecordBatch]:
    """The rows of a table as record batches, in its order."""
    backend: Any = table.get_backend()
    if backend.name != "duckdb":
        yield from table.to_pyarrow_batches(chunk_size=BATCH_ROWS)
        return
    # ibis 12 reads batches through a method that DuckDB 2 no longer has
    yield from backend.con.sql(ibis.to_sql(table, dialect="duckdb")).to_arrow_reader(BATCH_ROWS)


def whole(total: ir.NumericValue) -> ir.IntegerValue:
    """A sum as int64: DuckDB sums into 128 bits, which ibis takes for int64 and so skips a plain cast."""
    return total.cast("float64").cast("int64")


def put(backend: Any, rows: pa.Table) -> ir.Table:
    """A small Arrow table as a table of the engine."""
    if backend.name != "duckdb":
        return ibis.memtable(rows)
    # ibis 12 drops its own in-memory tables with a statement that DuckDB 2 refuses
    name = ibis.util.gen_name("put")
    backend.con.register(name, rows)
    return backend.table(name)


def read(table: ir.Table) -> list[dict[str, Any]]:
    """The rows of a small table, in its order."""
    return [row for batch in batches(table) for row in batch.to_pylist()]
