"""A durable outbox and session token in one SQLite file (WAL, synchronous=FULL: a sent message outlives a crash)."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import aiosqlite

from evertalk.core.errors import StoreError
from evertalk.core.sending import Changes, Copy, Saved

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS outbox (
    number INTEGER PRIMARY KEY,
    event BLOB NOT NULL,
    copies TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS token (one INTEGER PRIMARY KEY CHECK (one = 1), token BLOB NOT NULL) STRICT;
"""


class SqliteOutbox:
    """The file of one session; one process at a time, which the file's lock sees to.

    Args:
        path: of the SQLite file; made if it is not there.
        wait_s: how long to wait for another process to let go of it.
    """

    def __init__(self, path: Path, wait_s: float = 1.0) -> None:
        self._path = path
        self._wait_s = wait_s
        self._db: aiosqlite.Connection | None = None

    async def load(self) -> tuple[list[Saved], bytes]:
        """Open; returns what an earlier process left, in order, and its token (b"" if none).

        Raises:
            StoreError: not a file of ours, or another process has it.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._db = await aiosqlite.connect(self._path, isolation_level=None, timeout=self._wait_s)
            await self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            await self._db.executescript(_SCHEMA)
            rows = await self._db.execute_fetchall("SELECT number, event, copies FROM outbox ORDER BY number")
            tokens = list(await self._db.execute_fetchall("SELECT token FROM token"))
        except (sqlite3.Error, OSError) as error:
            await self.close()
            raise StoreError(f"the outbox {self._path} cannot be opened: {error}") from error
        saved = [(row[0], row[1], tuple(Copy(*copy) for copy in json.loads(row[2]))) for row in rows]
        return saved, tokens[0][0] if tokens else b""

    async def write(self, changes: Changes, token: bytes) -> None:
        """Write all in one transaction; durable when it returns.

        Raises:
            StoreError: nothing of it is kept.
        """
        assert self._db is not None, "load() comes first"
        added = [(n, raw, "[]") for n, raw in changes.added.items() if n not in changes.removed]
        acked = [
            (json.dumps([[c.origin, c.shard, c.position] for c in copies]), n) for n, copies in changes.acked.items()
        ]
        db = self._db
        try:
            await db.rollback()  # what a cancelled write left open
            await db.execute("BEGIN IMMEDIATE")
            await db.executemany("INSERT OR REPLACE INTO outbox VALUES (?, ?, ?)", added)
            await db.executemany("UPDATE outbox SET copies = ? WHERE number = ?", acked)
            await db.executemany("DELETE FROM outbox WHERE number = ?", [(n,) for n in changes.removed])
            await db.execute("INSERT OR REPLACE INTO token VALUES (1, ?)", (token,))
            await db.commit()
        except sqlite3.Error as error:
            raise StoreError(f"the outbox {self._path} cannot be written: {error}") from error

    async def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            await self._db.close()
            self._db = None
