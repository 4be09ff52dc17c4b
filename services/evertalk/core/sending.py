"""What the outbox holds and what it decides: plain data of the sending side."""

from __future__ import annotations

from dataclasses import dataclass, field

from evertalk.core.errors import Code
from evertalk.core.model import Event


@dataclass(frozen=True, slots=True)
class Copy:
    """Where an event was accepted."""

    origin: str
    shard: int
    position: int


@dataclass(slots=True)
class Pending:
    """An event that is not known to be replicated. `number` is its place in the outbox.

    `maybe`: some attempt has no answer, so it may have been written. `lane`: the only stream that may carry
    it (receipts), else 0. `lost`: what had acknowledged it is gone for good, and it is sent again.
    """

    number: int
    event: Event
    copies: list[Copy] = field(default_factory=list)
    maybe: bool = False
    lane: int = 0
    verdict: tuple[Code, str] | None = None  # refused here, while another stream still has to answer
    lost: bool = False

    @property
    def accepted(self) -> bool:
        """True once any copy was acknowledged."""
        return bool(self.copies)


#: One kept event: number, serialized event, copies.
Saved = tuple[int, bytes, tuple[Copy, ...]]


@dataclass(slots=True)
class Changes:
    """What a durable outbox has to note since it was last written; writing it twice does no harm."""

    added: dict[int, bytes] = field(default_factory=dict)  # number -> serialized event
    acked: dict[int, tuple[Copy, ...]] = field(default_factory=dict)  # number -> all its copies
    removed: set[int] = field(default_factory=set)


# ---------------------------------------------------------------- decisions


@dataclass(frozen=True, slots=True)
class Accepted:
    """The first acknowledgement of an event."""

    pending: Pending
    copy: Copy


@dataclass(frozen=True, slots=True)
class AlsoAccepted:
    """A further copy was acknowledged: to be stored, nothing to be shown."""

    pending: Pending


@dataclass(frozen=True, slots=True)
class Replicated:
    """Has left the outbox: durable in the configured number of regions."""

    pending: Pending


@dataclass(frozen=True, slots=True)
class Failed:
    """Has left the outbox: given up. `unknown` if some attempt may have been written."""

    pending: Pending
    code: Code
    sentence: str
    unknown: bool


@dataclass(frozen=True, slots=True)
class Released:
    """Has left the outbox at its cap, or because no node takes it again: ACCEPTED, never known to be replicated."""

    pending: Pending


@dataclass(frozen=True, slots=True)
class Kept:
    """Refused for now: sent again at `until_s`. The whole lane waits, or only the event's conversation."""

    pending: Pending | None
    code: Code
    sentence: str
    until_s: float
    whole_lane: bool


@dataclass(frozen=True, slots=True)
class Dropped:
    """A receipt that has left with its stream, or was `refused`."""

    pending: Pending
    refused: bool


Decision = Accepted | AlsoAccepted | Replicated | Failed | Released | Kept | Dropped


@dataclass(frozen=True, slots=True)
class Send:
    """What a stream writes next: events of one epoch; seqs count up from first_seq."""

    epoch: int
    first_seq: int
    events: list[Event]
