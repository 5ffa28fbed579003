"""What training, the scorer and the service share of the CTR model, on arrays alone."""

import hashlib
from typing import NamedTuple

import numpy as np
from scipy.special import expit


class Calibration(NamedTuple):
    """sigmoid(slope * logit + intercept): temperature and base rate, fitted on validation days."""

    slope: float
    intercept: float

    @classmethod
    def fitted(cls, logit: np.ndarray, clicked: np.ndarray) -> "Calibration":
        """By maximum likelihood (Platt scaling); the order of the logits is kept.

        Args:
            logit: (P,).
            clicked: (P,) 0 or 1, both must occur.
        """
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=1e6).fit(np.asarray(logit, np.float64).reshape(-1, 1), clicked)
        return cls(max(float(model.coef_[0, 0]), 1e-3), float(model.intercept_[0]))

    def __call__(self, logit: np.ndarray) -> np.ndarray:
        """Probabilities of logits of any shape."""
        probability: np.ndarray = expit(self.slope * logit.astype(np.float64) + self.intercept)
        return probability


def pad(values: np.ndarray, starts: np.ndarray, fill: float = 0) -> np.ndarray:
    """Flat (P, ...) of M groups that begin at `starts` (M + 1,) -> (M, C, ...), C the largest group."""
    sizes = np.diff(starts)
    shape = (len(sizes), int(sizes.max(initial=0)), *values.shape[1:])
    if len(values) == shape[0] * shape[1]:  # nothing to fill
        return values.reshape(shape)
    padded = np.full(shape, fill, values.dtype)
    group = np.repeat(np.arange(len(sizes)), sizes)
    padded[group, np.arange(len(values)) - np.repeat(starts[:-1], sizes)] = values
    return padded


def hashed(text: str) -> int:
    """The name of a text in a table: 8 bytes of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
