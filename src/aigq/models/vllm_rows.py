"""The k-user rule inside vLLM: each request writes what its row may write, as under transformers.

Needs the engine in this process, as TRL colocates it: a request brings a function along, which is not copied.
"""

from typing import Any, Final

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from aigq.models.decoding import Row, keep_to_choices

ROW: Final = "aigq_row"
"""Key of `SamplingParams.extra_args`: a function without arguments that makes the request's row."""

END: Final = "aigq_end"
"""Key of `SamplingParams.extra_args`: the token id of the end."""


class _Request:
    """A row, and how far it has followed what the engine wrote for it.

    vLLM begins a request anew, with all that it has written, when it took its memory away for a while.
    """

    def __init__(self, row: Row, end: int, written: list[int]) -> None:
        self.row, self.end, self._written = row, end, written  # the engine appends to the list
        self._taken = 0

    def follow(self) -> Row:
        """The row after everything written so far."""
        for token in self._written[self._taken :]:
            if not self.row.finished():
                self.row.advance(token)
        self._taken = len(self._written)
        return self.row


class RowLogits(LogitsProcessor):
    """For `LLM(logits_processors=[RowLogits])`; requests without `ROW` are left alone."""

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


def _begin(params: SamplingParams, _prompt: list[int] | None, written: list[int]) -> _Request | None:
    extra = params.extra_args or {}
    return _Request(extra[ROW](), extra[END], written) if ROW in extra else None
