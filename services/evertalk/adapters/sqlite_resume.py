"""Resume: what a session that has `have` has not had, from the SQLite store (R7, R13)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from evertalk.adapters.sqlite_read import ONE, snapshot, whole
from evertalk.adapters.sqlite_rows import FACT, MAX_INT, Copy, applied, load_copies, load_vector
from evertalk.core import limits
from evertalk.core.ids import shard_of
from evertalk.core.merge import CONVERSATIONAL
from evertalk.core.model import Applied, Kind, Role
from evertalk.core.vector import Vector
from evertalk.ports import ResumePage

#: Events of CONVERSATIONAL kinds from a position of one origin on, lowest key first.
RANGE = f"""SELECT hlc, kind, slot, change, origin, position, copies FROM facts INDEXED BY facts_position
    WHERE scope = ? AND origin = ? AND position >= ? AND kind BETWEEN {Kind.MESSAGE:d} AND {Kind.RECEIPT:d}
    AND (hlc, kind, slot) > (?, ?, ?) ORDER BY hlc, kind, slot LIMIT ?"""
assert set(range(Kind.MESSAGE, Kind.RECEIPT + 1)) == CONVERSATIONAL
BY_CHANGE = f"SELECT {FACT} FROM facts WHERE change = ?"
MINE = """SELECT m.scope, s.scope, m.role, m.origin, m.position FROM members m CROSS JOIN scopes s
    WHERE m.account = ? AND m.scope >= ? AND s.id = m.scope ORDER BY m.scope"""

Sorted = tuple[int, int, bytes]  # hlc, kind, slot: stable while change numbers move
_START: Sorted = (0, 0, b"")


class _Have:
    """What a session has. An origin that is folded and forgotten counts as had (R16) unless it is named: a session
    that old has to fetch anew anyway. While positions of a folded one are kept, they are compared like any."""

    def __init__(self, db: sqlite3.Connection, have: Vector, kept: set[str]) -> None:
        self._have = have
        named = have.origins()
        origins = db.execute("SELECT id, origin, folded FROM origins").fetchall()
        self._met = {name for _, name, folded in origins if folded and name not in named and name not in kept}
        self._open: dict[int, str] = {number: name for number, name, _ in origins if name not in self._met}

    def has(self, copies: Iterator[Copy] | list[Copy], shard: int) -> bool:
        """True if it has one of these copies."""
        return any(o in self._met or self._have.covers_range(o, shard, p, p) for o, p in copies)

    def name(self, origin: int) -> str:
        return self._open[origin]

    def lacks(self, shard: int) -> Iterator[tuple[int, int]]:
        """(origin, first position) of what it may lack of a shard; `has` says exactly."""
        holes: dict[str, int] = {}
        for hole in self._have.holes:
            if hole.shard == shard:
                holes[hole.origin] = min(hole.first, holes.get(hole.origin, hole.first))
        for number, name in self._open.items():
            first = self._have[(name, shard)] + 1
            yield number, min(first, holes.get(name, first), MAX_INT)


def resume(
    db: sqlite3.Connection, shards: int, account: bytes, have: Vector, after: Any | None, limit: int
) -> ResumePage:
    """As `Store.resume`. `after` is (number of the conversation, key of its last event that was given)."""
    start, key = after or (0, _START)
    events: list[Applied] = []
    with snapshot(db):
        vector = load_vector(db)
        had = _Have(db, have, vector.origins())
        rows = db.execute(MINE, (account, start)).fetchall()
        for (number, scope, role), group in groupby(rows, key=lambda row: row[:3]):
            if len(events) >= limit:
                return ResumePage(events, vector, (number, _START))
            shard = shard_of(scope, shards)
            was_in = had.has([(origin, position) for *_, origin, position in group], shard)
            if role <= Role.NONE:
                left = [] if was_in else db.execute(ONE, (number, int(Kind.MEMBERSHIP), account)).fetchall()
                events += [applied(row, shards) for row in left]
            elif not was_in:
                events += whole(db, shards, number, limits.JOIN_PAGE)
            else:
                for at, change in _missed(db, had, number, shard, key if number == start else _START, limit):
                    if len(events) >= limit:
                        return ResumePage(events, vector, (number, key))
                    events.append(applied(db.execute(BY_CHANGE, (change,)).fetchone(), shards))
                    key = at
        return ResumePage(events, vector, None)


def _missed(
    db: sqlite3.Connection, had: _Have, number: int, shard: int, after: Sorted, limit: int
) -> Iterator[tuple[Sorted, int]]:
    """(key, change) of each event of a conversation beyond `had`, lowest key first: causes before effects.

    Only an event's smallest copy is looked up; if that one is had, the event is.
    """
    while True:
        found: dict[int, tuple[Sorted, int, list[Copy]]] = {}
        horizon: Sorted | None = None  # beyond it some origin was cut off
        for origin, first in had.lacks(shard):
            rows = db.execute(RANGE, (number, origin, first, *after, limit)).fetchall()
            for *at, change, place, position, copies in rows:
                key = (at[0], at[1], at[2])
                found[change] = (key, change, [(had.name(place), position), *load_copies(copies)])
            if len(rows) == limit:
                end = (rows[-1][0], rows[-1][1], rows[-1][2])
                horizon = min(end, horizon or end)
        for key, change, copies in sorted(found.values()):
            if (horizon is None or key <= horizon) and not had.has(copies, shard):
                yield key, change
        if horizon is None:
            return
        after = horizon
