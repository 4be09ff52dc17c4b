"""Run as a program: a chat node that counts its SQLite statements in the file `counts` beside its store."""

from __future__ import annotations

import mmap
import os
import sqlite3
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from evertalk.adapters import sqlite_schema
from evertalk.chatnode.__main__ import main

FILE = "counts"
_LAYOUT = struct.Struct("<QQ")  # statements, transactions
_COUNTED = ("INSERT", "UPDATE", "DELETE", "SELECT", "BEGIN", "COMMIT")


def read(store: Path) -> tuple[int, int]:
    """(statements, transactions that write) of the node whose store is in this directory, so far."""
    statements, transactions = _LAYOUT.unpack((store / FILE).read_bytes())
    return statements, transactions


def _count_into(path: Path) -> None:
    path.write_bytes(bytes(_LAYOUT.size))
    with path.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), _LAYOUT.size)
    found = [0, 0]

    def note(statement: str) -> None:
        if statement.startswith(_COUNTED):
            found[0] += 1
            found[1] += statement.startswith("BEGIN")
            shared[:] = _LAYOUT.pack(*found)

    plain: Callable[[Path, Sequence[str]], sqlite3.Connection] = sqlite_schema._open

    def opened(path: Path, pragmas: Sequence[str]) -> sqlite3.Connection:
        db = plain(path, pragmas)
        db.set_trace_callback(note)
        return db

    sqlite_schema._open = opened


if __name__ == "__main__":
    _count_into(Path(os.environ["EVERTALK_STORE"]).with_name(FILE))
    sys.exit(main())
