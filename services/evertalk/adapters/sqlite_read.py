"""The reading half of the SQLite store: each function reads one snapshot, on a reader connection's thread."""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter

from evertalk.adapters.sqlite_rows import (
    FACT,
    MAX_INT,
    Fact,
    after_prefix,
    applied,
    load_copies,
    load_folded,
    load_vector,
)
from evertalk.adapters.wire import decode_event
from evertalk.core import ids, limits
from evertalk.core.merge import Digest, initial_role, target_of, target_slot
from evertalk.core.model import (
    Account,
    Applied,
    Conversation,
    Event,
    Grave,
    HandleClaim,
    Kind,
    Membership,
    Row,
    Title,
)
from evertalk.core.vector import Vector
from evertalk.ports import AccountState, ConversationDigest, ConversationState, ExportPage, HistoryPage

#: An Export page stays well below what one gRPC message may weigh.
EXPORT_BYTES = limits.MAX_GRPC_BYTES // 2

HISTORY = (
    f"SELECT {FACT}, hlc, slot FROM facts WHERE scope = ? AND kind = {Kind.MESSAGE:d} AND (hlc, slot) < (?, ?) "
    "ORDER BY hlc DESC, slot DESC LIMIT ?"
)
EDIT_OF = f"SELECT {FACT} FROM facts WHERE scope = ? AND kind = {Kind.EDIT:d} AND slot = ?"
REACTIONS_ON = (
    f"SELECT {FACT} FROM facts WHERE scope = ? AND kind = {Kind.REACTION:d} AND slot >= ? AND slot < ? ORDER BY slot"
)
OF_KIND = f"SELECT {FACT} FROM facts WHERE scope = ? AND kind = ? ORDER BY slot"
#: The ids that slots begin with grow with time: of the newest messages.
DELETIONS = f"SELECT {FACT} FROM facts WHERE scope = ? AND kind = {Kind.DELETION:d} ORDER BY slot DESC LIMIT ?"
ONE = f"SELECT {FACT} FROM facts WHERE scope = ? AND kind = ? AND slot = ?"
CHANGED = f"SELECT change, {FACT} FROM facts WHERE change > ? ORDER BY change LIMIT ?"
_GRAVE_BYTES = 100
_GRAVES = """SELECT change, (SELECT s.scope FROM scopes s WHERE s.id = expired.scope), slot, expires_at, accepted_at,
    origin FROM expired WHERE change > ? ORDER BY change LIMIT ?"""
MESSAGES = f"SELECT {FACT} FROM facts WHERE scope = ? AND kind = {Kind.MESSAGE:d} ORDER BY hlc, slot"
NEWEST = f"SELECT hlc FROM facts WHERE scope = ? AND kind = {Kind.MESSAGE:d} ORDER BY hlc DESC LIMIT 1"
ROOMS = "SELECT DISTINCT s.scope FROM members m JOIN scopes s ON s.id = m.scope WHERE m.account = ? AND m.role > 1"
TALKED_IN = f"""SELECT scope FROM scopes
    WHERE EXISTS (SELECT 1 FROM facts f WHERE f.scope = scopes.id AND f.kind = {Kind.MESSAGE:d})
    OR EXISTS (SELECT 1 FROM facts f WHERE f.scope = scopes.id AND f.kind = {Kind.CONVERSATION:d}) ORDER BY scope"""


