"""Work that goes on beside the requests for as long as a process lives."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from aigq.serving.stores import StoreError
from aigq.serving.streams import LogError

_AWAY_S: Final = 1.0


async def repeat(work: Callable[[], Awaitable[object]], every_s: float, logger: logging.Logger) -> None:
    """Do `work` every so many seconds until cancelled. What fails is logged and tried again.

    A store or log that is away is named once, until it is back; then the pause is a second at least.
    """
    said, task = "", asyncio.current_task()
    while True:
        pause = every_s
        try:
            await work()
            said = ""
        except Exception as error:
            pause = max(every_s, _AWAY_S)
            if not isinstance(error, StoreError | LogError):
                logger.exception("background work failed; trying again")
            elif str(error) != said:
                said = str(error)
                logger.warning("%s; trying again", said)
        if task is not None and task.cancelling():
            return  # what it waited for swallowed the cancellation, as asyncio.wait_for of Python 3.11 may
        await asyncio.sleep(pause)
