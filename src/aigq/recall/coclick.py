"""Item-kNN over queries: issued by the same users, leading to the same items."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from aigq.errors import StageError
from aigq.prepared import CausalCounts, Moment, Prepared
from aigq.recall.channel import Hint
from aigq.recall.histories import CELLS_AT_ONCE, Servable, batches, best_columns, codes_in, entries_of


class CoClick:
    """Neighbours of the shopper's own queries.

    The similarity of two queries is the dot product of their user vectors (users damped by how much they
    issue), divided by the first one's norm, plus the same on their item vectors, each part scaled to a
    largest value of 1. Not divided by the second one's norm as well, as the cosine is, it favours popular
    neighbours: best on validation days. A shopper's score for a query is the sum of the similarities to her
    own queries, weighted by their decayed frequency.

    Args:
        neighbours: kept per query.
        half_life_days: decay of the shopper's own behaviours at request time.
        k_users: distinct users that must have issued a query before it is shown.
        self_weight: similarity of a query to itself, where the strongest neighbour has 1; 0 gives own queries
            no bonus. At 100 own queries lead and neighbours fill the list: best on validation days.
    """

    name = "coclick"

    def __init__(
        self, neighbours: int, half_life_days: float, k_users: int, self_weight: float = 100.0
    ) -> None:
        self._neighbours, self._half_life, self._k = neighbours, half_life_days, k_users
        self._self_weight = self_weight
        self._counts: CausalCounts | None = None
        self._similar = sparse.csr_matrix((0, 0), dtype=np.float32)
        self._query_of_item: dict[str, str] = {}

    def fit(self, prepared: Prepared) -> None:
        """Count who issued what and which query led to which item, in the training rows."""
        self._counts = CausalCounts(prepared.query_days, None)
        vocabulary = self._counts.queries
        rows = prepared.training_rows()
        kept = similarities(rows, vocabulary, self._neighbours)
        itself = self._self_weight * sparse.eye(len(vocabulary), format="csr")
        self._similar = (kept + itself).astype(np.float32)
        shared = prepared.shared_queries(self._k)["query"]  # an item's query is named to whoever buys it
        self._query_of_item = _main_query(rows.filter(pc.is_in(rows["query"], value_set=shared)))

    def recommend(self, moments: Sequence[Moment], n: int) -> list[list[Hint]]:
        """At most n neighbours per moment; nothing for an empty history."""
        if self._counts is None:
            raise StageError("coclick: recommend() before fit()")
        vocabulary, lists = self._counts.queries, list[list[Hint]]()
        for _, batch in batches(moments, min(4096, CELLS_AT_ONCE // max(1, len(vocabulary)))):
            entries = entries_of(batch, vocabulary, self._half_life, self._query_of_item)
            history = sparse.csr_matrix(
                (entries.weight, (entries.moment, entries.query)),
                shape=(len(batch), len(vocabulary)),
            )
            masks, row = Servable(self._counts, self._k).mask([m.day for m in batch])
            scores = (history @ self._similar).toarray() * masks[row]
            for position, best in enumerate(best_columns(scores, n)):
                because = self._because(history[position], best)
                lists.append(
                    [
                        Hint(str(vocabulary[column]), float(scores[position, column]), f"goes with {source}")
                        for column, source in zip(best, because, strict=True)
                    ]
                )
        return lists

    def _because(self, own: sparse.csr_matrix, columns: np.ndarray) -> list[str]:
        """For each proposed column (n,) the shopper's own query that contributed most."""
        assert self._counts is not None
        if len(columns) == 0:
            return []
        shares = self._similar[own.indices][:, columns].toarray() * own.data[:, None]
        return [str(q) for q in self._counts.queries[own.indices[np.argmax(shares, axis=0)]]]


def similarities(rows: pa.Table, vocabulary: np.ndarray, neighbours: int) -> sparse.csr_matrix:
    """The strongest similarities (Q, Q) of the queries of behaviours, as `CoClick` describes them."""
    rows = rows.filter(pc.is_valid(rows["query"]))
    query = codes_in(rows["query"], vocabulary)
    by_user = _incidence(rows["user_id"], query, len(vocabulary))
    by_item = _incidence(rows["item_id"], query, len(vocabulary))
    similar = _similarity(by_user) + _similarity(by_item)
    return strongest(similar.tocsr(), neighbours)


def _incidence(owners: pa.ChunkedArray, query: np.ndarray, size: int) -> sparse.csr_matrix:
    """Log counts (owners, Q); rows without an owner are left out, owners are damped by 1 / sqrt(distinct)."""
    valid = pc.is_valid(owners).to_numpy() & (query >= 0)
    encoded = pc.fill_null(owners, "").combine_chunks().dictionary_encode()
    codes, n_owners = encoded.indices.to_numpy(zero_copy_only=False), len(encoded.dictionary)
    ones = np.ones(int(valid.sum()), dtype=np.float32)
    matrix = sparse.csr_matrix((ones, (codes[valid], query[valid])), shape=(n_owners, size))
    matrix.sum_duplicates()
    distinct = np.maximum(np.diff(matrix.indptr), 1)
    matrix.data = np.log1p(matrix.data)
    return sparse.diags(1.0 / np.sqrt(distinct)) @ matrix


def _similarity(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """Similarities (Q, Q) of the columns of an incidence (owners, Q); the diagonal is empty."""
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=0)).ravel())
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    products = (sparse.diags(inverse) @ (matrix.T @ matrix)).tocsr()
    products.setdiag(0.0)
    products.eliminate_zeros()
    return products / max(float(products.max()), 1e-12) if products.nnz else products


def strongest(similar: sparse.csr_matrix, n: int) -> sparse.csr_matrix:
    """The n largest values of each row, ties by column."""
    rows = np.repeat(np.arange(similar.shape[0]), np.diff(similar.indptr))
    order = np.lexsort((similar.indices, -similar.data, rows))
    rank = np.arange(len(order)) - similar.indptr[rows]
    keep = order[rank < n]
    return sparse.csr_matrix((similar.data[keep], (rows[keep], similar.indices[keep])), shape=similar.shape)


def _main_query(rows: pa.Table) -> dict[str, str]:
    """Item -> the query that most often led to it, ties by query."""
    rows = rows.filter(pc.is_valid(rows["item_id"]))
    counts = rows.group_by(["item_id", "query"]).aggregate([([], "count_all")])
    counts = counts.sort_by([("count_all", "ascending"), ("query", "descending")])
    return dict(zip(counts["item_id"].to_pylist(), counts["query"].to_pylist(), strict=True))
