"""Lists written by vLLM: each request writes what its row may write, as under transformers.

Needs the engine in this process: a request brings a function along, which is not copied. Logits processors
have the interface of vLLM's model runner V1, which is set here, before vLLM is read.
"""

import os
from pathlib import Path
from typing import Any, Final

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, PreTrainedModel

from aigq.models import generator
from aigq.models.decoding import Asked, Row, keep_to_choices
from aigq.models.vocabulary import Vocabulary

os.environ |= {"VLLM_USE_V2_MODEL_RUNNER": "0", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}

from llvmlite.binding import ffi
from vllm import LLM, SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

# vLLM 0.31 on a processor asks whatever any module holds for its `__dict__`, and llvmlite, which numba brings
# along, takes that for the name of a function of its library
ffi.lib._fntab["__dict__"] = {}

_ROW: Final = "aigq_row"  # keys of SamplingParams.extra_args: what makes the row, and the end token's id
_END: Final = "aigq_end"


class _Request:
    """A row, and how far it has followed what the engine wrote for it.

    vLLM begins a request anew, with all that it has written, when it took its memory away for a while.
    """

    def __init__(self, row: Row, end: int, written: list[int]) -> None:
        self.end, self._row, self._written = end, row, written  # the engine appends to the list
        self._taken = 0

    def follow(self) -> Row:
        """The row after everything written so far."""
        for token in self._written[self._taken :]:
            if not self._row.finished():
                self._row.advance(token)
        self._taken = len(self._written)
        return self._row


class RowLogits(LogitsProcessor):
    """Keeps the requests of `VllmWriter` to their rows; others are left alone."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._requests: dict[int, _Request] = {}  # place in the batch -> request

    def is_argmax_invariant(self) -> bool:
        """It changes what is written greedily as well."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Requests came, left or moved to another place of the batch."""
        process_dict_updates(self._requests, batch_update, _begin)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (B, V) with minus infinity for every token that a request's row may not take."""
        if self._requests:
            places = torch.tensor(list(self._requests), device=logits.device)
            rows = [request.follow() for request in self._requests.values()]
            end = next(iter(self._requests.values())).end
            logits[places] = keep_to_choices(rows, end, logits[places])
        return logits


class VllmWriter:
    """`aigq.models.decoding.Write` by vLLM, in the precision that the weights were saved in.

    Args:
        folder: the model, a Hugging Face folder.
        end: the end token's id.
        options: further arguments of `vllm.LLM`.
    """

    def __init__(self, folder: Path, end: int, options: dict[str, Any]) -> None:
        saved = AutoConfig.from_pretrained(folder).dtype
        dtype = str(saved or torch.float32).removeprefix("torch.")
        given = {"dtype": dtype, "disable_log_stats": True, **options}
        self.engine = LLM(str(folder), logits_processors=[RowLogits], async_scheduling=False, **given)
        self._end = end
        self._context = int(self.engine.model_config.max_model_len)

    def __call__(self, asked: Asked) -> list[list[int]]:
        """See `aigq.models.decoding.Write`."""
        written = self.written(asked)
        return [out[: out.index(self._end)] if self._end in out else out for out in written]

    def written(self, asked: Asked) -> list[list[int]]:
        """The tokens after each prompt, the end among them; as many at once as fit the GPU."""
        settings = [
            SamplingParams(
                temperature=asked.temperature,
                top_k=asked.top_k,
                max_tokens=min(asked.max_tokens, self._context - len(prompt)),
                stop_token_ids=[self._end],
                detokenize=False,
                # a lambda, as what is no plain function would be copied
                extra_args={_ROW: lambda row=row: row(), _END: self._end},
            )
            for prompt, row in zip(asked.prompts, asked.rows, strict=True)
        ]
        requests = [{"prompt_token_ids": list(prompt)} for prompt in asked.prompts]
        outputs = self.engine.generate(requests, settings, use_tqdm=False)  # type: ignore[arg-type]
        return [list(output.outputs[0].token_ids) for output in outputs]

    def take(self, model: PreTrainedModel) -> None:
        """Write with these weights from now on; what was computed with others is forgotten."""
        weights = generator.merged(model).state_dict()
        self.engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights.items())})
        self.engine.reset_prefix_cache()


class VllmRollouts:
    """`aigq.models.decoding.DrawGroups` by vLLM, which takes the policy's weights over at each call.

    Draws from torch's random numbers, as transformers does: the same seed and weights, the same rollouts.
    The rollouts of a group share the keys and values of their prompt in the engine's prefix cache.
    """

    def __init__(self, folder: Path, end: int, options: dict[str, Any]) -> None:
        self._writer = VllmWriter(folder, end, options)

    def __call__(
        self, model: PreTrainedModel, vocabulary: Vocabulary, asked: Asked, group: int
    ) -> torch.Tensor:
        """See `aigq.models.decoding.DrawGroups`."""
        self._writer.take(model)
        outputs = [torch.tensor(out, dtype=torch.long) for out in self._writer.written(asked)]
        tokens = pad_sequence(outputs, batch_first=True, padding_value=vocabulary.pad)  # (P*G, T)
        return tokens.view(-1, group, tokens.shape[1])


def _begin(params: SamplingParams, _prompt: list[int] | None, written: list[int]) -> _Request | None:
    extra = params.extra_args or {}
    return _Request(extra[_ROW](), extra[_END], written) if _ROW in extra else None
