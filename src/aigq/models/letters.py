"""How alike two queries are written."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from rapidfuzz import fuzz, process

_RATIOS: Final = (fuzz.token_set_ratio, fuzz.ratio)


def letters(latest: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """(P, 2): rapidfuzz ratios of the texts with the latest queries, 0 where that is empty."""
    result = np.empty((len(texts), 2), np.float32)
    for column, scorer in enumerate(_RATIOS):
        result[:, column] = process.cpdist(latest, texts, scorer=scorer)
    result[[not spoken for spoken in latest]] = 0
    return result
