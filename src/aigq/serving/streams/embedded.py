"""SQLite in WAL mode: a log that several processes of one machine share.

All work runs in one thread of its own, since SQLite blocks; cursors are closed there, since one that ends in
another thread resets a statement that may be in use again by then (SQLITE_MISUSE under load).
`synchronous=NORMAL`: a killed process loses nothing, a power cut may lose the last transactions, and never
damages the file.
"""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Final, TypeVar

from aigq.serving.stores.store import Clock
from aigq.serving.streams.log import (
    FAR_S,
    PARTITIONS,
    Backlog,
    DeadLetter,
    Erased,
    LeaseLost,
    LogError,
    Message,
    Record,
    partition_of,
    share,
)

T = TypeVar("T")
_WAIT_S: Final = 30.0
_PAGE: Final = 1000
_AT_ONCE: Final = 100  # rows written by one statement
_BREATH_S: Final = 0.02  # between pages that are removed, for those who wait for the write lock
_STEP_S: Final = 1e-6  # an event was received so much after the one before, though a clock is behind
_SCHEMA: Final = """
create table if not exists events(
    seq integer primary key autoincrement, part integer not null, user text not null, body blob not null,
    received real not null);
create index if not exists events_by_part on events(part, seq);
create index if not exists events_by_user on events(user);
create index if not exists events_by_time on events(received);
create table if not exists workers(grp text, worker text, until real, primary key (grp, worker));
create table if not exists parts(
    grp text, part integer, done integer not null, worker text, until real not null, primary key (grp, part));
create table if not exists dead(user text, body blob, reason text, at real);
create index if not exists dead_by_user on dead(user);
"""


