"""Checks that every source shares: rows that cannot be events are set aside with a reason.

A source describes its log as a relation `raw`, one row per log line, with the columns of `RAW_COLUMNS`.
`check` turns it into the table `checked`: the same rows with clean values, `reason` null where the row is
an event. `check_entities` does the same for `raw_items` and `raw_users`.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

import duckdb

from aigq.erased import REASON, Erased
from aigq.tables import ACTIONS

RAW_COLUMNS: Final = {
    "file": "VARCHAR",
    "row": "BIGINT",  # line of a text file, row of a Parquet file, from 1
    "content": "VARCHAR",  # the row as text, kept for rejected rows
    "reason": "VARCHAR",  # why the source itself refuses the row
    "user_id": "VARCHAR",
    "ts": "VARCHAR",  # text, epoch seconds, milliseconds or microseconds, or a real timestamp
    "action": "VARCHAR",
    "query": "VARCHAR",
    "item_id": "VARCHAR",
    "request_id": "VARCHAR",
    "position": "VARCHAR",
    "session_id": "VARCHAR",
    "search_ts": "VARCHAR",  # when the query behind this row was issued: adds a search event
}
ORIGIN: Final = tuple(RAW_COLUMNS)[:4]
"""Columns that `raw_items` and `raw_users` have, too, where they come from files of their own."""
ENTITIES: Final = {
    "items": ("item_id", ("title", "category", "brand", "attributes", "price"), "no item"),
    "users": ("user_id", ("profile",), "no user"),
}
"""Their id, their other columns, and the reason to refuse a row without id."""
UNKNOWN_ACTION: Final = "unknown action"
MAX_QUERY: Final = 1_000
CLOCK_SKEW: Final = timedelta(days=1)
_BROKEN = "chr(65533)"  # what decoding leaves in the place of invalid bytes
_WITHOUT_OBJECT: Final = ("exit",)
NO_ID: Final = ("nan", "null", "none", "<na>", "\\n")
"""What programs write, in any case, where an id is missing: a shopper of this name would be all strangers."""
NO_QUERY: Final = ("NaN", "<NA>", "\\N")
"""The same for a query, in the exact spelling: people do type null, none and nan."""


def timestamp_sql(column: str, kind: str) -> str:
    """SQL that reads a column of DuckDB type `kind` as a UTC timestamp, null where that is impossible."""
    if kind.startswith("TIMESTAMP WITH TIME ZONE"):
        return f"({column} AT TIME ZONE 'UTC')"
    if kind.startswith(("TIMESTAMP", "DATE")):
        return f"TRY_CAST({column} AS TIMESTAMP)"
    text = f"trim({column}::VARCHAR)"
    number = f"try_cast({text} AS DOUBLE)"
    return (
        f"CASE WHEN regexp_full_match({text}, '\\d{{9,10}}(\\.\\d+)?') "
        f"THEN make_timestamp(({number} * 1e6)::BIGINT) "
        f"WHEN regexp_full_match({text}, '\\d{{12,13}}') "
        f"THEN make_timestamp(try_cast({text} AS BIGINT) * 1000) "
        f"WHEN regexp_full_match({text}, '\\d{{15,16}}') THEN make_timestamp(try_cast({text} AS BIGINT)) "
        f"ELSE try_cast({text} AS TIMESTAMPTZ) AT TIME ZONE 'UTC' END"
    )


def text_sql(column: str) -> str:
    """SQL that strips a text of any Unicode white space, null when nothing is left."""
    return f"nullif(regexp_replace({column}::VARCHAR, '^[\\s\\p{{Z}}]+|[\\s\\p{{Z}}]+$', '', 'g'), '')"


def id_sql(column: str) -> str:
    """SQL that strips an id, null when it is blank or says that there is none."""
    none = ", ".join(f"'{word}'" for word in NO_ID)
    return f"CASE WHEN lower({text_sql(column)}) NOT IN ({none}) THEN {text_sql(column)} END"


_CATEGORY: Final = (
    f"nullif(list_filter(list_transform(category, lambda level: {text_sql('level')}), "
    "lambda level: level IS NOT NULL), []) AS category"
)


def check(connection: duckdb.DuckDBPyConnection, now: datetime | None, erased: Erased) -> None:
    """Write the table `checked` from the relation `raw`; the first reason that applies is kept."""
    kinds = {row[0]: row[1] for row in connection.execute("DESCRIBE raw").fetchall()}
    latest = _naive_utc(now) + CLOCK_SKEW
    actions = ", ".join(f"'{action}'" for action in ACTIONS)
    without = ", ".join(f"'{action}'" for action in _WITHOUT_OBJECT)
    broken = " OR ".join(
        f"coalesce(contains({name}, {_BROKEN}), false)" for name in ("user_id", "query", "item_id")
    )
    ids = ("user_id", "item_id", "request_id", "session_id")
    cleaned = ", ".join(f"{id_sql(name)} AS {name}" for name in ids)
    no_query = ", ".join(f"'{word}'" for word in NO_QUERY)
    query = text_sql("query")
    cleaned += f", CASE WHEN {query} NOT IN ({no_query}) THEN {query} END AS query"
    connection.execute(f"""
        CREATE OR REPLACE TABLE checked AS
        WITH clean AS (
            SELECT file, row, content, reason, action, {cleaned},
                   ts AS ts_text, {timestamp_sql("ts", kinds["ts"])} AS ts,
                   {timestamp_sql("search_ts", kinds["search_ts"])} AS search_ts,
                   try_cast(position AS INTEGER) AS position
            FROM raw
        ), judged AS (
            SELECT * REPLACE (CASE
                WHEN {erased.is_listed("user_id")} THEN '{REASON}'
                WHEN reason IS NOT NULL THEN reason
                WHEN {broken} THEN 'invalid UTF-8'
                WHEN user_id IS NULL THEN 'no user'
                WHEN ts_text IS NULL THEN 'no time'
                WHEN ts IS NULL THEN 'time not understood'
                WHEN ts > TIMESTAMP '{latest}' THEN 'time in the future'
                WHEN ts < TIMESTAMP '1990-01-01' THEN 'time before 1990'
                WHEN action IS NULL OR action NOT IN ({actions}) THEN '{UNKNOWN_ACTION}'
                WHEN length(query) > {MAX_QUERY} THEN 'query too long'
                WHEN query IS NULL AND item_id IS NULL AND action NOT IN ({without})
                    THEN 'neither query nor item'
                END AS reason)
            FROM clean
        )
        SELECT file, row, reason, user_id, ts, action, query, item_id, request_id, position, session_id,
               CASE WHEN reason IS NULL AND query IS NOT NULL AND search_ts <= ts
                         AND search_ts >= TIMESTAMP '1990-01-01' THEN search_ts END AS search_ts,
               CASE WHEN reason <> '{REASON}' THEN left(content, 1000) END AS content
        FROM judged
    """)


def check_entities(connection: duckdb.DuckDBPyConnection, erased: Erased) -> None:
    """Write `checked_items` and `checked_users`: ids as those of events, categories without blank levels.

    `reason` is null where the row can be used. `file` is null where rows of the log tell of items or users:
    these rows are accounted for as events.
    """
    for name, (key, fields, without) in ENTITIES.items():
        found = {row[0] for row in connection.execute(f"DESCRIBE raw_{name}").fetchall()}
        origin = (
            column if column in found else f"NULL::{RAW_COLUMNS[column]} AS {column}" for column in ORIGIN
        )
        values = ", ".join(_CATEGORY if field == "category" else field for field in fields)
        listed = erased.is_listed(key) if key == "user_id" else "false"
        connection.execute(f"""
            CREATE OR REPLACE TABLE checked_{name} AS
            WITH clean AS (SELECT {", ".join(origin)}, {id_sql(key)} AS {key}, {values} FROM raw_{name})
            SELECT * REPLACE (left(content, 1000) AS content, CASE
                WHEN {listed} THEN '{REASON}'
                WHEN reason IS NOT NULL THEN reason
                WHEN contains({key}, {_BROKEN}) THEN 'invalid UTF-8'
                WHEN {key} IS NULL THEN '{without}'
                END AS reason)
            FROM clean
        """)


def _naive_utc(moment: datetime | None) -> datetime:
    moment = moment or datetime.now(UTC)
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
