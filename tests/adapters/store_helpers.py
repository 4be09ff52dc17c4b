"""Builders of events, entries and whole conversations, for tests of stores."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from evertalk.adapters.wire import encode_event
from evertalk.core.clock import pack
from evertalk.core.ids import handle_scope, shard_of
from evertalk.core.model import (
    Account,
    Applied,
    Body,
    Conversation,
    ConversationKind,
    Deletion,
    Edit,
    Entry,
    Event,
    HandleClaim,
    Kind,
    Level,
    Membership,
    Message,
    Reaction,
    Receipt,
    Record,
    Role,
    Target,
    Title,
)
from evertalk.core.vector import Vector
from evertalk.ports import ExportPage, Store

SHARDS = 4
NOW_MS = 1_800_000_000_000
SEOUL = "seoul-01A"
BUSAN = "busan-01B"


def account(name: str) -> bytes:
    """An account id that can be read in a failing test."""
    return name.encode().ljust(16, b".")


#: Makes empty stores; whoever hands it out closes them.
MakeStore = Callable[[], Awaitable[Store]]

ANNA, BORIS, CHLOE = account("anna"), account("boris"), account("chloe")
ROOM = account("#room")


def uuid(number: int) -> bytes:
    """An id that grows with its number, as UUIDv7 does."""
    return number.to_bytes(6, "big") + b"\x70" + b"i" * 9


@dataclass(slots=True)
class Pen:
    """Writes events; each is stamped a millisecond after the one before unless `hlc` says otherwise."""

    scope: bytes = ROOM
    number: int = 0

    def write(
        self, kind: Kind, sender: bytes, body: Body, *, hlc: int = 0, id: bytes = b"", scope: bytes = b"",
        version: int = 0, expires_at_ms: int = 0,
    ) -> Event:  # fmt: skip
        """Any event."""
        self.number += 1
        event = Event(
            id or uuid(self.number), scope or self.scope, sender, b"sssssss.", hlc or pack(NOW_MS + self.number),
            kind, body, version=version, expires_at_ms=expires_at_ms,
        )  # fmt: skip
        return encode_event(event)

    def message(
        self, text: str, sender: bytes = ANNA, *, hlc: int = 0, id: bytes = b"", expires_at_ms: int = 0
    ) -> Event:
        return self.write(Kind.MESSAGE, sender, Message(text), hlc=hlc, id=id, expires_at_ms=expires_at_ms)

    def edit(self, of: Event, text: str, version: int = 1, sender: bytes = b"") -> Event:
        return self.write(Kind.EDIT, sender or of.sender, Edit(Target(of.sender, of.id), text), version=version)

    def deletion(self, of: Event, sender: bytes = b"") -> Event:
        return self.write(Kind.DELETION, sender or of.sender, Deletion(Target(of.sender, of.id)))

    def reaction(self, of: Event, emoji: str, sender: bytes = BORIS, version: int = 1) -> Event:
        body = Reaction(Target(of.sender, of.id), emoji)
        return self.write(Kind.REACTION, sender, body, version=version)

    def conversation(
        self, members: Sequence[bytes] = (ANNA, BORIS), *, title: str = "tea", creator: bytes = ANNA, hlc: int = 0
    ) -> Event:
        body = Conversation(ConversationKind.GROUP, title, tuple(members))
        return self.write(Kind.CONVERSATION, creator, body, hlc=hlc)

    def membership(self, who: bytes, role: Role, version: int, sender: bytes = ANNA) -> Event:
        return self.write(Kind.MEMBERSHIP, sender, Membership(who, role), version=version)

    def title(self, title: str, version: int = 1, sender: bytes = ANNA) -> Event:
        return self.write(Kind.TITLE, sender, Title(title), version=version)

    def receipt(self, sender: bytes, position: int, origin: str = SEOUL, level: Level = Level.READ) -> Event:
        return self.write(Kind.RECEIPT, sender, Receipt(level, origin, position), version=position)

    def account(self, who: bytes, handle: str) -> Event:
        return self.write(Kind.ACCOUNT, who, Account(handle, handle.title(), "$argon2id$"), scope=who)

    def claim(self, who: bytes, handle: str) -> Event:
        return self.write(Kind.HANDLE_CLAIM, who, HandleClaim(handle, who), scope=handle_scope(handle))

    def unknown(self, sender: bytes = ANNA) -> Event:
        """An event of a kind that this version does not know: a body field with number 99."""
        known = self.write(Kind.TITLE, sender, Title(""))
        bare = Event(known.id, known.scope, known.sender, known.session, known.hlc, Kind.UNKNOWN, None)
        prefix = known.raw[: known.raw.rindex(b"\xb2\x01")]  # before field 22, the title
        return Event(
            bare.id, bare.scope, bare.sender, bare.session, bare.hlc, Kind.UNKNOWN, None, raw=prefix + b"\x9a\x06\x02hi"
        )


@dataclass(slots=True)
class Region:
    """An origin's logs: numbers the entries, as Redis does."""

    origin: str = SEOUL
    accepted_ms: int = NOW_MS
    last: dict[int, int] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    def log(self, *events: Event, accepted_ms: int = 0) -> Entry:
        """One entry of these events, which are of one shard."""
        shard = shard_of(events[0].scope, SHARDS)
        assert all(shard_of(e.scope, SHARDS) == shard for e in events)
        position = self.last[shard] = self.last.get(shard, 0) + 1
        self.accepted_ms += 1
        stamp = pack(accepted_ms or self.accepted_ms)
        entry = Entry(self.origin, shard, position, tuple(Record(e, stamp) for e in events))
        self.entries.append(entry)
        return entry

    def each(self, *events: Event) -> list[Entry]:
        """One entry per event."""
        return [self.log(event) for event in events]


def texts(facts: Iterable[Applied | Event]) -> list[str]:
    """What the messages among these facts say."""
    events = [fact.event if isinstance(fact, Applied) else fact for fact in facts]
    return [e.body.text for e in events if isinstance(e.body, Message)]


async def pull(target: Store, source: Store, limit: int = 100, now_ms: int = NOW_MS) -> list[ExportPage]:
    """Import everything that `target` does not have of `source`, as a node that is behind does."""
    life, change = await target.bookmark(source.life)
    pages: list[ExportPage] = []
    while not pages or not pages[-1].last:
        page = await source.export(life, change, limit)
        await target.import_rows(page.rows, now_ms, page.graves)
        life, change = page.life, page.next_change
        pages.append(page)
    await target.finish_import(source.life, life, change, pages[0].vector, pages[0].folded)
    return pages


async def digest(store: Store) -> dict[bytes, tuple[str, int]]:
    """Digests of all conversations."""
    found, _ = await store.digests(None)
    return {d.scope: (d.sha256, d.messages) for d in found}


def at(shard_scope: bytes, **positions: int) -> Vector:
    """A vector in the shard of a scope: at(ROOM, seoul=3)."""
    names = {"seoul": SEOUL, "busan": BUSAN}
    shard = shard_of(shard_scope, SHARDS)
    return Vector({(names[name], shard): position for name, position in positions.items()})


async def shown(store: Store, scope: bytes = ROOM) -> list[str]:
    """What a reader of the whole conversation sees."""
    return texts((await store.history(scope, None, 500)).messages)


async def resumed(store: Store, who: bytes, have: Vector, limit: int = 1000) -> list[Applied]:
    """Everything a resume delivers, page by page."""
    found: list[Applied] = []
    after = None
    while True:
        page = await store.resume(who, have, after, limit)
        found += page.events
        after = page.next
        if after is None:
            return found
