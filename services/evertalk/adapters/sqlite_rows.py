"""Between rows and plain data, for the writing and the reading half of the SQLite store."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from evertalk.adapters.wire import decode_event
from evertalk.core.ids import shard_of
from evertalk.core.model import Applied, Kind
from evertalk.core.vector import Hole, Vector

MAX_INT = (1 << 63) - 1  # SQLite's integers; as an HLC, the year 6429

LATE = 1
PARENT_MISSING = 2

Copy = tuple[str, int]
Fact = tuple[bytes, int, str, int, int, str | None]

#: Kinds whose bytes lie in `texts`: what people wrote and may delete.
TEXTS = frozenset({Kind.MESSAGE, Kind.EDIT, Kind.REACTION})

#: Columns of a Fact. Subqueries, not joins: the planner must not begin with the small tables.
FACT = (
    "coalesce(event, (SELECT t.event FROM texts t WHERE t.id = facts.text)), accepted_at, "
    "(SELECT o.origin FROM origins o WHERE o.id = facts.origin), position, marks, copies"
)


def load_copies(text: str | None) -> list[Copy]:
    """Further copies of a fact, from its column."""
    return [(origin, position) for origin, position in json.loads(text)] if text else []


def dump_copies(first: Copy, others: Iterable[Copy]) -> str | None:
    """Column of the further copies: per origin the lowest position, which is all that a resume needs (R7)."""
    lowest: dict[str, int] = {}
    for origin, position in others:
        lowest[origin] = min(position, lowest.get(origin, position))
    if lowest.get(first[0], first[1]) >= first[1]:
        lowest.pop(first[0], None)
    return json.dumps(sorted(lowest.items()), separators=(",", ":")) if lowest else None


def applied(row: Fact, shards: int) -> Applied:
    """What a fact was when it was applied."""
    raw, accepted_at, origin, position, marks, copies = row
    event = decode_event(raw)
    return Applied(
        event, accepted_at, origin, shard_of(event.scope, shards), position,
        bool(marks & LATE), bool(marks & PARENT_MISSING), tuple(load_copies(copies)),
    )  # fmt: skip


def after_prefix(prefix: bytes) -> bytes:
    """An upper bound of the slots that begin with `prefix`: no slot goes on with this many 0xff."""
    return prefix + b"\xff" * 64


def load_vector(db: sqlite3.Connection) -> Vector:
    """The vector as this connection's snapshot holds it, with open holes."""
    positions = {(o, s): p for o, s, p in db.execute("SELECT origin, shard, position FROM cursors")}
    return Vector(positions, [Hole(*row) for row in db.execute("SELECT origin, shard, first, last FROM holes")])


def load_folded(db: sqlite3.Connection) -> frozenset[str]:
    """The folded origins (R16)."""
    return frozenset(o for (o,) in db.execute("SELECT origin FROM origins WHERE folded"))
