"""The writing half of the SQLite store: one transaction per call, on the writer connection's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from evertalk.adapters.sqlite_merge import Merger
from evertalk.adapters.sqlite_rows import load_folded, load_vector
from evertalk.core import limits
from evertalk.core.model import Applied, Entry, Grave, Kind, Row
from evertalk.core.vector import Hole, Key, Vector

_EXPIRY_BATCH = 500
_IMPORTED = 50_000  # conversations of one import that are remembered for the late mark
EXPIRED = f"""SELECT scope, slot, expires_at, accepted_at,
    (SELECT o.origin FROM origins o WHERE o.id = facts.origin) FROM facts INDEXED BY facts_expiry
    WHERE kind = {Kind.MESSAGE:d} AND expires_at > 0 AND expires_at <= ? LIMIT ?"""

_OLD = "SELECT 1 FROM expired WHERE expires_at < ? LIMIT 1"


@dataclass(slots=True)
class _Draft:
    """What becomes the committed state if the transaction commits."""

    vector: Vector
    folded: frozenset[str]


class Writer:
    """Changes the store and knows what is committed.

    `vector` and `folded` are replaced as a whole after a commit, never changed in place, so any thread may read
    them. They change here, not where the caller awaits, so that a cancelled caller leaves them true.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.life: str
        self.life, shards, change = db.execute("SELECT life, shards, change FROM meta").fetchone()
        self.vector = load_vector(db)
        self.folded = load_folded(db)
        self._change: int = change
        self._texts: int = db.execute("SELECT coalesce(max(id), 0) FROM texts").fetchone()[0]
        self._merger = Merger(db, shards, self._change, self._texts)
        self._imported: dict[bytes, int] = {}  # highest HLCs of the running import: not shown before its end
        self._checkpointed = Vector()

    @contextmanager
    def _transaction(self) -> Iterator[_Draft]:
        """All or nothing, in the file and in memory."""
        draft = _Draft(self.vector.copy(), self.folded)
        merger = self._merger
        try:
            self._db.execute("BEGIN IMMEDIATE")
            if self._db.execute("SELECT change FROM meta").fetchone()[0] != self._change:
                raise sqlite3.OperationalError("another process has written to it")
            yield draft
            merger.flush()
            self._db.execute("UPDATE meta SET change = ?, dead = dead + ?", (merger.change, merger.dead))
            self._db.execute("COMMIT")
        except BaseException:
            merger.forget(self._change, self._texts)
            self._imported.clear()
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._change, self._texts, merger.dead = merger.change, merger.texts, 0
        self.folded, self.vector = draft.folded, draft.vector

    def apply(
        self, entries: Sequence[Entry], now_ms: int, parent_missing: frozenset[tuple[str, int, int]]
    ) -> list[Applied]:
        """As `Store.apply`."""
        new: list[Applied] = []
        moved: set[Key] = set()
        highest: dict[bytes, int] = {}
        with self._transaction() as draft:
            vector = draft.vector
            merge = self._merger.merge
            for entry in entries:
                key = (entry.origin, entry.shard)
                if entry.position <= vector[key]:
                    continue
                if entry.position != vector[key] + 1:
                    raise ValueError(f"entry {entry.position} of {key} does not follow cursor {vector[key]}")
                copies = ((entry.origin, entry.position),)
                orphan = (entry.origin, entry.shard, entry.position) in parent_missing
                for record in entry.records:
                    fact = merge(record.event, record.accepted_at, copies, now_ms, highest, orphan)
                    if fact is not None:
                        new.append(fact)
                vector.advance(*key, entry.position)
                moved.add(key)
            self._save_cursors(vector, moved)
        self._merger.settle(highest)
        return new

    def pass_hole(self, hole: Hole) -> None:
        """As `Store.pass_hole`."""
        key = (hole.origin, hole.shard)
        if hole.first != self.vector[key] + 1 or hole.last < hole.first:
            raise ValueError(f"{hole} does not follow cursor {self.vector[key]}")
        with self._transaction() as draft:
            draft.vector.open_hole(hole)
            draft.vector.advance(*key, hole.last)
            self._save_cursors(draft.vector, {key})
            self._save_holes(draft.vector)

    def import_rows(self, rows: Sequence[Row], now_ms: int, graves: Sequence[Grave] = ()) -> list[Applied]:
        """As `Store.import_rows`."""
        if len(self._imported) > _IMPORTED:
            self._imported.clear()
        with self._transaction():
            facts = [
                self._merger.merge(r.event, r.accepted_at, r.copies, now_ms, self._imported, r.parent_missing)
                for r in rows
            ]
            for grave in graves:
                self._merger.take_grave(grave)
        return [fact for fact in facts if fact is not None]

    def finish_import(self, source: str, life: str, next_change: int, vector: Vector, folded: Iterable[str]) -> None:
        """As `Store.finish_import`."""
        with self._transaction() as draft:
            draft.vector.absorb(vector)
            self._fold(draft, folded)
            self._save_cursors(draft.vector, draft.vector.positions)
            self._save_holes(draft.vector)
            self._db.execute("INSERT OR REPLACE INTO bookmarks VALUES (?, ?, ?)", (source, life, next_change))
        self._merger.settle(self._imported)

    def fold(self, origins: Iterable[str]) -> None:
        """As `Store.fold`."""
        with self._transaction() as draft:
            self._fold(draft, origins)

    def forget(self, origins: Iterable[str]) -> None:
        """As `Store.forget`."""
        with self._transaction() as draft:
            draft.vector.drop(frozenset(origins) & draft.folded)
            self._db.execute("DELETE FROM cursors")
            self._save_cursors(draft.vector, draft.vector.positions)
            self._save_holes(draft.vector)

    def expire(self, now_ms: int) -> int:
        """Remove the messages whose time is over, with what hangs on them; returns how many facts went."""
        gone = 0
        forgotten = now_ms - limits.MAX_AGE_MS
        due = ((EXPIRED, (now_ms, 1)), (_OLD, (forgotten,)))
        if not any(self._db.execute(*query).fetchone() for query in due):
            return 0  # mostly, and a transaction writes even where nothing changes
        while True:
            with self._transaction():
                rows = self._db.execute(EXPIRED, (now_ms, _EXPIRY_BATCH)).fetchall()
                gone += sum(self._merger.bury_expired(*row) for row in rows)
                if len(rows) < _EXPIRY_BATCH:
                    self._db.execute("DELETE FROM expired WHERE expires_at < ?", (forgotten,))
            if rows:
                self._merger.forget(self._change, self._texts)  # places do not know of the new graves
            if len(rows) < _EXPIRY_BATCH:
                return gone

    def checkpoint(self) -> Vector:
        """As `Store.checkpoint`; the last completed one's vector if readers were in the way."""
        vector = self.vector
        busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            self._checkpointed = vector
        return self._checkpointed

    def _fold(self, draft: _Draft, origins: Iterable[str]) -> None:
        draft.folded = self.folded | frozenset(origins)
        self._db.executemany(
            "INSERT INTO origins (origin, folded) VALUES (?, 1) ON CONFLICT (origin) DO UPDATE SET folded = 1",
            [(name,) for name in sorted(draft.folded - self.folded)],
        )

    def _save_cursors(self, vector: Vector, keys: Iterable[Key]) -> None:
        self._db.executemany("INSERT OR REPLACE INTO cursors VALUES (?, ?, ?)", [(*key, vector[key]) for key in keys])

    def _save_holes(self, vector: Vector) -> None:
        self._db.execute("DELETE FROM holes")
        self._db.executemany(
            "INSERT INTO holes VALUES (?, ?, ?, ?)", [(h.origin, h.shard, h.first, h.last) for h in vector.holes]
        )
