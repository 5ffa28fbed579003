"""The CTR model for requests that wait at the same time: one run of the network for all of them.

For a few it runs in the event loop, since a change of threads costs as much as their network. For many it
runs in a thread that needs no Python, while the event loop reads stores and makes features for the others.
With one batch at a time, requests that were answered together would come together again, and the loop and the
network would wait for each other.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, NamedTuple

from aigq.serving.stores.store import Clock

if TYPE_CHECKING:
    from aigq.serving.click_model import ClickModel, Reader

AT_ONCE: Final = 16
FEW: Final = 8
_BATCHES: Final = 2  # at a time


class _Waiting(NamedTuple):
    model: "ClickModel"
    reader: "Reader"
    queries: Sequence[str]
    answer: "asyncio.Future[list[float]]"


class ClickBatches:
    """Collects what requests ask for.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, "aigq-clicks")
        self._work = set[asyncio.Task[None]]()

    async def score(self, model: "ClickModel", reader: "Reader", queries: Sequence[str]) -> list[float]:
        """p_hat of each query for one shopper; raises what the model raises."""
        loop = asyncio.get_running_loop()
        waits = _Waiting(model, reader, queries, loop.create_future())
        self._waiting.append(waits)
        if len(self._work) < _BATCHES:
            work = loop.create_task(self._run())
            self._work.add(work)
            work.add_done_callback(self._work.discard)
        return await waits.answer

    async def _run(self) -> None:
        while batch := self._next():
            try:
                await self._answer(batch)
            except Exception as error:  # goes to those who asked, and each of them does without
                for waits in batch:
                    if not waits.answer.done():
                        waits.answer.set_exception(error)

    def _next(self) -> list[_Waiting]:
        """The requests that wait longest, of one model; those that gave up are dropped."""
        batch: list[_Waiting] = []
        while self._waiting and len(batch) < AT_ONCE:
            if batch and self._waiting[0].model is not batch[0].model:
                break  # a new version was switched on in between
            waits = self._waiting.popleft()
            if not waits.answer.done():
                batch.append(waits)
        return batch

    async def _answer(self, batch: Sequence[_Waiting]) -> None:
        model, now = batch[0].model, self._clock()
        asked = [model.asked(waits.reader, waits.queries, now) for waits in batch]
        feed = model.feed(asked)
        if len(batch) <= FEW:
            logits = model.run(feed)
        else:
            logits = await asyncio.get_running_loop().run_in_executor(self._thread, model.run, feed)
        for waits, row in zip(batch, model.lists(logits, asked), strict=True):
            if not waits.answer.done():
                waits.answer.set_result(row.tolist())
