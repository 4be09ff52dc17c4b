"""Protocols between the logic and the world: clock, log, board, store, transport. Simulated twins fit the same ones.

Times are wall-clock milliseconds since the epoch unless named `_s` (seconds). Positions count entries of one
(origin, shard) from 1 without gaps; 0 is before the first.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from evertalk.core.board import MirrorBatch, OriginInfo, StoreEntry, StreamState, Watermark
from evertalk.core.errors import LogError
from evertalk.core.model import Applied, Entry, Event, Grave, Record, Row, Stream
from evertalk.core.vector import Hole, Key, Vector

# ---------------------------------------------------------------- clock and chance


class Clock(Protocol):
    """Time. Sleeping goes through asyncio, whose loop a simulation replaces."""

    def wall_ms(self) -> int: ...

    def monotonic(self) -> float: ...


class Ids(Protocol):
    """Identifiers and chance, so that a seed decides them in simulation."""

    def uuid7(self) -> bytes: ...

    def ulid(self) -> str: ...

    def token(self, size: int) -> bytes: ...

    def random(self) -> float: ...


class Passwords(Protocol):
    """Password hashes: dear to make, so that a simulation has its own."""

    async def hash(self, password: str) -> str:
        """PHC string of a new salted hash."""
        ...

    async def verify(self, phc: str, password: str) -> bool:
        """True if the password fits."""
        ...


# ---------------------------------------------------------------- log


class Log(Protocol):
    """The appending side of a region's own Redis: one connection that never reconnects silently (R3)."""

    async def claim(self) -> str:
        """Connect, check that this Redis keeps what it acknowledges, and claim; returns the origin.

        Keeps the origin only if `meta` names this connection's run_id and all its streams exist; else closes
        it and makes a new one with empty streams.

        Raises:
            LogUnavailable, UnsafeRedis, ShardsMismatch.
        """
        ...

    async def append(self, entries: Sequence[tuple[int, bytes]]) -> list[int | LogError]:
        """Append one entry per (shard, payload) in one pipeline; durable when it returns.

        Returns for each entry its position, or what happened to it: OriginLost (stream gone; nothing
        written), LogFull (nothing written), LogOutcomeUnknown (connection broke: it may be written). After
        anything but positions and LogFull the connection is closed: claim again.

        Raises:
            LogUnavailable: not claimed, or the connection was found closed before anything was sent.
        """
        ...

    async def close(self) -> None: ...


class RawEntry(NamedTuple):
    """An entry as it lies in a stream; `payload` is a serialized Batch."""

    stream: Stream
    position: int
    payload: bytes


@dataclass(slots=True)
class Read:
    """One answer of a tail. Where its entries do not just follow the cursors, floors, missing and origins were read
    after them, on the same connection (R6); else they may be a second old, and floors empty."""

    entries: list[RawEntry] = field(default_factory=list)
    floors: dict[Stream, int] = field(default_factory=dict)  # highest position that may be trimmed away
    missing: set[Stream] = field(default_factory=set)  # asked for, but there is no such stream
    origins: dict[str, OriginInfo] = field(default_factory=dict)


class Tail(Protocol):
    """Blocking reads from one region's Redis, own or a peer's (read-only user). Reconnects by itself."""

    async def read(self, cursors: Mapping[Stream, int], block_s: float, count: int = 100) -> Read:
        """Entries after each cursor; waits up to block_s for the first. Returns early, maybe empty, when
        origins change (wake stream). `count` limits entries per stream.

        Raises:
            LogUnavailable: not reachable now; call again when you like.
        """
        ...

    async def close(self) -> None: ...


# ---------------------------------------------------------------- board: the small shared state of a region


class BoardReader(Protocol):
    """What may be read from any region's Redis, a peer's too."""

    async def origins(self) -> dict[str, OriginInfo]: ...

    async def streams(self, wanted: Iterable[Stream]) -> dict[Stream, StreamState]:
        """State of those streams that exist. `bytes` is Redis's estimate (MEMORY USAGE)."""
        ...

    async def stores(self) -> list[StoreEntry]:
        """Every store entry that has not expired (60 s), with its age."""
        ...

    def watermarks(self, relayed: bool = False) -> AsyncIterator[list[Watermark]]:
        """Subscribe: what this region's replicator announces of its own mirrors to peers, or with `relayed` what it
        tells own nodes; what comes about the same time may be told at once. The first item is an empty list, once the
        subscription stands.

        Raises:
            LogUnavailable: the connection broke; subscribe again, then re-read the mirrors.
        """
        ...

    async def close(self) -> None: ...


