"""The row `ctr`: the ranker's candidates in the order of the CTR model."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aigq.errors import StageError
from aigq.prepared import Moment, Prepared
from aigq.recall.channel import Hint
from aigq.recall.ctr_scorer import ClickModel


class Ctr:
    """Own, popular and similar queries by their click probability.

    Args:
        run: the run folder in which `aigq train ctr` has finished.
    """

    name = "ctr"

    def __init__(self, run: Path) -> None:
        self._run = run
        self._model: ClickModel | None = None

    def fit(self, prepared: Prepared) -> None:
        """Load the trained model. Raises StageError when there is none."""
        self._model = ClickModel.load(self._run, prepared)

    def recommend(self, moments: Sequence[Moment], n: int) -> list[list[Hint]]:
        """The n candidates most likely to be clicked; scores are probabilities."""
        if self._model is None:
            raise StageError("ctr: recommend() before fit()")
        lists = []
        for queries, probability in self._model.candidates(moments):
            best = np.argsort(-probability, kind="stable")[: max(0, n)]
            lists.append([Hint(queries[i], float(probability[i]), "likely to be clicked") for i in best])
        return lists
