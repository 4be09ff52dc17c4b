"""Disks: the real SQLite store in memory, with what a power cut takes; and a client's outbox that survives it."""

from __future__ import annotations

import asyncio
import functools
import random
import sqlite3
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from evertalk.adapters.sqlite_schema import prepare
from evertalk.adapters.sqlite_store import SqliteStore
from evertalk.adapters.sqlite_write import Writer
from evertalk.adapters.wire import decode_event
from evertalk.core.errors import StoreError
from evertalk.core.sending import Changes, Copy, Saved
from evertalk.core.vector import Vector
from evertalk.ports import Ids
from evertalk.sim.process import Process

T = TypeVar("T")

_PRAGMAS = (
    "PRAGMA journal_mode = MEMORY",
    "PRAGMA synchronous = OFF",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA secure_delete = ON",
)
_WRITE_S = 0.0004
_KEPT_SHARE = 0.05  # of commits that a power cut may happen to leave


@functools.cache
def _template(shards: int) -> bytes:
    """An empty store of this many shards, without a life."""
    db = _open(b"")
    prepare(db, Path("template"), shards, lambda: "")
    db.execute("DELETE FROM meta")
    image = db.serialize()
    db.close()
    return image


def _open(image: bytes) -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None, cached_statements=256)
    if image:
        db.deserialize(image)
    for pragma in _PRAGMAS:
        db.execute(pragma)
    return db


class Disk:
    """One node's. A killed process leaves every commit; a power cut some state since the last checkpoint."""

    def __init__(self, shards: int, rng: random.Random) -> None:
        self.shards, self.rng = shards, rng
        self.in_use = False  # opened, and not closed in order since
        self.db = _open(_template(shards))
        self._synced = self.db.serialize()
        self._later = b""

    def committed(self) -> None:
        """Something was committed, and may or may not have reached the disk."""
        if self.rng.random() < _KEPT_SHARE:
            self._later = self.db.serialize()

    def checkpointed(self) -> None:
        """Everything has reached the disk."""
        self._synced, self._later = self.db.serialize(), b""

    def lose_power(self) -> None:
        """Back to what had reached the disk."""
        image = self.rng.choice([self._synced, self._later or self._synced, b""])
        if image:
            self._replace(image)
        self.checkpointed()

    def wipe(self) -> None:
        """The file is gone."""
        self._replace(_template(self.shards))
        self.checkpointed()

    def _replace(self, image: bytes) -> None:
        self.db.close()
        self.db = _open(image)


class DiskRunner:
    """A Runner: calls in order, each done even if its caller was cancelled, unless the process is dead."""

    def __init__(self, process: Process, disk: Disk, writes: bool = False) -> None:
        self._process, self._disk, self._writes = process, disk, writes
        self._queue: deque[tuple[Callable[[sqlite3.Connection], Any], asyncio.Future[Any]]] = deque()

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._process.step()
        loop = self._process.loop
        done: asyncio.Future[T] = loop.create_future()
        self._queue.append((work, done))
        if len(self._queue) == 1:
            loop.call_later(_WRITE_S * self._disk.rng.random(), self._next)
        found = await done
        self._process.step()
        return found

    run_short = run

    def _next(self) -> None:
        if not self._process.alive:
            return
        work, done = self._queue.popleft()
        try:
            found = work(self._disk.db)
        except sqlite3.Error as error:
            if not done.done():
                done.set_exception(StoreError(f"the store failed: {error}"))
        except (StoreError, ValueError) as error:
            if not done.done():
                done.set_exception(error)
        else:
            if self._writes:
                self._disk.committed()
            if not done.done():
                done.set_result(found)
        if self._queue:
            self._process.loop.call_later(_WRITE_S * self._disk.rng.random(), self._next)


class SimStore(SqliteStore):
    """The store on a simulated disk. Use `start`."""

    _disk: Disk

    @classmethod
    async def start(cls, process: Process, disk: Disk, ids: Ids) -> SimStore:
        """Open what is on the disk."""
        writer = DiskRunner(process, disk, writes=True)

        def open_file(db: sqlite3.Connection) -> None:
            prepare(db, Path(process.name), disk.shards, ids.ulid, suspect=disk.in_use)
            disk.in_use = True

        await writer.run(open_file)
        writing = await writer.run(Writer)
        readers = (DiskRunner(process, disk), DiskRunner(process, disk))
        store = cls(AsyncExitStack(), writer, writing, readers, disk.shards)
        store._disk = disk
        return store

    async def checkpoint(self) -> Vector:
        def whole(db: sqlite3.Connection) -> Vector:
            vector = self._writing.checkpoint()
            self._disk.checkpointed()
            return vector

        return await self._writer.run(whole)

    async def close(self) -> None:
        def whole(db: sqlite3.Connection) -> None:
            self._disk.checkpointed()
            self._disk.in_use = False

        await self._writer.run(whole)


class SimOutbox:
    """A durable outbox and token of one client (`client.journal.OutboxStore`), kept by whoever starts it again."""

    def __init__(self) -> None:
        self._events: dict[int, bytes] = {}
        self._copies: dict[int, tuple[Copy, ...]] = {}
        self._token = b""
        self.process: Process | None = None

    def ids(self) -> set[bytes]:
        """Events that it holds."""
        return {decode_event(raw).id for raw in self._events.values()}

    async def load(self) -> tuple[list[Saved], bytes]:
        return [(n, raw, self._copies.get(n, ())) for n, raw in sorted(self._events.items())], self._token

    async def write(self, changes: Changes, token: bytes) -> None:
        assert self.process is not None
        self.process.step()
        await asyncio.sleep(_WRITE_S)
        self.process.step()
        self._events.update(changes.added)
        self._copies.update(changes.acked)
        for number in changes.removed:
            self._events.pop(number, None)
            self._copies.pop(number, None)
        self._token = token

    async def close(self) -> None:
        """What was written stays."""