@contextmanager
def snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """One read transaction."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("ROLLBACK")


def number_of(db: sqlite3.Connection, scope: bytes) -> int:
    """Number of a scope; 0, which no fact has, if it is not known."""
    row = db.execute("SELECT id FROM scopes WHERE scope = ?", (scope,)).fetchone()
    return int(row[0]) if row else 0


def history(
    db: sqlite3.Connection, shards: int, scope: bytes, before: tuple[int, bytes] | None, limit: int
) -> HistoryPage:
    """As `Store.history`."""
    with snapshot(db):
        number = number_of(db, scope)
        rows, more = _newest(db, number, before, limit)
        messages = [applied(row, shards) for row in rows]
        registers = dependents(db, shards, number, [m.event for m in messages])
        return HistoryPage(messages, registers, load_vector(db), messages[0].event.key if more and messages else None)


def _newest(
    db: sqlite3.Connection, number: int, before: tuple[int, bytes] | None, limit: int
) -> tuple[list[Fact], bool]:
    """Messages below a key, oldest first, and whether there are more below them."""
    hlc, slot = before or (MAX_INT, b"\xff" * 64)
    if hlc > MAX_INT:
        hlc, slot = MAX_INT, b"\xff" * 64
    rows = db.execute(HISTORY, (number, hlc, slot, limit + 1)).fetchall()
    more = len(rows) > limit
    # Another sender may have copied a key; a page that ended between the two would lose one of them.
    cut = limit
    while more and cut > 1 and _key(rows[cut]) == _key(rows[cut - 1]):
        cut -= 1
    return [row[:-2] for row in reversed(rows[:cut])], more


def _key(row: tuple[object, ...]) -> tuple[object, bytes]:
    slot = row[-1]
    assert isinstance(slot, bytes)
    return row[-2], slot[: limits.ID_BYTES]


def dependents(db: sqlite3.Connection, shards: int, number: int, messages: Iterable[Event]) -> list[Applied]:
    """The winning edits and reactions on these messages."""
    found: list[Fact] = []
    for event in messages:
        slot = event.id + event.sender
        found += db.execute(EDIT_OF, (number, slot))
        found += db.execute(REACTIONS_ON, (number, slot, after_prefix(slot)))
    return [applied(row, shards) for row in found]


def join_page(db: sqlite3.Connection, shards: int, scope: bytes, limit: int) -> list[Applied]:
    """As `Store.join_page`."""
    with snapshot(db):
        return whole(db, shards, number_of(db, scope), limit)


def whole(db: sqlite3.Connection, shards: int, number: int, limit: int) -> list[Applied]:
    """Creation, members and title, the newest messages, what hangs on them, what was deleted among them, receipts.

    In the caller's snapshot. Whoever is shown an answer has to know that its question is gone: a node that lags may
    bring it yet.
    """
    first = [
        applied(row, shards)
        for kind in (Kind.CONVERSATION, Kind.MEMBERSHIP, Kind.TITLE)
        for row in db.execute(OF_KIND, (number, int(kind)))
    ]
    messages = [applied(row, shards) for row in _newest(db, number, None, limit)[0]]
    deletions = [applied(row, shards) for row in db.execute(DELETIONS, (number, limit))]
    receipts = [applied(row, shards) for row in db.execute(OF_KIND, (number, int(Kind.RECEIPT)))]
    return first + messages + dependents(db, shards, number, [m.event for m in messages]) + deletions + receipts


def conversation(db: sqlite3.Connection, scope: bytes) -> ConversationState | None:
    """As `Store.conversation`."""
    with snapshot(db):
        return _state(db, scope)


def _state(db: sqlite3.Connection, scope: bytes) -> ConversationState | None:
    number = number_of(db, scope)
    row = db.execute(ONE, (number, int(Kind.CONVERSATION), b"")).fetchone()
    if row is None:
        return None
    creation = decode_event(row[0])
    body = creation.body
    assert isinstance(body, Conversation)
    title, title_version = body.title, 0
    row = db.execute(ONE, (number, int(Kind.TITLE), b"")).fetchone()
    if row is not None:
        register = decode_event(row[0])
        assert isinstance(register.body, Title)
        title, title_version = register.body.title, register.version
    members = {account: (initial_role(body, creation.sender, account), 0) for account in body.members}
    for row in db.execute(OF_KIND, (number, int(Kind.MEMBERSHIP))):
        register = decode_event(row[0])
        assert isinstance(register.body, Membership)
        members[register.body.account] = (register.body.role, register.version)
    newest = db.execute(NEWEST, (number,)).fetchone()
    last = newest[0] if newest else creation.hlc
    return ConversationState(scope, body.kind, creation.sender, title, title_version, members, last)


def conversations_of(db: sqlite3.Connection, account: bytes) -> tuple[list[ConversationState], Vector]:
    """As `Store.conversations_of`."""
    with snapshot(db):
        scopes = [scope for (scope,) in db.execute(ROOMS, (account,)).fetchall()]
        states = [_state(db, scope) for scope in scopes]
        known = [state for state in states if state is not None]
        known.sort(key=lambda state: (-state.last_hlc, state.scope))
        return known, load_vector(db)


def visible(db: sqlite3.Connection, scope: bytes, sender: bytes, id: bytes) -> bool:
    """As `Store.visible`."""
    with snapshot(db):
        return db.execute(ONE, (number_of(db, scope), int(Kind.MESSAGE), id + sender)).fetchone() is not None


def _claims(db: sqlite3.Connection, handle: str) -> list[bytes]:
    """Accounts that claimed a handle, the earliest claim first, each once."""
    number = number_of(db, ids.handle_scope(handle))
    claims = [decode_event(row[0]) for row in db.execute(OF_KIND, (number, int(Kind.HANDLE_CLAIM)))]
    claims.sort(key=lambda claim: (claim.key, claim.sender))
    return list(dict.fromkeys(claim.body.account for claim in claims if isinstance(claim.body, HandleClaim)))


def _account(db: sqlite3.Connection, account: bytes) -> tuple[Event, Account] | None:
    row = db.execute(ONE, (number_of(db, account), int(Kind.ACCOUNT), b"")).fetchone()
    if row is None:
        return None
    event = decode_event(row[0])
    assert isinstance(event.body, Account)
    return event, event.body


def _effective(handle: str, account: bytes, claims: Sequence[bytes]) -> str:
    if account in claims and account != claims[0]:
        return ids.suffixed_handle(handle, account)
    return handle


def accounts(db: sqlite3.Connection, wanted: Iterable[bytes]) -> list[AccountState]:
    """As `Store.accounts`."""
    states = []
    with snapshot(db):
        for account in wanted:
            found = _account(db, account)
            if found is not None:
                event, body = found
                handle = _effective(body.handle, account, _claims(db, body.handle))
                states.append(AccountState(account, handle, body.display_name, body.password_hash, event.hlc))
    return states


def claimants(db: sqlite3.Connection, handle: str) -> list[AccountState]:
    """As `Store.claimants`; a suffixed handle names the one later claimant that goes by it."""
    base, tilde, _ = handle.rpartition("~")
    name = base if tilde else handle
    states = []
    with snapshot(db):
        claims = _claims(db, name)
        for account in claims:
            called = _effective(name, account, claims)
            found = _account(db, account)
            if found is not None and (not tilde or called == handle):
                event, body = found
                states.append(AccountState(account, called, body.display_name, body.password_hash, event.hlc))
    return states


def digests(db: sqlite3.Connection, scopes: Sequence[bytes] | None) -> tuple[list[ConversationDigest], Vector]:
    """As `Store.digests`."""
    with snapshot(db):
        wanted = [s for (s,) in db.execute(TALKED_IN).fetchall()] if scopes is None else scopes
        return [_digest(db, scope) for scope in wanted], load_vector(db)


def _digest(db: sqlite3.Connection, scope: bytes) -> ConversationDigest:
    number = number_of(db, scope)
    digest = Digest()
    there: set[bytes] = set()
    for row in db.execute(MESSAGES, (number,)):
        event = decode_event(row[0])
        digest.message(event)
        there.add(event.id + event.sender)
    for kind in (Kind.EDIT, Kind.REACTION, Kind.CONVERSATION, Kind.MEMBERSHIP, Kind.TITLE, Kind.RECEIPT):
        for row in db.execute(OF_KIND, (number, int(kind))):
            event = decode_event(row[0])
            target = target_of(event)
            # What hangs on a message that is not there shows nowhere; one store may have seen it expire.
            if target is None or target_slot(target) in there:
                digest.register(event)
    return ConversationDigest(scope, digest.hexdigest(), digest.messages)


def export(db: sqlite3.Connection, own_life: str, life: str, after_change: int, limit: int) -> ExportPage:
    """As `Store.export`."""
    after = min(after_change, MAX_INT) if life == own_life else 0
    rows: list[Row] = []
    graves: list[Grave] = []
    size = 0
    last = True
    with snapshot(db):
        facts = ((row[0], row[1:], None) for row in db.execute(CHANGED, (after, limit)))
        expired = ((row[0], None, Grave(*row[1:])) for row in db.execute(_GRAVES, (after, limit)))
        for change, fact, grave in heapq.merge(facts, expired, key=itemgetter(0)):
            if fact is not None:
                raw, accepted_at, origin, position, _, copies = fact
                rows.append(Row(decode_event(raw), accepted_at, ((origin, position), *load_copies(copies))))
                size += len(raw)
            elif grave is not None:
                graves.append(grave)
                size += _GRAVE_BYTES
            after = change
            if len(rows) + len(graves) == limit or size > EXPORT_BYTES:
                last = False
                break
        return ExportPage(own_life, rows, after, last, load_vector(db), load_folded(db), graves)


def bookmark(db: sqlite3.Connection, source: str) -> tuple[str, int]:
    """As `Store.bookmark`."""
    row = db.execute("SELECT life, change FROM bookmarks WHERE source = ?", (source,)).fetchone()
    return (row[0], row[1]) if row else ("", 0)


def counts(db: sqlite3.Connection) -> dict[str, int]:
    """As `Store.counts`."""
    rows = db.execute("SELECT kind, count(*) FROM facts GROUP BY kind")
    return {Kind(kind).name.lower(): number for kind, number in rows}