class Board(BoardReader, Protocol):
    """Own Redis, written too. Every write is idempotent, so it may be retried."""

    async def append_mirror(self, batches: Sequence[MirrorBatch], announce: Sequence[Watermark]) -> list[bool]:
        """Append each batch if its predecessor is the mirror's last position (one script each, one pipeline),
        then announce. False where the predecessor did not match; nothing is written there.

        A mirror that does not exist has last position 0 and is created. Announcements go out only for
        batches that were appended: announce[i] belongs to batches[i]; position 0 means nothing to announce.

        Raises:
            LogFull, LogUnavailable.
        """
        ...

    async def jump_mirror(self, origin: str, shard: int, floor: int) -> int:
        """Move a mirror whose last position is below `floor` to start behind it: last = base = floor = `floor`,
        empty (one script). Returns its last position, whether it jumped or not."""
        ...

    async def trim(self, stream: Stream, position: int) -> None:
        """Raise the stream's floor to `position`, then trim entries up to it (one script)."""
        ...

    async def publish_store(self, entry: StoreEntry) -> None:
        """Set `store:{node}`; it expires 60 s after its publishing (an entry with age_s > 0 sooner)."""
        ...

    async def carry_origins(self, origins: Iterable[OriginInfo]) -> None:
        """Merge what a peer knows of origins: open < closed < folded, last = maximum; wakes tails if that
        changed anything (one script). Never touches the state of this region's own open origin."""
        ...

    async def fold(self, origin: str) -> None:
        """Mark folded and remove its log or mirror, floors and bases (R16)."""
        ...

    async def forget_folded(self, origin: str) -> None:
        """Drop the record of a folded origin (after MAX_AGE)."""
        ...

    async def announce(self, watermarks: Sequence[Watermark], relayed: bool) -> None:
        """Publish watermarks: to peers (`relayed` False) or to own nodes (True)."""
        ...

    async def rewrite_aof(self) -> None:
        """Start a background rewrite of the append-only file unless one runs (P9)."""
        ...

    async def memory(self) -> tuple[int, int]:
        """(used_memory, maxmemory) in bytes; maxmemory 0 = unlimited."""
        ...


# ---------------------------------------------------------------- store


@dataclass(frozen=True, slots=True)
class ConversationState:
    """A conversation with its winning registers applied. members: account -> (role, version of its register)."""

    scope: bytes
    kind: int
    creator: bytes
    title: str
    title_version: int
    members: Mapping[bytes, tuple[int, int]]
    last_hlc: int = 0


