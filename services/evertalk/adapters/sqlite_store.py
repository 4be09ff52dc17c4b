"""The store in a SQLite file: one connection that writes, two that read beside it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol, TypeVar

from evertalk.adapters import sqlite_read, sqlite_resume
from evertalk.adapters.sqlite_schema import READER, WRITER, check_wal, connect, discard, prepare
from evertalk.adapters.sqlite_write import Writer
from evertalk.core.model import Applied, Entry, Grave, Row
from evertalk.core.vector import Hole, Vector
from evertalk.ports import (
    AccountState,
    ConversationDigest,
    ConversationState,
    ExportPage,
    HistoryPage,
    Ids,
    ResumePage,
)

__all__ = ["Runner", "SqliteStore", "discard"]

T = TypeVar("T")

#: Events that are applied without a hand-over to the thread of the writer: a hundredth of a second or two.
_FEW = 1000


class Runner(Protocol):
    """A connection as the store uses it: one call is one hand-over, in order, done even if its caller is cancelled."""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T: ...

    async def run_short(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """As `run`, for what takes a few milliseconds at most: it may hold everything else up meanwhile."""
        ...


class SqliteStore:
    """A `Store` (see ports.py, whose docstrings hold here) in one file. Use `open`.

    Every method raises StoreError, with the file's name, when SQLite fails; nothing was written then.
    """

    def __init__(
        self,
        stack: AsyncExitStack,
        writer: Runner,
        writing: Writer,
        readers: tuple[Runner, Runner],
        shards: int,
    ) -> None:
        self._stack = stack
        self._writer = writer
        self._writing = writing
        self._reader, self._bulk = readers  # long reads do not hold up short ones
        self._shards = shards
        #: Set when SQLite finds the file damaged, in whatever call: then it must be closed and discarded.
        self.damaged = asyncio.Event()

    @classmethod
    async def open(cls, path: Path, ids: Ids, shards: int) -> SqliteStore:
        """Open the store in `path`, or make it; its folder must exist. One that was not closed in order is read whole.

        Args:
            ids: names the life of a file that is made now, or was not closed in order.
            shards: of the cluster.

        Raises:
            StoreError: cannot be opened, damaged, of another number of shards or of a newer schema. `discard`
                removes it.
        """
        wal = path.with_name(path.name + "-wal")
        crashed = wal.exists()  # SQLite removes it when it closes the file
        damaged = asyncio.Event()

        def still_crashed(failure: type[BaseException] | None, *_: object) -> None:
            if crashed and failure is not None:
                wal.touch()  # the next opening must see it too

        async with AsyncExitStack() as stack:
            stack.push(still_crashed)
            writer = await connect(path, WRITER, damaged)
            stack.push_async_callback(writer.close)

            def make_fit(db: sqlite3.Connection) -> None:
                check_wal(db, path)
                prepare(db, path, shards, ids.ulid, crashed)

            await writer.run(make_fit)
            writing = await writer.run(Writer)
            readers = []
            for _ in range(2):
                readers.append(await connect(path, READER, damaged))
                stack.push_async_callback(readers[-1].close)
            store = cls(stack.pop_all(), writer, writing, (readers[0], readers[1]), shards)
            store.damaged = damaged
            return store

    @staticmethod
    def discard(path: Path) -> None:
        """Remove a store's files, so that it can be built again from logs and other stores."""
        discard(path)

    @property
    def life(self) -> str:
        """Made when the file is made, or opened after a crash."""
        return self._writing.life

    @property
    def vector(self) -> Vector:
        """The committed vector; replaced by every write, never changed in place. Do not change it."""
        return self._writing.vector

    @property
    def folded(self) -> frozenset[str]:
        """The folded origins."""
        return self._writing.folded

    async def apply(
        self, entries: Sequence[Entry], now_ms: int, parent_missing: frozenset[tuple[str, int, int]] = frozenset()
    ) -> list[Applied]:
        few = sum(len(entry.records) for entry in entries) <= _FEW
        run = self._writer.run_short if few else self._writer.run
        return await run(lambda db: self._writing.apply(entries, now_ms, parent_missing))

    async def pass_hole(self, hole: Hole) -> None:
        await self._writer.run(lambda db: self._writing.pass_hole(hole))

    async def import_rows(self, rows: Sequence[Row], now_ms: int, graves: Sequence[Grave] = ()) -> list[Applied]:
        return await self._writer.run(lambda db: self._writing.import_rows(rows, now_ms, graves))

    async def finish_import(
        self, source: str, life: str, next_change: int, vector: Vector, folded: Iterable[str]
    ) -> None:
        names = frozenset(folded)
        await self._writer.run(lambda db: self._writing.finish_import(source, life, next_change, vector, names))

    async def bookmark(self, source: str) -> tuple[str, int]:
        return await self._reader.run(lambda db: sqlite_read.bookmark(db, source))

    async def export(self, life: str, after_change: int, limit: int) -> ExportPage:
        return await self._bulk.run(lambda db: sqlite_read.export(db, self.life, life, after_change, limit))

    async def fold(self, origins: Iterable[str]) -> None:
        names = frozenset(origins)
        await self._writer.run(lambda db: self._writing.fold(names))

    async def forget(self, origins: Iterable[str]) -> None:
        names = frozenset(origins)
        await self._writer.run(lambda db: self._writing.forget(names))

    async def expire(self, now_ms: int) -> int:
        """Remove messages whose `expires_at_ms` is at or before now, with their edits and reactions (P9).

        Returns how many facts went. Call it before a checkpoint.
        """
        return await self._writer.run(lambda db: self._writing.expire(now_ms))

    async def checkpoint(self) -> Vector:
        # Most of the copying beside the writer; then the rest, and the truncation, in its place.
        await self._bulk.run(lambda db: db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone())
        return await self._writer.run(lambda db: self._writing.checkpoint())

    async def history(self, scope: bytes, before: tuple[int, bytes] | None, limit: int) -> HistoryPage:
        return await self._reader.run(lambda db: sqlite_read.history(db, self._shards, scope, before, limit))

    async def resume(self, account: bytes, have: Vector, after: Any | None, limit: int) -> ResumePage:
        return await self._reader.run(lambda db: sqlite_resume.resume(db, self._shards, account, have, after, limit))

    async def conversation(self, scope: bytes) -> ConversationState | None:
        return await self._reader.run(lambda db: sqlite_read.conversation(db, scope))

    async def conversations_of(self, account: bytes) -> tuple[list[ConversationState], Vector]:
        return await self._reader.run(lambda db: sqlite_read.conversations_of(db, account))

    async def join_page(self, scope: bytes, limit: int) -> list[Applied]:
        return await self._reader.run(lambda db: sqlite_read.join_page(db, self._shards, scope, limit))

    async def visible(self, scope: bytes, sender: bytes, id: bytes) -> bool:
        return await self._reader.run(lambda db: sqlite_read.visible(db, scope, sender, id))

    async def accounts(self, ids: Iterable[bytes]) -> list[AccountState]:
        wanted = list(ids)
        return await self._reader.run(lambda db: sqlite_read.accounts(db, wanted))

    async def claimants(self, handle: str) -> list[AccountState]:
        return await self._reader.run(lambda db: sqlite_read.claimants(db, handle))

    async def digests(self, scopes: Sequence[bytes] | None) -> tuple[list[ConversationDigest], Vector]:
        return await self._bulk.run(lambda db: sqlite_read.digests(db, scopes))

    async def counts(self) -> Mapping[str, int]:
        return await self._bulk.run(sqlite_read.counts)

    async def close(self) -> None:
        """Close the connections; what was committed stays."""
        await self._stack.aclose()
