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
