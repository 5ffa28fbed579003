"""LMDB: a memory-mapped file that several processes of one machine share. Reads take microseconds.

A value is 8 bytes of expiry (seconds since 1970, big-endian float) and the bytes themselves. Reads leave out
what has expired, `sweep` removes it. Reads run in the event loop, since they are faster than a change of
thread; writes wait for a lock that another process may hold, so they run in a thread.

A process that opens the file with a larger map may make it larger than the map of the others, who then map it
anew.
"""

import asyncio
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import lmdb

from aigq.serving.stores.store import Change, Clock, Entry, StoreError
from aigq.serving.tracing import traced

_EXPIRY: Final = struct.Struct(">d")
_SCAN_AT_ONCE: Final = 1000
_MAX_READERS: Final = 512
_WAIT_S: Final = 1.0  # for a write of this process, before the file is mapped anew
_ROOM: Final = 16 * 2**20  # bytes beyond the entries that writing anew may take
_FILLER: Final = b"aigq:filler:%09d"
T = TypeVar("T")


class LmdbStore:
    """A folder with data.mdb and lock.mdb.

    Args:
        path: the folder; made when missing.
        map_gb: the largest size of the file, in GiB. The file grows only as far as it is used.
        clock: seconds; tests give their own.
    """

    def __init__(self, path: str | Path, map_gb: float = 16.0, clock: Clock = time.time) -> None:
        self._path, self._clock, self._swept = Path(path), clock, b""
        self._map_size = int(map_gb * 2**30)
        self._env, self._writing = self._open(), threading.Lock()

    @traced("store.get")
    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """See Store."""
        now = self._clock()
        with self._errors(), self._reading() as txn:
            return [_unpack(txn.get(key.encode()), now) for key in keys]

    async def put(self, values: Mapping[str, bytes], ttl_s: float) -> None:
        """See Store. All values are one transaction."""
        expires = _EXPIRY.pack(self._clock() + ttl_s)

        def write(txn: Any) -> None:
            for key, value in values.items():
                txn.put(key.encode(), expires + value)

        await self._write(write)

    async def update(self, key: str, change: Change, ttl_s: float) -> bytes | None:
        """See Store. The write lock is held while `change` runs, so it runs once."""

        def write(txn: Any) -> bytes | None:
            now = self._clock()
            value = change(_unpack(txn.get(key.encode()), now))
            if value is None:
                txn.delete(key.encode())
            else:
                txn.put(key.encode(), _EXPIRY.pack(now + ttl_s) + value)
            return value

        return await self._write(write)

    async def delete(self, keys: Sequence[str]) -> int:
        """See Store."""

        def write(txn: Any) -> int:
            now = self._clock()
            values = [(txn.get(key.encode()), txn.delete(key.encode())) for key in dict.fromkeys(keys)]
            return sum(_unpack(value, now) is not None for value, _ in values)

        return await self._write(write)

    async def scan(self, prefix: str) -> AsyncIterator[Entry]:
        """See Store. Short transactions, so that a long scan does not keep old pages alive."""
        start, wanted = prefix.encode(), prefix.encode()
        while True:
            batch = self._batch(start, wanted)
            now = self._clock()
            for key, value in batch:
                expires = _expiry(value)
                if expires > now:
                    yield Entry(key.decode(), len(value) - _EXPIRY.size, expires - now)
            if len(batch) < _SCAN_AT_ONCE:
                return
            start = batch[-1][0] + b"\0"
            await asyncio.sleep(0)

    async def sweep(self, limit: int = 10_000) -> int:
        """See Store. The next call goes on where this one ended."""
        with self._errors():
            self._env.reader_check()  # forgets who was killed while reading, for whom old pages are kept

        def write(txn: Any) -> int:
            now, seen, expired = self._clock(), 0, []
            cursor = txn.cursor()
            if cursor.set_range(self._swept):
                for key, value in cursor:
                    if seen == limit:
                        break
                    seen += 1
                    self._swept = key + b"\0"
                    if _expiry(value) <= now:
                        expired.append(key)
            if seen < limit:
                self._swept = b""
            return sum(txn.delete(key) for key in expired)

        return await self._write(write)

    async def scrub(self) -> None:
        """See Store. All pages are written anew, then the free ones are overwritten.

        For a moment there are two of each entry, so the map is made large enough for that, and stays so.
        Removing a key leaves its bytes in free pages, in gaps of pages and as a separator in branch pages.
        Readers of other processes see the old or the new pages, and writers wait. In this process nothing
        else may use the store meanwhile.
        """

        def work() -> None:
            size = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
            self._map_size = max(self._map_size, 2 * size + _ROOM)
            self._env.close()  # its buffers hold old pages, whose rests would be written with new ones
            self._env = self._open()
            with self._errors():
                self._rewrite()
                self._overwrite_free_pages()

        await asyncio.to_thread(work)

    async def dump(self) -> AsyncIterator[tuple[bytes, bytes]]:
        """See Store."""
        start = b""
        while batch := self._batch(start, b""):
            for key, value in batch:
                yield key, value
            start = batch[-1][0] + b"\0"
            await asyncio.sleep(0)

    async def close(self) -> None:
        """See Store."""
        self._env.close()

    def _open(self) -> Any:
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            # metasync=False: a power cut may undo the last transaction, and never damages the file
            return lmdb.open(
                str(self._path), map_size=self._map_size, metasync=False, max_readers=_MAX_READERS
            )
        except (lmdb.Error, OSError) as error:
            raise StoreError(f"the store {self._path} cannot be opened: {error}") from error

    def _rewrite(self) -> None:
        """Every live entry into new pages, in one transaction; the old ones become free."""
        now = self._clock()
        with self._env.begin(write=True) as txn, self._env.begin() as before:
            txn.drop(self._env.open_db(), delete=False)
            for key, value in before.cursor():
                if _expiry(value) > now:
                    txn.put(key, value, append=True)

    def _overwrite_free_pages(self) -> None:
        """Put zeros until the file has to grow, which it does when no page is free, and remove them."""
        value, n = bytes(self._env.stat()["psize"] // 2 - 100), 0  # two in a page of their own
        grown = False
        while not grown:
            size = self._env.info()["last_pgno"]
            # what a transaction frees can be used by the second one after it, so begin with small ones
            end = n + (1 if n < 3 else _SCAN_AT_ONCE)
            try:
                with self._env.begin(write=True) as txn:
                    for number in range(n, end):
                        txn.put(_FILLER % number, value)
                grown = n >= 3 and self._env.info()["last_pgno"] > size
                n = end
            except lmdb.MapFullError:  # the file cannot grow, so no page is free any more
                grown = True
        with self._env.begin(write=True) as txn:
            for number in range(n):
                txn.delete(_FILLER % number)
        self._env.sync(True)

    def _batch(self, start: bytes, prefix: bytes) -> list[tuple[bytes, bytes]]:
        batch: list[tuple[bytes, bytes]] = []
        with self._errors(), self._reading() as txn, txn.cursor() as cursor:
            if cursor.set_range(start):
                for key, value in cursor:
                    if not key.startswith(prefix) or len(batch) == _SCAN_AT_ONCE:
                        break
                    batch.append((key, value))
        return batch

    async def _write(self, work: Callable[[Any], T]) -> T:
        def run() -> T:
            with self._writing, self._env.begin(write=True) as txn:
                return work(txn)

        with self._errors():
            try:
                return await asyncio.to_thread(run)
            except lmdb.MapResizedError:
                self._map_anew()
                return await asyncio.to_thread(run)

    def _reading(self) -> Any:
        try:
            return self._env.begin()
        except lmdb.MapResizedError:
            self._map_anew()
            return self._env.begin()

    def _map_anew(self) -> None:
        """Take the size that another process gave the map. No transaction of this process may be open.

        Called in the event loop, where all reads are, so none is open; a write has its lock.
        """
        if not self._writing.acquire(timeout=_WAIT_S):
            raise lmdb.MapResizedError("and a write of this process is under way")
        try:
            self._env.set_mapsize(0)
        finally:
            self._writing.release()

    def _errors(self) -> "_Errors":
        return _Errors(self._path)


class _Errors:
    """Turns LMDB's errors into StoreError; a class, since a generator's frame would cost more than a read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, lmdb.MapFullError):
            raise StoreError(
                f"the store {self._path} is full; open it with a larger ?map_gb=, or publish less"
            ) from error
        if isinstance(error, lmdb.Error | OSError):
            raise StoreError(f"the store {self._path} failed: {error}") from error


def _expiry(packed: bytes) -> float:
    """Of a value as it is stored; a value too short to hold one counts as expired."""
    return float(_EXPIRY.unpack_from(packed)[0]) if len(packed) >= _EXPIRY.size else 0.0


def _unpack(packed: bytes | None, now: float) -> bytes | None:
    return packed[_EXPIRY.size :] if packed is not None and _expiry(packed) > now else None
