"""Merging one event into the SQLite store: the slot rules of core/merge.py as statements."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evertalk.adapters.sqlite_rows import (
    LATE,
    MAX_INT,
    PARENT_MISSING,
    TEXTS,
    Copy,
    after_prefix,
    dump_copies,
    load_copies,
)
from evertalk.adapters.wire import decode_event
from evertalk.core import limits
from evertalk.core.clock import ms_of
from evertalk.core.ids import shard_of
from evertalk.core.merge import (
    DEPENDENT,
    beats,
    initial_role,
    is_late,
    lawful,
    slot_of,
    target_of,
    target_slot,
)
from evertalk.core.model import Applied, Conversation, Event, Grave, Kind, Membership, Role

Rank = tuple[int, str]  # (accepted_at, origin) of a copy

_CACHED = 50_000

_INSERT = """INSERT INTO facts (change, scope, kind, slot, hlc, origin, position, accepted_at, expires_at, marks,
    copies, event, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (scope, kind, slot) DO NOTHING"""
_REPLACE = """INSERT OR REPLACE INTO facts (change, scope, kind, slot, hlc, origin, position, accepted_at, expires_at,
    marks, copies, event, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_OLD = """SELECT change, (SELECT o.origin FROM origins o WHERE o.id = facts.origin), position, accepted_at, copies,
    text, coalesce(event, (SELECT t.event FROM texts t WHERE t.id = facts.text))
    FROM facts WHERE scope = ? AND kind = ? AND slot = ?"""
_NOTE = "UPDATE facts SET change = ?, origin = ?, position = ?, accepted_at = ?, copies = ? WHERE change = ?"
_DELETED = f"SELECT 1 FROM facts WHERE scope = ? AND kind = {Kind.DELETION:d} AND slot = ?"
_EXPIRED = "SELECT expires_at, accepted_at, origin FROM expired WHERE scope = ? AND slot = ?"
_EXPIRE = """INSERT INTO expired (scope, slot, expires_at, accepted_at, origin, change) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (scope, slot) DO UPDATE SET expires_at = excluded.expires_at, accepted_at = excluded.accepted_at,
    origin = excluded.origin, change = excluded.change
    WHERE (excluded.accepted_at, excluded.origin) < (expired.accepted_at, expired.origin)"""
_OF_MESSAGE = f"""SELECT change, text FROM facts
    WHERE scope = ?1 AND kind IN ({Kind.MESSAGE:d}, {Kind.EDIT:d}) AND slot = ?2
    UNION ALL SELECT change, text FROM facts
    WHERE scope = ?1 AND kind = {Kind.REACTION:d} AND slot >= ?2 AND slot < ?3"""
_ANY_GRAVE = f"""SELECT EXISTS (SELECT 1 FROM facts WHERE scope = ?1 AND kind = {Kind.DELETION:d})
    OR EXISTS (SELECT 1 FROM expired WHERE scope = ?1)"""
_HIGHEST = f"SELECT hlc FROM facts WHERE scope = ? AND kind = {Kind.MESSAGE:d} ORDER BY hlc DESC LIMIT 1"
_COPY_OF_MEMBER = """INSERT INTO members (account, scope, origin, position, role) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (account, scope, origin) DO UPDATE SET position = min(position, excluded.position)"""


@dataclass(slots=True)
class Place:
    """What is remembered of a scope. `shown`: the highest HLC of its messages before the running batch."""

    id: int
    shard: int
    graves: bool  # some message here was deleted or has expired
    shown: int


def storable(event: Event, accepted_at: int) -> bool:
    """False for numbers beyond SQLite's integers; no clock and no client of ours makes them."""
    return event.hlc <= MAX_INT and accepted_at <= MAX_INT


class Merger:
    """Merges events within the writer's transaction; after a rollback call `forget`.

    Args:
        change, texts: the highest change number given and the highest row of texts.
    """

    def __init__(self, db: sqlite3.Connection, shards: int, change: int, texts: int) -> None:
        self._db = db
        self._shards = shards
        self._places: dict[bytes, Place] = {}
        self._origins: dict[str, int] = {}
        self.change = change
        self.texts = texts
        self.dead = 0  # bytes emptied in texts since the last commit
        self._fresh: list[tuple[int, bytes]] = []  # rows of texts not yet written; one statement writes them

    def forget(self, change: int, texts: int) -> None:
        """Go back to what was committed."""
        self._places.clear()
        self._origins.clear()
        self._fresh.clear()
        self.change, self.texts, self.dead = change, texts, 0

    def flush(self) -> None:
        """Write what was put off; before a commit, and before texts are read."""
        if self._fresh:
            self._db.executemany("INSERT INTO texts VALUES (?, ?)", self._fresh)
            self._fresh.clear()

    def settle(self, highest: dict[bytes, int]) -> None:
        """A batch is over: its messages count as shown."""
        for scope, hlc in highest.items():
            place = self._places.get(scope)
            if place and place.shown < hlc:
                place.shown = hlc
        highest.clear()

    def merge(
        self,
        event: Event,
        accepted_at: int,
        copies: Sequence[Copy],
        now_ms: int,
        highest: dict[bytes, int],
        parent_missing: bool = False,
    ) -> Applied | None:
        """Merge an event with the copies it came with, the smallest first.

        Args:
            highest: scope -> highest HLC of the messages of the running batch; written to.

        Returns:
            What is new, or None: known, lost, deleted, expired, unlawful, or of an unknown kind.
        """
        if not storable(event, accepted_at) or not lawful(event):
            return None
        place = self.place(event.scope)
        slot = slot_of(event)
        if self._is_gone(place, event, slot, (accepted_at, copies[0][0]), now_ms):
            return None
        late = False
        if event.kind == Kind.MESSAGE:
            late = is_late(ms_of(accepted_at), now_ms, event.hlc, place.shown, limits.LATE_MS)
            if event.hlc > highest.get(event.scope, 0):
                highest[event.scope] = event.hlc
        elif event.kind == Kind.DELETION:
            self.bury(place.id, slot)
            place.graves = True
        marks = LATE * late + PARENT_MISSING * parent_missing
        if not self._put(_INSERT, place, event, slot, accepted_at, copies, marks) and not self._contest(
            place, event, slot, accepted_at, copies, marks
        ):
            return None
        if event.kind == Kind.UNKNOWN:
            return None
        self._index(place, event)
        (origin, position), *more = copies
        return Applied(event, accepted_at, origin, place.shard, position, late, parent_missing, tuple(more))

    def place(self, scope: bytes) -> Place:
        """What is known of a scope; it gets a number if it has none."""
        place = self._places.get(scope)
        if place is None:
            row = self._db.execute("SELECT id FROM scopes WHERE scope = ?", (scope,)).fetchone()
            shard = shard_of(scope, self._shards)
            if row is None:
                number = self._db.execute("INSERT INTO scopes (scope) VALUES (?)", (scope,)).lastrowid
                assert number is not None
                place = Place(number, shard, False, 0)
            else:
                graves = self._db.execute(_ANY_GRAVE, row).fetchone()[0]
                newest = self._db.execute(_HIGHEST, row).fetchone()
                place = Place(row[0], shard, bool(graves), newest[0] if newest else 0)
            if len(self._places) >= _CACHED:
                self._places.clear()
            self._places[scope] = place
        return place

    def origin(self, name: str) -> int:
        """Number of an origin; it gets one if it has none."""
        number = self._origins.get(name)
        if number is None:
            row = self._db.execute("SELECT id FROM origins WHERE origin = ?", (name,)).fetchone()
            number = row[0] if row else None
            if number is None:
                number = self._db.execute("INSERT INTO origins (origin) VALUES (?)", (name,)).lastrowid
                assert number is not None
            if len(self._origins) >= _CACHED:
                self._origins.clear()
            self._origins[name] = number
        return number

    def bury(self, scope: int, slot: bytes) -> int:
        """Remove a message and the edits and reactions that hang on it; returns how many facts went."""
        self.flush()
        rows = self._db.execute(_OF_MESSAGE, (scope, slot, after_prefix(slot))).fetchall()
        for change, text in rows:
            self._db.execute("DELETE FROM facts WHERE change = ?", (change,))
            self._empty(text)
        return len(rows)

    def bury_expired(self, scope: int, slot: bytes, expires_at: int, accepted_at: int, origin: str) -> int:
        """Remove an expired message and remember that it was one; returns how many facts went."""
        self.change += 1
        self._db.execute(_EXPIRE, (scope, slot, min(expires_at, MAX_INT), accepted_at, origin, self.change))
        return self.bury(scope, slot)

    def take_grave(self, grave: Grave) -> None:
        """A message has expired elsewhere; one that is here does so in its own time."""
        if len(grave.slot) != 2 * limits.ID_BYTES or max(grave.accepted_at, grave.expires_at_ms) > MAX_INT:
            return
        self.flush()
        place = self.place(grave.scope)
        if self._db.execute(_OLD, (place.id, int(Kind.MESSAGE), grave.slot)).fetchone() is None:
            self.bury_expired(place.id, *grave[1:])
            place.graves = True

    def _is_gone(self, place: Place, event: Event, slot: bytes, rank: Rank, now_ms: int) -> bool:
        """True if the event, or the message it hangs on, is deleted or has expired: it never comes back (P9)."""
        if event.kind == Kind.MESSAGE:
            if 0 < event.expires_at_ms <= now_ms:
                self._expire(place, event, slot, rank)
                return True
            return place.graves and (self._is_deleted(place, slot) or self._lost_to_expired(place, event, slot, rank))
        if event.kind in DEPENDENT and place.graves:
            target = target_of(event)
            assert target is not None
            key = (place.id, target_slot(target))
            return self._is_deleted(place, key[1]) or self._db.execute(_EXPIRED, key).fetchone() is not None
        return False

    def _is_deleted(self, place: Place, slot: bytes) -> bool:
        return self._db.execute(_DELETED, (place.id, slot)).fetchone() is not None

    def _expire(self, place: Place, event: Event, slot: bytes, rank: Rank) -> None:
        """A message came after its time: bury it, unless its slot is kept by another text of its id."""
        self.flush()
        row = self._db.execute(_OLD, (place.id, int(event.kind), slot)).fetchone()
        if row is None or row[6] == event.raw or beats(event, rank, decode_event(row[6]), (row[3], row[1])):
            self.bury_expired(place.id, slot, event.expires_at_ms, *rank)
            place.graves = True

    def _lost_to_expired(self, place: Place, event: Event, slot: bytes, rank: Rank) -> bool:
        """True if this message has expired here, or another text of its id that keeps the slot has."""
        row = self._db.execute(_EXPIRED, (place.id, slot)).fetchone()
        if row is None:
            return False
        expires_at, *winner = row
        if event.expires_at_ms == expires_at or tuple(winner) <= rank:
            return True
        self._db.execute("DELETE FROM expired WHERE scope = ? AND slot = ?", (place.id, slot))
        return False

    def _put(
        self, sql: str, place: Place, event: Event, slot: bytes, accepted_at: int, copies: Sequence[Copy], marks: int
    ) -> bool:
        """Write a fact with the next change number; False if the slot was taken and `sql` respects that."""
        (origin, position), *more = copies
        in_texts = event.kind in TEXTS
        cursor = self._db.execute(
            sql,
            (
                self.change + 1, place.id, int(event.kind), slot, event.hlc, self.origin(origin), position, accepted_at,
                min(event.expires_at_ms, MAX_INT), marks, dump_copies(copies[0], more) if more else None,
                None if in_texts else event.raw, self.texts + 1 if in_texts else None,
            ),
        )  # fmt: skip
        if not cursor.rowcount:
            return False
        self.change += 1
        if in_texts:
            self.texts += 1
            self._fresh.append((self.texts, event.raw))
        return True

    def _contest(
        self, place: Place, event: Event, slot: bytes, accepted_at: int, copies: Sequence[Copy], marks: int
    ) -> bool:
        """The slot is taken: note a copy of the same event, or take the slot over; True if it was taken over."""
        self.flush()
        row = self._db.execute(_OLD, (place.id, int(event.kind), slot)).fetchone()
        change, origin, position, old_accepted_at, more, text, raw = row
        rank, old_rank = (accepted_at, copies[0][0]), (old_accepted_at, origin)
        if raw == event.raw:
            known = [(origin, position), *load_copies(more)]
            self._note(place, event, change, (rank, copies), (old_rank, known))
            return False
        if not beats(event, rank, decode_event(raw), old_rank):
            return False
        self._put(_REPLACE, place, event, slot, accepted_at, copies, marks)
        self._empty(text)
        if event.kind == Kind.CONVERSATION:
            old = decode_event(raw).body
            assert isinstance(old, Conversation)
            self._index_members(place.id, old.members)
        return True

    def _note(
        self,
        place: Place,
        event: Event,
        change: int,
        new: tuple[Rank, Sequence[Copy]],
        old: tuple[Rank, Sequence[Copy]],
    ) -> None:
        """Note where else an event lies (R7); its rank becomes that of the smallest copy."""
        (rank, copies), (old_rank, known) = new, old
        first = copies[0] if rank < old_rank else known[0]
        further = dump_copies(first, [*known, *copies])
        if first == known[0] and further == dump_copies(first, known):
            return
        self.change += 1
        accepted_at = min(rank, old_rank)[0]
        self._db.execute(_NOTE, (self.change, self.origin(first[0]), first[1], accepted_at, further, change))
        self._index(place, event)

    def _empty(self, text: int | None) -> None:
        """Take the bytes out of a row of texts and leave the row, so that no page is ever merged."""
        if text is None:
            return
        size = self._db.execute("SELECT length(event) FROM texts WHERE id = ?", (text,)).fetchone()[0]
        self._db.execute("UPDATE texts SET event = x'' WHERE id = ?", (text,))
        self.dead += size

    def _winner(self, scope: int, kind: int, slot: bytes) -> tuple[Event, list[Copy]] | None:
        row = self._db.execute(_OLD, (scope, int(kind), slot)).fetchone()
        return (decode_event(row[6]), [(row[1], row[2]), *load_copies(row[4])]) if row else None

    def _index(self, place: Place, event: Event) -> None:
        """A creation or membership has won its slot or has another copy; of others nothing follows."""
        body = event.body
        if isinstance(body, Membership):
            self._index_members(place.id, [body.account])
        elif isinstance(body, Conversation):
            self._index_members(place.id, body.members)

    def _index_members(self, scope: int, accounts: Iterable[bytes]) -> None:
        """Bring the rows of `members` in line with the winning facts.

        While an account stays in, positions gather: who was made an admin while away has not just joined.
        """
        creation = self._winner(scope, Kind.CONVERSATION, b"")
        for account in accounts:
            register = self._winner(scope, Kind.MEMBERSHIP, account)
            role = first = int(Role.NONE)
            if creation:
                assert isinstance(creation[0].body, Conversation)
                role = first = initial_role(creation[0].body, creation[0].sender, account)
            if register:
                assert isinstance(register[0].body, Membership)
                role = register[0].body.role
            self._write_member(scope, account, role, register, creation if first > Role.NONE else None)

    def _write_member(
        self,
        scope: int,
        account: bytes,
        role: int,
        register: tuple[Event, list[Copy]] | None,
        creation: tuple[Event, list[Copy]] | None,
    ) -> None:
        key = (account, scope)
        row = self._db.execute("SELECT role FROM members WHERE account = ? AND scope = ? LIMIT 1", key).fetchone()
        was_out = row is not None and row[0] <= Role.NONE
        if row is not None and was_out != (role <= Role.NONE):
            self._db.execute("DELETE FROM members WHERE account = ? AND scope = ?", key)
        copies = list(register[1]) if register else []
        if creation and role > Role.NONE and not (was_out and register):
            copies += creation[1]
        if not copies:
            self._db.execute("DELETE FROM members WHERE account = ? AND scope = ?", key)
        self._db.executemany(_COPY_OF_MEMBER, [(*key, origin, position, role) for origin, position in copies])
        self._db.execute("UPDATE members SET role = ? WHERE account = ? AND scope = ?", (role, *key))
