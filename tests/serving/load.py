"""Shoppers who ask a real server for hints all the time, each over a connection of their own."""

import asyncio
import contextlib
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class Answer(NamedTuple):
    """What came back, when (monotonic seconds), and how long it took. `hints` is empty unless status is 200."""

    at: float
    seconds: float
    status: int
    hints: list[dict]

    @property
    def channels(self):
        return {hint["channel"] for hint in self.hints}


class Load:
    """The answers so far; a connection that breaks is an error, and is opened again."""

    def __init__(self):
        self.answers: list[Answer] = []
        self.errors: list[str] = []

    def since(self, at, until=float("inf")):
        return [answer for answer in self.answers if at <= answer.at < until]


@contextlib.contextmanager
def load(client, clients: int, path: Callable[[int], str], per_second: float | None = None) -> Iterator[Load]:
    """So many shoppers until the block ends.

    Args:
        client: an httpx client of the server, for its address.
        clients: connections.
        path: of a shopper's number, what is asked.
        per_second: requests of one shopper; None: the next as soon as the last is answered.
    """
    found, stop = Load(), threading.Event()
    address = client.base_url.host, client.base_url.port

    async def all_of_them():
        tasks = [asyncio.ensure_future(_shopper(address, path(n), per_second, found, stop)) for n in range(clients)]
        await asyncio.gather(*tasks)

    thread = threading.Thread(target=lambda: asyncio.run(all_of_them()))
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


async def _shopper(address, path, per_second, found, stop):
    request = f"GET {path} HTTP/1.1\r\nhost: {address[0]}\r\n\r\n".encode()
    begun, streams = time.monotonic(), None
    for number in itertools.count():
        if per_second is not None:
            await asyncio.sleep(max(0.0, begun + number / per_second - time.monotonic()))
        if stop.is_set():
            break
        start = time.monotonic()
        try:
            streams = streams or await asyncio.open_connection(*address)
            status, body = await _asked(*streams, request)
        except (OSError, asyncio.IncompleteReadError) as error:
            found.errors.append(repr(error))
            streams = None
            await asyncio.sleep(0.05)
            continue
        hints = json.loads(body)["hints"] if status == 200 else []
        found.answers.append(Answer(start, time.monotonic() - start, status, hints))
    if streams is not None:
        streams[1].close()


async def _asked(reader, writer, request):
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head[9:12]), await reader.readexactly(int(_LENGTH.search(head)[1]))


def percentile(answers, share):
    """Seconds within which that share of the answers came."""
    ordered = sorted(answer.seconds for answer in answers)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
