"""Rewards of IL-GRPO: numbers for a query and for a whole list. Paper section 3.4; method.md section 5.

R_query(q_ij) = sum_m w_m r_m(q_ij)      m: CTR, ROUGE-L with the j-th reference, length
R_seq(o_i)    = R_format(o_i) + R_repeat(o_i)
r_CTR(q)      = clip(gamma p_hat(q|u), 0, beta)
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from rapidfuzz import fuzz
from rapidfuzz.distance import LCSseq

from aigq.errors import StageError

CTR_QUANTILE: Final = 0.95
"""This quantile of the predicted click probabilities is mapped to the full CTR reward."""

NEAR_DUPLICATE: Final = 90.0
"""Letters in common, in percent, from which on two queries of a list say the same."""


def ctr_gain(probabilities: np.ndarray, beta: float) -> float:
    """gamma: maps the 95th percentile of p_hat on training moments to beta. method.md section 5.

    Raises:
        StageError: the percentile is zero, so that no probability tells queries apart.
    """
    at = float(np.quantile(probabilities, CTR_QUANTILE)) if len(probabilities) else 0.0
    if not at > 0:
        raise StageError(
            f"the 95th percentile of the ranker's click probabilities is {at}: nothing to scale. "
            "Train the CTR model on a log with more clicks, set grpo.ctr_bound=mean or lower ctr.bound_z"
        )
    return beta / at


def ctr_reward(probability: np.ndarray, gamma: float, beta: float) -> np.ndarray:
    """r_CTR = clip(gamma p_hat, 0, beta), of any shape."""
    return np.clip(gamma * probability, 0.0, beta)


def words(text: str) -> list[str]:
    """Units of ROUGE: words, and single characters where a script writes no spaces."""
    units: list[str] = []
    for word in text.split():
        units += list(word) if any(map(_unspaced, word)) else [word]
    return units


def _unspaced(character: str) -> bool:
    return "\u2e80" <= character <= "\u9fff" or "\uac00" <= character <= "\ud7ff"


def rouge_l(written: Sequence[object], reference: Sequence[object]) -> float:
    """ROUGE-L F1 over two sequences: harmonic mean of LCS/len(written) and LCS/len(reference)."""
    if not written or not reference:
        return 0.0
    return 2.0 * LCSseq.similarity(written, reference) / (len(written) + len(reference))


def query_rouge(query: str, reference: str) -> float:
    """ROUGE-L F1 between a generated query and its reference."""
    return rouge_l(words(query), words(reference))


def trigger_reward(written: Sequence[int], reference: Sequence[int]) -> float:
    """r_trigger of Think: ROUGE-L F over behaviour indices."""
    return rouge_l(written, reference)


def length_reward(query: str, shortest: int, longest: int) -> float:
    """1 from `shortest` to `longest` characters, else the ratio to the nearer: no truncation, no bloat."""
    n = len(query)
    return 0.0 if n == 0 else min(1.0, n / shortest, longest / n)


def format_reward(queries: Sequence[str], slots: int, faults: int = 0) -> float:
    """The share of the K slots that hold a finished query that is not empty, over 1 + faults.

    Args:
        faults: of Think, how often the output leaves the grammar.
    """
    return sum(bool(query) for query in queries[:slots]) / slots / (1 + faults)


def repeat_reward(queries: Sequence[str]) -> float:
    """Minus the share of queries that repeat, or nearly repeat, an earlier one of the list."""
    if not queries:
        return 0.0
    repeats = 0
    for j, query in enumerate(queries):
        repeats += any(fuzz.ratio(query, earlier) >= NEAR_DUPLICATE for earlier in queries[:j])
    return -repeats / len(queries)


def match_by_set(similarity: np.ndarray) -> np.ndarray:
    """For each generated query, the reference it is compared with, by the best one-to-one assignment.

    Args:
        similarity: (K, M) of generated queries and references.

    Returns:
        (K,) index of the reference, -1 for a query that is left without one.
    """
    from scipy.optimize import linear_sum_assignment

    matched = np.full(similarity.shape[0], -1)
    rows, columns = linear_sum_assignment(similarity, maximize=True)
    matched[rows] = columns
    return matched
