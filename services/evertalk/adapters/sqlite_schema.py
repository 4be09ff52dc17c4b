"""The SQLite file of a store: connections, numbered migrations, and what makes a file unfit."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TypeVar, cast

import aiosqlite

from evertalk.adapters import sqlite_checks
from evertalk.core.errors import StoreDamaged, StoreError

T = TypeVar("T")

APPLICATION_ID = 0x4576546B  # "EvTk" in the file's header: no other SQLite file is taken for a store
COMPACT_BYTES = 16 * 1024 * 1024
_BUSY_MS = 200  # how long a truncating checkpoint, and with it every write, waits for readers

_COMMON = (
    f"PRAGMA busy_timeout = {_BUSY_MS}",
    "PRAGMA temp_store = MEMORY",  # a sort must not leave text in a temporary file (P9)
    "PRAGMA cache_size = -8192",
)
WRITER = (
    *_COMMON,
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",  # the log is the truth; a store may roll back to its cursor
    "PRAGMA secure_delete = ON",
    "PRAGMA wal_autocheckpoint = 8192",  # pages; only a bound for when nobody calls checkpoint()
)
READER = (*_COMMON, "PRAGMA query_only = ON")


class Connection(aiosqlite.Connection):
    """A connection that runs a whole transaction for one thread hand-over."""

    def __init__(self, path: Path, pragmas: Sequence[str], damaged: asyncio.Event | None) -> None:
        super().__init__(self._open_or_note, iter_chunk_size=64)
        self._path = path
        self._pragmas = pragmas
        self._damaged = damaged
        self.failure: sqlite3.Error | None = None
        # Each is written by one thread only. Equal: the other has nothing to do until we say so.
        self._handed_over = self._done = 0

    def _open_or_note(self) -> sqlite3.Connection:
        """aiosqlite does not wait for its thread when connecting fails, so it never does."""
        try:
            return _open(self._path, self._pragmas)
        except sqlite3.Error as error:
            self.failure = error
            return sqlite3.connect(":memory:")

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Call `work` with the sqlite3 connection on the connection's thread; it runs even if we are cancelled.

        Raises:
            StoreError: closed, or SQLite failed.
        """
        if self._connection is None:
            raise StoreError(f"the store {self._path} is closed")

        def counted(db: sqlite3.Connection) -> T:
            try:
                return work(db)
            finally:
                self._done += 1

        self._handed_over += 1
        with self._errors_named():
            # aiosqlite has public methods for single statements only, each a hand-over of its own.
            return cast(T, await self._execute(counted, self._conn))  # type: ignore[no-untyped-call]

    async def run_short(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """As `run`, at once and on this thread, unless the other one has something to do: two hand-overs take longer
        than a small transaction, and longer still where both threads want the interpreter.
        """
        if self._connection is None or self._done != self._handed_over:
            return await self.run(work)
        with self._errors_named():
            return work(self._conn)

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            named = _named(error, f"the store {self._path} failed: {error}")
            if self._damaged is not None and isinstance(named, StoreDamaged):
                self._damaged.set()
            raise named from error


def _named(error: sqlite3.Error, sentence: str) -> StoreError:
    """Result codes: https://sqlite.org/rescode.html; the low byte is the primary one."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return (StoreDamaged if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) else StoreError)(sentence)


def _open(path: Path, pragmas: Sequence[str]) -> sqlite3.Connection:
    # One thread at a time all the same: `run_short` sees to that.
    db = sqlite3.connect(path, isolation_level=None, cached_statements=256, check_same_thread=False)
    try:
        for pragma in pragmas:
            db.execute(pragma)
    except sqlite3.Error:
        db.close()
        raise
    return db


async def connect(path: Path, pragmas: Sequence[str], damaged: asyncio.Event | None = None) -> Connection:
    """An open connection to `path`, which is created if missing.

    Args:
        damaged: set when SQLite finds the file damaged.

    Raises:
        StoreError: the file cannot be opened or is no database.
    """
    connection = Connection(path, pragmas, damaged)
    await connection
    if connection.failure is not None:
        await connection.close()
        raise _named(connection.failure, f"the store {path} cannot be opened: {connection.failure}")
    return connection


@functools.cache
def migrations() -> tuple[str, ...]:
    """The scripts of the package's migrations, number 1 first."""
    folder = resources.files("evertalk.adapters") / "migrations"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    assert [int(f.name[:3]) for f in files] == list(range(1, len(files) + 1)), "migrations are numbered 1, 2, 3 …"
    return tuple(f.read_text(encoding="utf-8") for f in files)


def check_wal(db: sqlite3.Connection, path: Path) -> None:
    """Raises StoreError where SQLite cannot have its write-ahead log: a crash could then damage the file."""
    if db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        raise StoreError(f"the store {path} lies on a file system without SQLite's write-ahead log")


def prepare(
    db: sqlite3.Connection, path: Path, shards: int, new_life: Callable[[], str], suspect: bool = False
) -> None:
    """Bring the file to the current schema and check that it is this cluster's.

    Args:
        shards: of the cluster; fixed when the file is made.
        new_life: names the life of a file that is made now, or suspect.
        suspect: it was not closed in order: read all of it before it is trusted. It begins another life: a power
            cut may have taken changes that others know by number, and their numbers are given again (R9).

    Raises:
        StoreError: no store, of a newer schema, of another number of shards, or damaged.
    """
    sqlite_checks.register(db)
    application = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    empty = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if application != APPLICATION_ID and not (empty and version == 0):
        raise StoreError(f"{path} is a SQLite file but no Evertalk store")
    scripts = migrations()
    if version > len(scripts):
        raise StoreError(f"the store {path} has schema {version}, newer than {len(scripts)} of this program")
    for number, script in enumerate(scripts[version:], version + 1):
        steps = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number};"
        try:
            db.executescript(f"BEGIN IMMEDIATE;\n{script}\n{steps}\nCOMMIT;")
        except sqlite3.Error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    if suspect:
        sqlite_checks.check(db, str(path))
    life = new_life()
    db.execute("INSERT OR IGNORE INTO meta VALUES (1, ?, ?, 0, 0)", (life, shards))
    if suspect:
        db.execute("UPDATE meta SET life = ?", (life,))
    made_with = db.execute("SELECT shards FROM meta").fetchone()[0]
    if made_with != shards and not db.execute("SELECT EXISTS (SELECT 1 FROM cursors)").fetchone()[0]:
        db.execute("UPDATE meta SET shards = ?", (shards,))  # a start with a wrong number that came to nothing
    elif made_with != shards:
        raise StoreError(f"the store {path} was made with {made_with} shards, the cluster has {shards}")
    _compact(db)


def _compact(db: sqlite3.Connection) -> None:
    """Rewrite a file of which more than a third are emptied texts; at opening, when nobody waits for it."""
    dead = db.execute("SELECT dead FROM meta").fetchone()[0]
    size = db.execute("PRAGMA page_count").fetchone()[0] * db.execute("PRAGMA page_size").fetchone()[0]
    if dead > max(COMPACT_BYTES, size // 3):
        db.execute("DELETE FROM texts WHERE event = x''")
        db.execute("UPDATE meta SET dead = 0")
        db.execute("VACUUM")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def discard(path: Path) -> None:
    """Remove a store's files, so that it can be built again from logs and other stores."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