class SqliteLog:
    """One file (or `:memory:`).

    Args:
        path: made with its folder when missing.
        clock: seconds; tests give their own.
    """

    def __init__(self, path: str | Path, clock: Clock = time.time) -> None:
        self._path, self._clock = str(path), clock
        self._thread = ThreadPoolExecutor(1, "aigq-log")
        self._thread.submit(self._open).result()

    def _open(self) -> None:
        try:
            if self._path != ":memory:":
                Path(self._path).parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self._path, timeout=_WAIT_S, isolation_level=None)
            self._db.execute("pragma journal_mode=wal")
            self._db.execute("pragma synchronous=normal")
            self._db.execute("pragma secure_delete=on")  # an erased user is gone from the file too
            self._db.executescript(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise LogError(f"the log {self._path} cannot be opened: {error}") from error

    async def append(self, messages: Sequence[Message]) -> None:
        """See EventLog. One transaction."""
        now = self._clock()

        def work(db: sqlite3.Connection) -> None:
            rows, last = [], {part: _last(db, part, now) for part in {partition_of(m.user) for m in messages}}
            for user, body in messages:
                part = partition_of(user)
                last[part] = max(now, last[part] + _STEP_S)
                rows.append((part, user, body, last[part]))
            # many rows a statement: at the end of each one this thread waits for the event loop to let it on
            for start in range(0, len(rows), _AT_ONCE):
                some = rows[start : start + _AT_ONCE]
                places = ", ".join(["(?, ?, ?, ?)"] * len(some))
                values = list(chain.from_iterable(some))
                db.execute(f"insert into events(part, user, body, received) values {places}", values).close()

        await self._write(work)

    async def lease(self, group: str, worker: str, seconds: float) -> list[int]:
        """See EventLog."""
        now = self._clock()
        await self._write(lambda db: _lease(db, group, worker, now, now + seconds))
        return await self._held(group, worker, now)

    async def release(self, group: str, worker: str) -> None:
        """See EventLog."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("delete from workers where grp = ? and worker = ?", (group, worker))
            db.execute(
                "update parts set worker = null, until = 0 where grp = ? and worker = ?", (group, worker)
            )

        await self._write(work)

    async def read(
        self, group: str, partitions: Sequence[int], n: int, after: dict[int, str]
    ) -> list[Record]:
        """See EventLog."""

        def work(db: sqlite3.Connection) -> list[Record]:
            done = _done(db, group)
            found: list[Record] = []
            query = (
                "select seq, user, body, received from events where part = ? and seq > ? order by seq limit ?"
            )
            for part in partitions:
                start = int(after.get(part) or done.get(part, 0))
                rows = db.execute(query, (part, start, n)).fetchall()
                found += [Record(part, str(seq), user, body, received) for seq, user, body, received in rows]
            return found

        return await self._run(work)

    async def commit(self, group: str, worker: str, offsets: dict[int, str]) -> None:
        """See EventLog."""
        now = self._clock()
        update = (
            "update parts set done = max(done, ?) where grp = ? and part = ? and worker = ? and until > ?"
        )

        def work(db: sqlite3.Connection) -> None:
            for part, offset in offsets.items():
                if not db.execute(update, (int(offset), group, part, worker, now)).rowcount:
                    raise LeaseLost(f"partition {part} is not held by {worker} any more")

        await self._write(work)

    async def set_aside(self, record: Record, reason: str) -> None:
        """See EventLog."""
        row = (record.user, record.body, reason, self._clock())
        await self._write(lambda db: db.execute("insert into dead values (?, ?, ?, ?)", row).close())

    async def dead_letters(self, n: int) -> list[DeadLetter]:
        """See EventLog."""
        query = "select user, body, reason, at from dead order by rowid desc limit ?"
        return [DeadLetter(*row) for row in await self._run(lambda db: db.execute(query, (n,)).fetchall())]

    async def backlog(self, group: str) -> Backlog:
        """See EventLog."""
        rest = "from events where part = ? and seq > ?"

        def work(db: sqlite3.Connection) -> tuple[int, list[float]]:
            done = _done(db, group)
            starts = [(part, done.get(part, 0)) for part in range(PARTITIONS)]
            count = sum(db.execute(f"select count(*) {rest}", start).fetchone()[0] for start in starts)
            first = f"select received {rest} order by seq limit 1"
            return count, [at for start in starts for (at,) in db.execute(first, start).fetchall()]

        count, oldest = await self._run(work)
        return Backlog(count, max(0.0, self._clock() - min(oldest)) if oldest else 0.0)

    async def trim(self, older_than_s: float) -> int:
        """See EventLog. A page at a time, so that others can write in between."""
        before = self._clock() - older_than_s
        page = f"select seq from events where received < ? order by received limit {_PAGE}"
        delete = f"delete from events where seq in ({page})"
        await self._write(lambda db: db.execute("delete from dead where at < ?", (before,)).close())
        removed = 0
        while True:
            part = await self._write(lambda db: db.execute(delete, (before,)).rowcount)
            removed += part
            if part < _PAGE:
                return removed
            await asyncio.sleep(_BREATH_S)

    async def erase(self, user: str) -> Erased:
        """See EventLog."""

        def work(db: sqlite3.Connection) -> int:
            dead = db.execute("delete from dead where user = ?", (user,)).rowcount
            return dead + db.execute("delete from events where user = ?", (user,)).rowcount

        erased = await self._write(work)
        await self._run(lambda db: db.execute("pragma wal_checkpoint(truncate)").fetchall())
        return Erased(erased, kept=False)

    async def scrub(self) -> None:
        """See EventLog."""
        await self._run(lambda db: db.execute("vacuum"))
        await self._run(lambda db: db.execute("pragma wal_checkpoint(truncate)").fetchall())

    async def dump(self) -> AsyncIterator[Message]:
        """See EventLog. A page at a time, so that others can write in between."""
        for table in ("events", "dead"):
            last = 0
            while page := await self._page(table, last):
                last = page[-1][0]
                for _, user, body in page:
                    yield Message(user, body)

    async def close(self) -> None:
        """See EventLog."""
        await self._run(lambda db: db.close())
        self._thread.shutdown()

    async def _page(self, table: str, after: int) -> list[tuple[int, str, bytes]]:
        query = f"select rowid, user, body from {table} where rowid > ? order by rowid limit {_PAGE}"
        return await self._run(lambda db: db.execute(query, (after,)).fetchall())

    async def _held(self, group: str, worker: str, now: float) -> list[int]:
        query = "select part from parts where grp = ? and worker = ? and until > ? order by part"
        rows = await self._run(lambda db: db.execute(query, (group, worker, now)).fetchall())
        return [part for (part,) in rows]

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def transaction(db: sqlite3.Connection) -> T:
            db.execute("begin immediate")
            try:
                result = work(db)
            except BaseException:
                db.execute("rollback")
                raise
            db.execute("commit")
            return result

        return await self._run(transaction)

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def guarded() -> T:
            try:
                return work(self._db)
            except (sqlite3.Error, OSError) as error:
                raise LogError(f"the log {self._path} failed: {error}") from error

        return await asyncio.get_running_loop().run_in_executor(self._thread, guarded)


def _last(db: sqlite3.Connection, part: int, now: float) -> float:
    """When the last event of a partition was received; 0.0 without one, or if its clock was far ahead."""
    query = "select received from events where part = ? order by seq desc limit 1"
    found = db.execute(query, (part,)).fetchone()
    return float(found[0]) if found is not None and found[0] <= now + FAR_S else 0.0


def _done(db: sqlite3.Connection, group: str) -> dict[int, int]:
    """The last committed number, by partition."""
    return dict(db.execute("select part, done from parts where grp = ?", (group,)).fetchall())


def _lease(db: sqlite3.Connection, group: str, worker: str, now: float, until: float) -> None:
    """Keep at most a fair share of what is held, and take free partitions up to it."""
    far = now + FAR_S
    db.execute("delete from workers where grp = ? and (until <= ? or until > ?)", (group, now, far))
    db.execute("insert or replace into workers values (?, ?, ?)", (group, worker, until))
    rows = [(group, part) for part in range(PARTITIONS)]
    db.executemany("insert or ignore into parts values (?, ?, 0, null, 0)", rows)
    (workers,) = db.execute("select count(*) from workers where grp = ?", (group,)).fetchone()
    held = "select part from parts where grp = ? and worker = ? and until > ? order by part"
    mine = [part for (part,) in db.execute(held, (group, worker, now))]
    free = """
        select part from parts where grp = ? and (worker is null or until <= ? or (until > ? and worker <> ?))
        order by part"""
    others = [part for (part,) in db.execute(free, (group, now, far, worker))]
    for part in mine[share(workers) :]:
        db.execute("update parts set worker = null, until = 0 where grp = ? and part = ?", (group, part))
    for part in [*mine, *others][: share(workers)]:
        claim = "update parts set worker = ?, until = ? where grp = ? and part = ?"
        db.execute(claim, (worker, until, group, part))
