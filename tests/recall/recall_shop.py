"""A tiny shop: two groups of shoppers (sea and snow), thirty training days, then validation and test."""

from datetime import date, datetime, timedelta

import numpy as np
import pyarrow as pa

from aigq.prepared import Prepared
from aigq.tables import BEHAVIOURS, QUERIES, QUERY_DAYS, SAMPLES, USERS

START = (date(2026, 1, 1) - date(1970, 1, 1)).days
VALID, TEST, END = START + 30, START + 35, START + 40
GROUPS = {
    "sea": ["swim goggles", "beach towel", "sun cream", "snorkel set", "flip flops"],
    "snow": ["ski gloves", "snow boots", "wool hat", "thermal socks", "sled"],
}


def _events() -> list[dict]:
    rng = np.random.default_rng(0)
    events = []
    for number in range(16):
        user, group = f"u{number:02d}", "sea" if number % 2 == 0 else "snow"
        for day in range(START, END):
            if rng.random() < 0.4:
                continue
            picks = rng.choice(GROUPS[group], size=2, replace=False).tolist()
            if number == 3 and day % 3 == 0:
                picks.append("a secret of mine")
            for minute, query in enumerate(picks):
                ts = datetime(1970, 1, 1) + timedelta(days=day, hours=10, minutes=minute)
                item = f"item {query}"
                events.append(
                    dict(user_id=user, ts=ts, day=day, session=0, action="search", text=query, query=query)
                    | dict(item_id=item, category=group)
                )
    return sorted(events, key=lambda e: (e["user_id"], e["ts"]))


def _query_days(events: list[dict]) -> list[dict]:
    seen: set[tuple[str, str]] = set()
    days: dict[tuple[str, int], list[int]] = {}
    for e in sorted(events, key=lambda e: e["ts"]):
        counts = days.setdefault((e["query"], e["day"]), [0, 0])
        counts[0] += 1
        counts[1] += (e["user_id"], e["query"]) not in seen
        seen.add((e["user_id"], e["query"]))
    return [dict(query=q, day=d, issues=c[0], new_users=c[1]) for (q, d), c in sorted(days.items())]


def _samples(events: list[dict]) -> list[dict]:
    first: dict[str, int] = {}
    by_day: dict[tuple[str, int], list[str]] = {}
    for row, e in enumerate(events):
        first.setdefault(e["user_id"], row)
        by_day.setdefault((e["user_id"], e["day"]), []).append(e["query"])
    samples = []
    for (user, day), targets in by_day.items():
        before = [e["query"] for e in events if e["user_id"] == user and e["day"] < day]
        split = "train" if day < VALID else "valid" if day < TEST else "test"
        cut = datetime(1970, 1, 1) + timedelta(days=day)
        samples.append(
            dict(sample_id=len(samples), user_id=user, cut=cut, day=day, split=split, first_row=first[user])
            | dict(
                n_before=len(before), targets=targets, novel=[t not in before for t in targets], shown=None
            )
        )
    return samples


def build() -> Prepared:
    events = _events()
    counts: dict[str, list[str]] = {}
    for e in events:
        if e["day"] < VALID:
            counts.setdefault(e["query"], []).append(e["user_id"])
    queries = [
        dict(
            query=q,
            category=next((g for g in GROUPS if q in GROUPS[g]), None),
            issues=len(u),
            users=len(set(u)),
        )
        | dict(provenance="typed")
        for q, u in sorted(counts.items())
    ]
    metadata = {b"validation_day": str(VALID).encode(), b"test_day": str(TEST).encode()}
    users = [dict(user_id=u, profile=[]) for u in sorted({e["user_id"] for e in events})]
    return Prepared(
        behaviours=pa.Table.from_pylist(events, schema=BEHAVIOURS),
        queries=pa.Table.from_pylist(queries, schema=QUERIES),
        query_days=pa.Table.from_pylist(_query_days(events), schema=QUERY_DAYS),
        samples=pa.Table.from_pylist(_samples(events), schema=SAMPLES).replace_schema_metadata(metadata),
        users=pa.Table.from_pylist(users, schema=USERS),
    )
