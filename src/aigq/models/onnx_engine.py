"""Lists written by ONNX Runtime on the processor: each prompt writes what its row may write.

The graph is the one of onnxruntime-genai's builder: attention with rotary positions and cache is one operator
(GroupQueryAttention), where PyTorch calls some dozen. That operator reads prompts padded on the right and
appends to each where it ends.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import onnxruntime as ort
import torch
from transformers import TopKLogitsWarper

from aigq.errors import ConfigError
from aigq.models.decoding import Asked, keep_to_choices
from aigq.progress import note
from aigq.tables import contents

_BUILDER: Final = "onnxruntime_genai.models.builder"
_PAST: Final = "past_key_values"
_POSITIONS: Final = 8192
"""Positions that a graph knows at least. Rotary ones have no end in transformers, while a graph has a table
of them, and a list of queries that are younger than the vocabulary may be longer than the model's context."""


class OnnxWriter:
    """`aigq.models.decoding.Write` by ONNX Runtime, in float32, with as many threads as PyTorch takes.

    Args:
        folder: the model, a Hugging Face folder; its graph is kept in FOLDER/onnx.
        end: the end token's id.

    Raises:
        ConfigError: the weights are no safetensors, or the builder does not know the architecture.
    """

    def __init__(self, folder: Path, end: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        graph = exported(folder)
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        inputs = {i.name for i in self._session.get_inputs()}
        self._caches = sorted(name for name in inputs if name.startswith(_PAST))
        if others := inputs - {*self._caches, "input_ids", "attention_mask"}:
            raise ConfigError(
                f"decoding.engine=onnx: the model in {folder} also reads {', '.join(sorted(others))}, which "
                "is not known here; set decoding.engine=transformers"
            )
        decoder = json.loads((graph.parent / "genai_config.json").read_text())["model"]["decoder"]
        self._heads, self._head_size = decoder["num_key_value_heads"], decoder["head_size"]
        self._end = end

    def __call__(self, asked: Asked) -> list[list[int]]:
        """See `aigq.models.decoding.Write`; the prompts are one batch."""
        rows = [row() for row in asked.rows]
        written: list[list[int]] = [[] for _ in rows]
        lengths = np.array([len(prompt) for prompt in asked.prompts])
        width = int(lengths.max())
        ids = np.zeros((len(rows), width), np.int64)
        for i, prompt in enumerate(asked.prompts):
            ids[i, : len(prompt)] = prompt
        cache = self._cache(len(rows), width + asked.max_tokens)
        self._read(ids, lengths, cache)  # scores stand at the end of the longest only:
        tokens = ids[np.arange(len(rows)), lengths - 1]  # so the last tokens are read again, in their places
        for _ in range(asked.max_tokens):
            scores = torch.from_numpy(self._read(tokens[:, None], lengths, cache))
            tokens = _drawn(keep_to_choices(rows, self._end, scores), asked).numpy()
            lengths = lengths + 1
            for row, token, out in zip(rows, tokens.tolist(), written, strict=True):
                if not row.finished():
                    row.advance(token)
                    out.append(token)
            if all(row.finished() for row in rows):
                break
        return written

    def _cache(self, rows: int, tokens: int) -> dict[str, ort.OrtValue]:
        """Room for keys and values (B, heads, tokens, head size) of each layer."""
        shape = (rows, self._heads, tokens, self._head_size)
        return {n: ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32)) for n in self._caches}

    def _read(self, ids: np.ndarray, lengths: np.ndarray, cache: dict[str, ort.OrtValue]) -> np.ndarray:
        """Scores (B, V) after the last column of ids (B, S), where the rows have these lengths with them."""
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        binding = self._session.io_binding()
        # bound arrays are not copied: they have to stay until it ran
        binding.bind_cpu_input("input_ids", ids)
        binding.bind_cpu_input("attention_mask", mask)
        binding.bind_output("logits", "cpu")
        for name, values in cache.items():  # written where it is read
            binding.bind_ortvalue_input(name, values)
            binding.bind_ortvalue_output(name.replace(_PAST, "present"), values)
        self._session.run_with_iobinding(binding)
        scores: np.ndarray = binding.get_outputs()[0].numpy()
        return scores[:, -1]


def exported(folder: Path) -> Path:
    """FOLDER/onnx/NAME/model.onnx of the weights in the folder; made where it is missing, others removed.

    Raises:
        ConfigError: see `OnnxWriter`.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ConfigError(f"no safetensors in {folder}; weights of another form are not read")
    graphs = folder / "onnx"
    graph = graphs / f"{contents([*weights, folder / 'config.json'])}-{_POSITIONS}"
    if not graph.exists():
        graphs.mkdir(exist_ok=True)
        note(f"exporting {folder.name} to ONNX")
        with tempfile.TemporaryDirectory(prefix=".part-", dir=graphs) as part:
            made = _build(folder, Path(part))
            if not graph.exists():  # another worker may have been faster
                made.rename(graph)
        for older in set(graphs.glob("[!.]*")) - {graph}:
            shutil.rmtree(older)
    return graph / "model.onnx"


def _build(folder: Path, part: Path) -> Path:
    """The graph, in a folder within `part`."""
    model, graph = part / "model", part / "graph"
    model.mkdir()
    for file in folder.iterdir():
        if file.is_file() and file.name != "config.json":
            (model / file.name).symlink_to(file.resolve())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["max_position_embeddings"] = max(_POSITIONS, config.get("max_position_embeddings", 0))
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    # precision and processor; the head reads the last token of a prompt only; nothing is asked of a hub
    settings = ["-p", "fp32", "-e", "cpu", "-c", str(graph), "--extra_options", "prune_lm_head=true"]
    command = [sys.executable, "-m", _BUILDER, "-i", str(model), "-o", str(graph), *settings]
    offline = {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | offline, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        raise ConfigError(
            f"decoding.engine=onnx: {folder} cannot be exported ({said[-1]}); "
            "set decoding.engine=transformers"
        )
    return graph


def _drawn(scores: torch.Tensor, asked: Asked) -> torch.Tensor:
    """The next tokens (B,) by scores (B, V)."""
    if not asked.temperature:
        return scores.argmax(dim=-1)
    warped = TopKLogitsWarper(asked.top_k)(None, scores / asked.temperature)  # type: ignore[arg-type]
    return torch.multinomial(warped.softmax(dim=-1), 1)[:, 0]
