"""The k-user rule inside vLLM: each request writes what its row may write, as under transformers.

Needs the engine in this process, as TRL colocates it: a request brings a function along, which is not copied.
Logits processors have the interface of vLLM's model runner V1, which is set here.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import torch
from vllm import LLM, SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from aigq.models.decoding import Row, keep_to_choices

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
    """Keeps the requests of `draw` to their rows; others are left alone."""

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


def draw(
    engine: LLM,
    prompts: Sequence[Sequence[int]],
    rows: Sequence[Callable[[], Row]],
    end: int,
    max_tokens: int,
    *,
    temperature: float,
    top_k: int,
) -> list[list[int]]:
    """The tokens written after each prompt, the end included.

    Args:
        engine: made by `engines_keep_to_rows`.
        prompts: token ids of each request.
        rows: what makes the row of each request.
        end: the end token's id.
        max_tokens: longest output.
        temperature: 0 is greedy; otherwise sampled from the top_k tokens.
    """
    settings = [
        SamplingParams(
            temperature=temperature,
            top_k=top_k,
            max_tokens=max_tokens,
            stop_token_ids=[end],
            detokenize=False,
            extra_args={_ROW: lambda row=row: row(), _END: end},  # what is no plain function would be copied
        )
        for row in rows
    ]
    requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
    outputs = engine.generate(requests, settings, use_tqdm=False)  # type: ignore[arg-type]
    return [list(output.outputs[0].token_ids) for output in outputs]


@contextmanager
def engines_keep_to_rows(module: Any) -> Iterator[None]:
    """Engines that `module` makes from its name `LLM` in the block know rows; TRL has no option for it."""
    os.environ |= {"VLLM_USE_V2_MODEL_RUNNER": "0", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    plain = module.LLM
    module.LLM = partial(plain, logits_processors=[RowLogits], async_scheduling=False)
    try:
        yield
    finally:
        module.LLM = plain


def _begin(params: SamplingParams, _prompt: list[int] | None, written: list[int]) -> _Request | None:
    extra = params.extra_args or {}
    return _Request(extra[_ROW](), extra[_END], written) if _ROW in extra else None
