"""A durable outbox and session token in one SQLite file (WAL, synchronous=FULL: a sent message outlives a crash)."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from evertalk.adapters.sqlite_schema import Connection, connect
from evertalk.core.errors import StoreError
from evertalk.core.sending import Changes, Copy, Saved

_PRAGMAS = ("PRAGMA locking_mode = EXCLUSIVE", "PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL")
_SCHEMA = """
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
        self._db: Connection | None = None

    async def load(self) -> tuple[list[Saved], bytes]:
        """Open; returns what an earlier process left, in order, and its token (b"" if none).

        Raises:
            StoreError: not a file of ours, or another process has it.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._db = await connect(self._path, (f"PRAGMA busy_timeout = {self._wait_s * 1000:.0f}", *_PRAGMAS))
            rows, tokens = await self._db.run(_load)
        except (StoreError, OSError) as error:
            await self.close()
            raise StoreError(f"the outbox {self._path} cannot be opened: {error}") from error
        saved = [(number, raw, tuple(Copy(*copy) for copy in json.loads(copies))) for number, raw, copies in rows]
        return saved, tokens[0][0] if tokens else b""

    async def write(self, changes: Changes, token: bytes) -> None:
        """Write all in one transaction; durable when it returns. Who is cancelled meanwhile does not know whether it
        was written, but it was not written by half.

        Raises:
            StoreError: nothing of it is kept.
        """
        assert self._db is not None, "load() comes first"
        try:
            await self._db.run(lambda db: _write(db, changes, token))
        except StoreError as error:
            raise StoreError(f"the outbox {self._path} cannot be written: {error}") from error

    async def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            await self._db.close()
            self._db = None


def _load(db: sqlite3.Connection) -> tuple[list[tuple[int, bytes, str]], list[tuple[bytes]]]:
    db.executescript(_SCHEMA)
    rows = db.execute("SELECT number, event, copies FROM outbox ORDER BY number").fetchall()
    return rows, db.execute("SELECT token FROM token").fetchall()


def _write(db: sqlite3.Connection, changes: Changes, token: bytes) -> None:
    """In one hand-over to the connection's thread: a cursor that a cancelled caller never took would keep the file
    locked until it is collected, whoever has closed the connection."""
    added = [(n, raw, "[]") for n, raw in changes.added.items() if n not in changes.removed]
    acked = [(json.dumps([[c.origin, c.shard, c.position] for c in copies]), n) for n, copies in changes.acked.items()]
    try:
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT OR REPLACE INTO outbox VALUES (?, ?, ?)", added)
        db.executemany("UPDATE outbox SET copies = ? WHERE number = ?", acked)
        db.executemany("DELETE FROM outbox WHERE number = ?", [(n,) for n in changes.removed])
        db.execute("INSERT OR REPLACE INTO token VALUES (1, ?)", (token,))
        db.execute("COMMIT")
    except sqlite3.Error:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
