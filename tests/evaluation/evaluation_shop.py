"""A shop small enough to compute every metric by hand, and builders of the prepared tables."""

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa

from aigq.config import Config, parse
from aigq.prepared import Prepared
from aigq.recall.channel import Hint
from aigq.tables import BEHAVIOURS, LISTS, QUERIES, QUERY_DAYS, SAMPLES, USERS

EPOCH = datetime(1970, 1, 1)
TEST_DAY = 20_000
CATEGORIES = {"milk": "dairy", "oat milk": "dairy", "cheese": "dairy", "bread": "bakery", "apple": "fruit"}
QUERY_TEXTS = [*CATEGORIES, "gift card"]  # the last one has no category


def config(**evaluation) -> Config:
    return parse(
        {
            "name": "tiny shop",
            "split": {"validation_from": "2024-09-20", "test_from": "2024-10-04"},
            "samples": {"k_users": 1},
            "evaluation": {"ks": [2, 4], "bootstrap": 100, **evaluation},
        }
    )


def sample_table(rows: list[dict]) -> pa.Table:
    """Rows of {user, targets, novel, n_before, split, shown}; missing keys get harmless values."""
    table = [
        {
            "sample_id": row.get("id", 100 + i),
            "user_id": row["user"],
            "cut": EPOCH + timedelta(days=TEST_DAY),
            "day": TEST_DAY,
            "split": row.get("split", "test"),
            "first_row": row.get("first_row", 0),
            "n_before": row.get("n_before", 0),
            "targets": row["targets"],
            "novel": row.get("novel", [False] * len(row["targets"])),
            "shown": row.get("shown"),
        }
        for i, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(table, schema=SAMPLES.with_metadata({"validation_day": str(TEST_DAY - 14)}))


def prepared(
    samples: pa.Table, categories: dict[str, str] | None = None, history: list[str] | None = None
) -> Prepared:
    categories = CATEGORIES if categories is None else categories
    history = history if history is not None else ["milk", "bread", "apple", "cheese"]
    queries = [
        {"query": q, "category": categories.get(q), "issues": 5, "users": 5, "provenance": "typed"}
        for q in QUERY_TEXTS
    ]
    issued = dict.fromkeys([*QUERY_TEXTS, *history])
    days = [{"query": q, "day": TEST_DAY - 30, "issues": 5, "new_users": 5} for q in issued]
    behaviours = [
        {
            "user_id": "u",
            "ts": EPOCH + timedelta(days=TEST_DAY - 30 + i),
            "day": TEST_DAY - 30 + i,
            "session": i,
            "action": "search" if i % 2 else "purchase",
            "text": query,
            "query": query,
            "item_id": None,
            "category": categories.get(query),
        }
        for i, query in enumerate(history)
    ]
    return Prepared(
        behaviours=pa.Table.from_pylist(behaviours, schema=BEHAVIOURS),
        queries=pa.Table.from_pylist(queries, schema=QUERIES),
        query_days=pa.Table.from_pylist(days, schema=QUERY_DAYS),
        samples=samples,
        users=USERS.empty_table(),
    )


def list_table(lists: dict[int, list[str]]) -> pa.Table:
    rows = [
        {"sample_id": sample_id, "rank": rank, "query": query, "score": 1.0 / rank, "reason": f"rank {rank}"}
        for sample_id, listed in lists.items()
        for rank, query in enumerate(listed, start=1)
    ]
    return pa.Table.from_pylist(rows, schema=LISTS)


def one_hot(texts) -> np.ndarray:
    """An encoder in which only equal texts resemble each other."""
    known = {text: i for i, text in enumerate(sorted(set(texts)))}
    return np.eye(len(known))[[known[text] for text in texts]]


class Fixed:
    """A channel that always proposes the same queries, and counts how often it is fitted."""

    def __init__(self, name: str, listed: list[str]) -> None:
        self.name, self.listed, self.fits = name, listed, 0

    def fit(self, prepared: Prepared) -> None:
        self.fits += 1

    def recommend(self, moments, n):
        return [[Hint(q, 1.0 / r, "always") for r, q in enumerate(self.listed[:n], 1)] for _ in moments]
