import numpy as np
import pyarrow as pa
import pytest

from aigq.recall.similar import PENALTY, Similarities, regression
from aigq.tables import BEHAVIOURS


def rows(*issued: tuple[str, str]) -> pa.Table:
    made = [
        dict(user_id=user, ts=0, day=0, session=0, action="search", text=query, query=query)
        for user, query in issued
    ]
    return pa.Table.from_pylist(made, schema=BEHAVIOURS)


VOCABULARY = np.array(["a", "b", "c", "d"])


def test_regression_by_hand() -> None:
    """P = [[m, -g], [-g, n]] / det, so the weight of a for b is g / m, with m, n, g of X'X + penalty I."""
    log = rows(("u", "a"), ("u", "b"), ("v", "a"), ("v", "b"), ("v", "b"), ("w", "b"), ("x", "unknown"))
    weights = regression(log, VOCABULARY[:2], 10).toarray()
    a, b, both = 2 + PENALTY, 3 + PENALTY, 2
    np.testing.assert_allclose(weights, [[0, both / a], [both / b, 0]], rtol=1e-9)


def test_regression_keeps_the_strongest_and_no_negative_weight() -> None:
    log = rows(*[(f"u{i}", q) for i in range(9) for q in ("ab" if i % 3 else "acd")])
    everything, best = regression(log, VOCABULARY, 10), regression(log, VOCABULARY, 1)
    assert everything.min() >= 0
    assert np.diff(best.indptr).max() == 1
    assert best[2, 3] == everything[2, 3] > 0
    assert regression(log.slice(0, 0), VOCABULARY, 10).nnz == 0


def test_every_query_of_a_history_counts_once_in_a_regression() -> None:
    from scipy import sparse

    log = rows(("u", "a"), ("u", "b"), ("v", "a"), ("v", "b"))
    after, often = np.array([5]), sparse.csr_matrix([[3.0, 0, 0, 0]])
    regressed = Similarities(log, VOCABULARY, 10, regression=True)
    assert regressed.to_history(after, often)[0, 1] == pytest.approx(regressed.all[0, 1])
    together = Similarities(log, VOCABULARY, 10)
    assert together.to_history(after, often)[0, 1] == pytest.approx(3 * together.all[0, 1])