@dataclass(frozen=True, slots=True)
class AccountState:
    account: bytes
    handle: str  # as claimed; suffixed_handle() if an earlier account holds it
    display_name: str
    password_hash: str
    hlc: int


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Visible messages, oldest first; then the winning edits and reactions on them. From one snapshot."""

    messages: list[Applied]
    registers: list[Applied]
    vector: Vector
    next: tuple[int, bytes] | None


@dataclass(frozen=True, slots=True)
class ResumePage:
    """Events of an account's conversations beyond its `have`. `vector` is that of this page's snapshot."""

    events: list[Applied]
    vector: Vector
    next: Any | None  # pass as `after`; None when done


@dataclass(frozen=True, slots=True)
class ExportPage:
    life: str
    rows: list[Row]
    next_change: int
    last: bool
    vector: Vector
    folded: frozenset[str]
    graves: list[Grave] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ConversationDigest:
    scope: bytes
    sha256: str
    messages: int


class Store(Protocol):
    """What a node knows by heart; built from logs, mirrors and other stores, can be thrown away.

    `vector` and `folded` are the committed state, kept in memory too. Only one task calls the writing
    methods; reads may run beside them and see one snapshot each.
    """

    @property
    def life(self) -> str:
        """Within one life no change number is given twice; so it ends where what was committed may be lost."""
        ...

    @property
    def vector(self) -> Vector: ...

    @property
    def folded(self) -> frozenset[str]: ...

    async def apply(
        self,
        entries: Sequence[Entry],
        now_ms: int,
        parent_missing: frozenset[tuple[str, int, int]] = frozenset(),
    ) -> list[Applied]:
        """Write a batch and move the cursors in one transaction; returns what is new, in order.

        Entries at or below the cursor are skipped. An entry beyond cursor + 1 is a caller's bug (ValueError,
        nothing written). New: a message not deleted and not known; a register or deletion that won its slot.
        A copy of a known event is noted with its position (R7) and not returned. `parent_missing` names
        entries (origin, shard, position) that gave up waiting.
        """
        ...

    async def pass_hole(self, hole: Hole) -> None:
        """Move the cursor to hole.last and note the open hole (R6); hole.first must be cursor + 1."""
        ...

    async def import_rows(self, rows: Sequence[Row], now_ms: int, graves: Sequence[Grave] = ()) -> list[Applied]:
        """Merge rows of another store's Export as apply does, with all their copies; no cursor moves (R9).

        Args:
            graves: what has expired there: nothing that hangs on it stays here either (P9).
        """
        ...

    async def finish_import(
        self, source: str, life: str, next_change: int, vector: Vector, folded: Iterable[str]
    ) -> None:
        """After the last page: absorb the vector of the export's start, fill holes, keep the bookmark."""
        ...

    async def bookmark(self, source: str) -> tuple[str, int]:
        """(life, change) up to which `source` was imported; ("", 0) if never."""
        ...

    async def export(self, life: str, after_change: int, limit: int) -> ExportPage:
        """Rows and graves with a change number above `after_change`, lowest first; from 0 if `life` is not this one."""
        ...

    async def fold(self, origins: Iterable[str]) -> None:
        """Note origins as folded: their streams are gone, and every region's stores had them whole (R16).

        Their positions stay in the vector, for stores and sessions that were away meanwhile, until `forget`.
        """
        ...

    async def forget(self, origins: Iterable[str]) -> None:
        """Drop folded origins from the vector, after MAX_AGE; rows keep their positions, `folded` the names."""
        ...

    async def expire(self, now_ms: int) -> int:
        """Remove messages whose time is over, with what hangs on them; returns how many rows went (P9)."""
        ...

    async def checkpoint(self) -> Vector:
        """Truncating checkpoint; returns the vector that was read before it began."""
        ...

    async def history(self, scope: bytes, before: tuple[int, bytes] | None, limit: int) -> HistoryPage: ...

    async def resume(self, account: bytes, have: Vector, after: Any | None, limit: int) -> ResumePage:
        """What a session of `account` that has `have` has not had: events of its conversations none of whose
        copies is ≤ have. Conversations joined after `have` contribute the membership (or creation) and the
        newest JOIN_PAGE messages instead (R13)."""
        ...

    async def conversation(self, scope: bytes) -> ConversationState | None: ...

    async def conversations_of(self, account: bytes) -> tuple[list[ConversationState], Vector]:
        """Those in which the account has a role above NONE, newest first, with the snapshot's vector."""
        ...

    async def join_page(self, scope: bytes, limit: int) -> list[Applied]:
        """The creation, winning registers and newest `limit` messages of a conversation, oldest first (R13); and
        which of the newest messages were deleted, `limit` at most."""
        ...

    async def visible(self, scope: bytes, sender: bytes, id: bytes) -> bool:
        """True if that message is in the conversation and not deleted."""
        ...

    async def accounts(self, ids: Iterable[bytes]) -> list[AccountState]: ...

    async def claimants(self, handle: str) -> list[AccountState]:
        """Accounts that claimed a normalized handle, the holder (earliest (hlc, id)) first."""
        ...

    async def digests(self, scopes: Sequence[bytes] | None) -> tuple[list[ConversationDigest], Vector]: ...

    async def counts(self) -> Mapping[str, int]:
        """Rows by kind, for status."""
        ...

    async def close(self) -> None: ...


# ---------------------------------------------------------------- transport


class SessionStream(Protocol):
    """A live session as a client sees it. Frames are evertalk.v1 messages."""

    async def write(self, frame: Any) -> None:
        """Send one frame; one writer at a time.

        Raises:
            Refused: ended by name. PeerUnavailable: the stream is broken.
        """
        ...

    async def read(self) -> Any | None:
        """The next frame; None when the node ended the stream.

        Raises:
            Refused: ended by name. PeerUnavailable: broken.
        """
        ...

    def cancel(self) -> None: ...


class Peer(Protocol):
    """A connection to one node."""

    async def call(self, method: str, request: Any, timeout_s: float, token: str = "") -> Any:
        """A unary call, `method` as in "evertalk.v1.ChatService/History".

        Raises:
            Refused, PeerUnavailable (also on deadline).
        """
        ...

    def session(self, token: str) -> SessionStream: ...

    async def close(self) -> None: ...


class Transport(Protocol):
    """Opens connections to nodes by address ("host:port"); opening itself does no I/O."""

    def peer(self, address: str) -> Peer: ...


#: What a server adapter calls for each live session: (account, frames in, write frame out).
SessionHandler = Callable[[bytes, AsyncIterator[Any], Callable[[Any], Awaitable[None]]], Awaitable[None]]

__all__ = [
    "AccountState",
    "Applied",
    "Board",
    "BoardReader",
    "Clock",
    "ConversationDigest",
    "ConversationState",
    "Entry",
    "Event",
    "ExportPage",
    "HistoryPage",
    "Ids",
    "Key",
    "Log",
    "MirrorBatch",
    "OriginInfo",
    "Passwords",
    "Peer",
    "RawEntry",
    "Read",
    "Record",
    "ResumePage",
    "SessionHandler",
    "SessionStream",
    "Store",
    "StoreEntry",
    "StreamState",
    "Tail",
    "Transport",
    "Watermark",
]
