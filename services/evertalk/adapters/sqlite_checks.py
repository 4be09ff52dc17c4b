"""Finds what was damaged in a store while nobody held it open: SQLite's own check, and a checksum in every row."""

from __future__ import annotations

import sqlite3
from zlib import crc32

from evertalk.core.errors import StoreDamaged

#: Table -> the columns of its `sum`, as the migrations have them: those that no index covers. What an index covers
#: SQLite compares with it.
SUMMED = {
    "meta": "life, shards, change, dead",
    "origins": "folded",
    "facts": "hlc, accepted_at, expires_at, marks, copies, event, text",
    "texts": "event",
    "expired": "scope, slot, expires_at, accepted_at, origin",
    "members": "account, scope, origin, position, role",
    "cursors": "origin, shard, position",
    "holes": "origin, shard, first, last",
    "bookmarks": "life, change",
}


def register(db: sqlite3.Connection) -> None:
    """Let this connection compute `checksum(...)`: whoever writes needs it."""
    db.create_function("checksum", -1, checksum, deterministic=True)


def checksum(*values: bytes | str | int | None) -> int:
    """CRC-32 of a row's values."""
    found = 0
    for value in values:
        found = crc32(value if type(value) is bytes else ascii(value).encode(), found)  # seven for every message
    return found


def check(db: sqlite3.Connection, where: str) -> None:
    """Read all of it; costs about a second for 200 MB.

    Args:
        where: names the file.

    Raises:
        StoreDamaged: with what was found first. sqlite3.DatabaseError: SQLite cannot even read it.
    """
    said = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if said != "ok":
        raise StoreDamaged(f"the store {where} is damaged: {said}")
    for table, columns in SUMMED.items():
        if db.execute(f"SELECT 1 FROM {table} WHERE sum IS NOT checksum({columns}) LIMIT 1").fetchone():
            raise StoreDamaged(f"the store {where} is damaged: a row of {table} is not what was written")
