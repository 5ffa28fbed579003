"""Shoppers who ask a real server all the time, each over a connection of their own."""

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
    """What came back; `at` is when it was asked for, in monotonic seconds."""

    at: float
    seconds: float
    status: int
    hints: list[dict]  # only of status 200

    @property
    def channels(self):
        return {hint["channel"] for hint in self.hints}


class Load:
    """The answers so far, and connections that broke."""

    def __init__(self):
        self.answers: list[Answer] = []
        self.errors: list[str] = []

    def since(self, at, until=float("inf")):
        return [answer for answer in self.answers if at <= answer.at < until]


def get(path):
    return f"GET {path} HTTP/1.1\r\nhost: shop\r\n\r\n".encode()


def post(path, body):
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: shop\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


@contextlib.contextmanager
def load(client, n: int, request: Callable[[int], bytes], per_second: float | None = None) -> Iterator[Load]:
    """So many shoppers until the block ends.

    Args:
        client: an httpx client of the server, for its address.
        n: shoppers.
        request: what a shopper asks, by number.
        per_second: requests of one shopper; None: the next as soon as the last is answered.
    """
    found, stop = Load(), threading.Event()
    address = client.base_url.host, client.base_url.port

    async def everybody():
        await asyncio.gather(*(_shop(address, request(i), per_second, found, stop) for i in range(n)))

    thread = threading.Thread(target=lambda: asyncio.run(everybody()))
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


async def _shop(address, request, per_second, found, stop):
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
