"""The vocabulary of aigq: its tables, their columns and types. Read this first.

Input tables, written by `aigq import` (Parquet, timestamps in UTC without zone):

    events   what shoppers did, one row per action
    items    what the shop sells
    users    who they are, as far as the shop tells

Derived tables, written by `aigq prepare` under RUN/prepared:

    behaviours   the events that a model reads: one text per row, sorted by user and time
    queries      every normalised query of the training events, with its leaf category
    query_days   per query and day: issues and first-time users; the source of all causal counts
    samples      one row per thing to predict: a cut in time and the queries that came after it
    exposures    exposure mode only: every exposure, also those without a click, which make no sample

A sample's history is never stored twice: it is rows [first_row, first_row + n_before) of `behaviours`,
all of them strictly earlier than the sample's cut.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

Action = Literal["search", "click", "cart", "purchase", "hint_impression", "hint_click", "exit"]
ACTIONS: Final[tuple[str, ...]] = get_args(Action)
Provenance = Literal["typed", "constructed"]
Split = Literal["train", "valid", "test"]

TIMESTAMP: Final = pa.timestamp("us")

EVENTS: Final = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("ts", TIMESTAMP, nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("query", pa.string()),
        pa.field("item_id", pa.string()),
        pa.field("request_id", pa.string()),
        pa.field("position", pa.int32()),
        pa.field("session_id", pa.string()),
    ]
)
"""At-least-once input: rows equal in (user_id, ts, action, query, item_id, request_id) are one event."""

EVENT_KEY: Final = ("user_id", "ts", "action", "query", "item_id", "request_id")

ITEMS: Final = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("category", pa.list_(pa.string())),  # root to leaf
        pa.field("brand", pa.string()),
        pa.field("attributes", pa.map_(pa.string(), pa.string())),
        pa.field("price", pa.float64()),
    ]
)

USERS: Final = pa.schema(
    [pa.field("user_id", pa.string(), nullable=False), pa.field("profile", pa.map_(pa.string(), pa.string()))]
)

REJECTED: Final = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field(
            "row", pa.int64()
        ),  # line of a text file, row of a Parquet file, from 1; null in a log without
        pa.field("reason", pa.string(), nullable=False),
        pa.field("content", pa.string()),  # the row as text, at most 1,000 characters
    ]
)

BEHAVIOURS: Final = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("ts", TIMESTAMP, nullable=False),
        pa.field("day", pa.int32(), nullable=False),  # days since 1970-01-01
        pa.field("session", pa.int64(), nullable=False),  # ordinal of the session within the user, from 0
        pa.field("action", pa.string(), nullable=False),  # search | click | cart | purchase
        pa.field("text", pa.string(), nullable=False),  # the normalised query, or the item's surrogate
        pa.field(
            "query", pa.string()
        ),  # the normalised query that the shopper issued, null on pure item events
        pa.field("item_id", pa.string()),
        pa.field("category", pa.string()),  # leaf category of the text, null when unknown
    ]
)

QUERIES: Final = pa.schema(
    [
        pa.field("query", pa.string(), nullable=False),
        pa.field("category", pa.string()),  # leaf category: where its clicks or purchases mostly lead
        pa.field("issues", pa.int64(), nullable=False),
        pa.field("users", pa.int64(), nullable=False),  # distinct users, the k of the k-user rule
        pa.field("provenance", pa.string(), nullable=False),
    ]
)

QUERY_DAYS: Final = pa.schema(
    [
        pa.field("query", pa.string(), nullable=False),
        pa.field("day", pa.int32(), nullable=False),
        pa.field("issues", pa.int64(), nullable=False),
        pa.field("new_users", pa.int64(), nullable=False),  # users who issued it for the first time that day
    ]
)

SAMPLES: Final = pa.schema(
    [
        pa.field("sample_id", pa.int64(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("cut", TIMESTAMP, nullable=False),  # history is strictly earlier than this
        pa.field("day", pa.int32(), nullable=False),  # the day of the cut
        pa.field("split", pa.string(), nullable=False),
        pa.field("first_row", pa.int64(), nullable=False),  # into `behaviours`
        pa.field("n_before", pa.int64(), nullable=False),  # how many of the user's rows are before the cut
        pa.field("targets", pa.list_(pa.string()), nullable=False),  # distinct, in log order
        pa.field("novel", pa.list_(pa.bool_()), nullable=False),  # per target: never in the user's history
        pa.field("shown", pa.list_(pa.string())),  # exposure mode: the hints shown, by position; else null
    ]
)

EXPOSURES: Final = pa.schema(
    [
        *(SAMPLES.field(name) for name in SAMPLES.names if name not in ("targets", "novel", "shown")),
        pa.field("shown", pa.list_(pa.string()), nullable=False),  # the hints shown, by position
        pa.field("clicked", pa.list_(pa.bool_()), nullable=False),  # per hint
    ]
)
"""Every hint exposure, clicked or not: what the CTR model learns from. Numbered apart from the samples."""

LISTS: Final = pa.schema(
    [
        pa.field("sample_id", pa.int64(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # from 1
        pa.field("query", pa.string(), nullable=False),
        pa.field("score", pa.float32()),
        pa.field("reason", pa.string()),
    ]
)
"""What one system recommends for the samples of one split: RUN/lists/SYSTEM.parquet."""

SUPPLY: Final = pa.schema(
    [
        pa.field("sample_id", pa.int64(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # from 1; beyond the list's length: not shown
        pa.field("query", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("channels", pa.list_(pa.string()), nullable=False),  # all that proposed it
    ]
)
"""The candidates behind a blended list, those not shown too: RUN/lists/SYSTEM.supply.parquet."""

U2Q: Final = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # from 1
        pa.field("query", pa.string(), nullable=False),
        pa.field("score", pa.float32()),
        pa.field("reason", pa.string()),
        pa.field("model", pa.string(), nullable=False),  # the row of the table, and when it was trained
        pa.field("generated_at", TIMESTAMP, nullable=False),
    ]
)
"""A list for every known user: RUN/tables/u2q.parquet, written by `aigq generate u2q`."""

X2Q: Final = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),  # item | query | category: what the trigger is
        pa.field("trigger", pa.string(), nullable=False),  # item id, normalised query or leaf category
        pa.field("rank", pa.int32(), nullable=False),  # from 1
        pa.field("query", pa.string(), nullable=False),
        pa.field("score", pa.float32()),  # S = alpha S_rel + (1 - alpha) S_eff, method.md section 6
    ]
)
"""From a trigger to queries: RUN/tables/x2q.parquet, written by `aigq generate x2q`."""

ITEM_TEXT: Final = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("text", pa.string()),  # a query of k users; null: the model has nothing to say, see template
        pa.field("key", pa.string(), nullable=False),  # hash of what the model read of the item
        pa.field("model", pa.string(), nullable=False),  # and when it was trained
    ]
)
"""What the item-to-text model wrote for every item: RUN/tables/item_text.parquet."""

IMPORTED_TABLES: Final = {"events": EVENTS, "items": ITEMS, "users": USERS, "rejected": REJECTED}
PREPARED_TABLES: Final = {
    "behaviours": BEHAVIOURS,
    "queries": QUERIES,
    "query_days": QUERY_DAYS,
    "samples": SAMPLES,
    "users": USERS,
}


def write_whole(table: pa.Table, path: Path) -> None:
    """Write a Parquet file, whole or not at all; its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    pq.write_table(table, part)
    part.replace(path)


def contents(files: Iterable[Path]) -> str:
    """Hash of the contents of files, in their order: equal for equal files, wherever they are."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
