"""What Think wrote about many shoppers as a table trigger -> queries. Paper section 3.5; method.md section 6.

    S(x, q) = alpha S_rel(x, q) + (1 - alpha) S_eff(q)

    S_rel = max(0, ln(n_xq N / (n_x n_q)) / -ln(n_xq / N)) * n_xq / (n_xq + support)      normalised PMI
    S_eff = mean of ln(1 + issues(q)) and p_hat(q), each as a share of its largest

n_xq counts the shoppers for whom Think explained q by x; n_x = sum_q n_xq, n_q = sum_x n_xq and
N = sum_xq n_xq within one kind of trigger. A single shopper's link says little: hence the last factor.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from aigq.config import X2qConfig
from aigq.recall.think import Interest
from aigq.tables import X2Q

LINKS: Final = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("user_id", "kind", "trigger", "query")]
)
"""One row per shopper, trigger and query that Think connected."""


def links_of(user: str, interests: Sequence[Interest], servable: set[str]) -> Iterator[dict[str, str]]:
    """The rows of LINKS of one shopper: the whole Q_k for each item, query and leaf category of T_k.

    A trigger that is a query keeps its row only if it may be served: what one person typed is no key.
    """
    for interest in interests:
        keys = {
            (kind, key)
            for trigger in interest.triggers
            for kind, key in (
                ("item", trigger.item_id),
                ("query", trigger.query if trigger.query in servable else None),
                ("category", trigger.category),
            )
            if key
        }
        for kind, key in sorted(keys):
            for query in interest.queries:
                if (kind, key) != ("query", query):
                    yield {"user_id": user, "kind": kind, "trigger": key, "query": query}


def trigger_table(
    links: pa.Table, issues: Mapping[str, float], chances: Mapping[str, float], config: X2qConfig
) -> pa.Table:
    """The table X2Q, best queries of each trigger first.

    Args:
        links: rows of LINKS.
        issues: how often each query was issued.
        chances: predicted click probability of each query for an unknown shopper; may be empty.
        config: weights and lengths.
    """
    counted = links.group_by(["kind", "trigger", "query"]).aggregate([("user_id", "count_distinct")])
    keys = ["kind", "trigger", "query"]
    kind, trigger, query = (np.array(counted[c].to_pylist(), dtype=object) for c in keys)
    n_xq = counted["user_id_count_distinct"].to_numpy().astype(np.float64)
    effect = _share([np.log1p(issues.get(q, 0)) for q in query])
    if chances:
        effect = (effect + _share([chances.get(q, 0.0) for q in query])) / 2
    score = config.alpha * relevance(kind, trigger, query, n_xq, config.support) + (1 - config.alpha) * effect
    order = np.lexsort((query.astype(str), -score, trigger.astype(str), kind.astype(str)))
    order = order[n_xq[order] >= config.min_users]
    rows: list[dict[str, object]] = []
    for i in order:
        same = bool(rows) and (rows[-1]["kind"], rows[-1]["trigger"]) == (kind[i], trigger[i])
        rank = rows[-1]["rank"] + 1 if same else 1  # type: ignore[operator]
        rows.append(
            {"kind": kind[i], "trigger": trigger[i], "rank": rank, "query": query[i], "score": score[i]}
        )
    return pa.Table.from_pylist([row for row in rows if row["rank"] <= config.length], schema=X2Q)  # type: ignore[operator]


def relevance(
    kind: np.ndarray, trigger: np.ndarray, query: np.ndarray, n_xq: np.ndarray, support: float
) -> np.ndarray:
    """S_rel of each pair (P,), in [0, 1]; all arguments (P,) but `support`."""
    result = np.zeros(len(n_xq))
    for one in set(kind.tolist()):
        rows = np.flatnonzero(kind == one)
        n = n_xq[rows]
        total = n.sum()
        x, q = (np.unique(part[rows].astype(str), return_inverse=True)[1] for part in (trigger, query))
        n_x, n_q = np.bincount(x, n)[x], np.bincount(q, n)[q]
        surprise = -np.log(n / total)
        pmi = np.log(n * total / (n_x * n_q))
        share = np.divide(pmi, surprise, out=np.zeros_like(pmi), where=surprise > 0)
        result[rows] = np.maximum(0.0, share) * n / (n + support)
    return result


def _share(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    largest = array.max(initial=0.0)
    return array / largest if largest > 0 else array
