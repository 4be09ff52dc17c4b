"""What an application is told: events, gaps and connectivity in `events()`, and every step in `watch`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from evertalk.core.errors import Code
from evertalk.core.model import Applied, Durability, Event
from evertalk.core.vector import Vector


@dataclass(frozen=True, slots=True)
class Gap:
    """What was needed is not there (P5). `refetch`: the token is too old, fetch history anew."""

    missing: Vector
    refetch: bool = False


@dataclass(frozen=True, slots=True)
class Connected:
    """A node serves this session now."""

    region: str
    node: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """No node serves this session now; the client is looking for one."""

    region: str
    node: str
    reason: str


#: What `events()` yields.
Happening = Applied | Gap | Connected | Disconnected


@dataclass(frozen=True, slots=True)
class Sent:
    """An acknowledged event; (shard, position) belong to `origin`, the origin that accepted it first."""

    id: bytes
    scope: bytes
    hlc: int
    origin: str
    shard: int
    position: int
    durability: Durability


@dataclass(frozen=True, slots=True)
class Created:
    """A conversation that was created: its id, and how durable that was when it was answered (R14)."""

    id: bytes
    durability: Durability


@dataclass(frozen=True, slots=True)
class Page:
    """Messages, oldest first, then the winning edits and reactions on them. `next`: pass as `before`.

    `gap`: something this session had seen is not there.
    """

    messages: list[Applied]
    registers: list[Applied]
    next: tuple[int, bytes] | None
    gap: bool


@dataclass(frozen=True, slots=True)
class Person:
    """A known account."""

    account: bytes
    handle: str
    display_name: str


class What(StrEnum):
    """Kinds of notice."""

    INVOKED = "invoked"
    ACCEPTED = "accepted"
    REPLICATED = "replicated"
    REFUSED = "refused"  # definitely failed
    UNKNOWN = "unknown"  # given up, may have been written
    KEPT = "kept"  # refused for now, will be sent again
    RELEASED = "released"  # left the outbox at its cap or as too old, ACCEPTED only
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    HEDGED = "hedged"
    MOVED = "moved"  # GOAWAY, failback or a full queue: another stream took over
    GAP = "gap"
    DELIVERED = "delivered"  # handed to the application


@dataclass(frozen=True, slots=True)
class Notice:
    """One step, for drills and checkers. `at_s` is the client's monotonic clock."""

    at_s: float
    what: What
    id: bytes = b""
    scope: bytes = b""
    hlc: int = 0
    origin: str = ""
    shard: int = 0
    position: int = 0
    code: Code = Code.UNSPECIFIED
    sentence: str = ""
    node: str = ""
    region: str = ""
    missing: Vector = field(default_factory=Vector)
    event: Event | None = None  # what it is about


#: Called synchronously with every notice; must not block or raise.
Watch = Callable[[Notice], None]
