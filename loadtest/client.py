"""What both kinds of generated client share: when a send was meant to go, what it says, and what is counted of it."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from dataclasses import dataclass, field

from loadtest.plan import ClientPlan, Tally, WorkerPlan

MARK = b"#load#"  # nothing random says that
_FIELDS = (1, 5, 10, 15)  # hex digits: region, conversation, number of the send, microseconds
_SENDER_SHIFT = 24  # a send's number is its sender's, then its own


def now_us() -> int:
    """The monotonic clock, which all processes of a machine share."""
    return time.monotonic_ns() // 1000


def text_of(region: int, talk: int, number: int, intended_us: int, size: int) -> str:
    """A message of `size` bytes that says what it is."""
    head = MARK.decode() + "".join(
        f"{value:0{width}x}" for value, width in zip((region, talk, number, intended_us), _FIELDS, strict=True)
    )
    return head.ljust(size, ".")


def read_text(raw: bytes) -> tuple[int, int, int, int] | None:
    """(region, conversation, number, intended µs) of a message, or of bytes that hold one; None if they do not."""
    at = raw.find(MARK)
    if at < 0:
        return None
    at += len(MARK)
    found = []
    for width in _FIELDS:
        found.append(int(raw[at : at + width], 16))
        at += width
    return found[0], found[1], found[2], found[3]


@dataclass(slots=True)
class Span:
    """The measured time, in microseconds of the monotonic clock; shared by all clients of a process."""

    first_us: int = 0
    last_us: int = 0
    sending: bool = False  # clients without a rate send while it is true

    def holds(self, at_us: int) -> bool:
        """Whether a moment is measured."""
        return self.first_us <= at_us < self.last_us


@dataclass(slots=True)
class Due:
    """A send; no other one to its conversation has its number."""

    talk: int
    scope: bytes
    number: int
    intended_us: int


@dataclass(slots=True)
class Shared:
    """What the clients of a process share."""

    plan: WorkerPlan
    tally: Tally = field(default_factory=Tally)
    span: Span = field(default_factory=Span)


class Client(ABC):
    """One client; `offer` is the open loop's side of it, `acked` and `heard` the cluster's."""

    def __init__(self, plan: ClientPlan, shared: Shared) -> None:
        self.plan = plan
        self.shared = shared
        self.account = bytes.fromhex(plan.account)
        self.queue: deque[Due] = deque()  # due, and not under way
        self.in_flight = 0
        self._talks = [(number, bytes.fromhex(scope)) for number, scope in plan.talks]
        self._numbers: Counter[int] = Counter()
        self._turn = 0
        self._waiting_since_us = 0
        self.longest_us = 0  # without an acknowledgement, while there was something to send

    @abstractmethod
    async def connect(self) -> None:
        """Sign in and be greeted."""

    @abstractmethod
    async def close(self) -> None:
        """Leave."""

    @abstractmethod
    def ended(self) -> list[asyncio.Task[None]]:
        """The tasks that end only if something is wrong."""

    @abstractmethod
    def wake(self) -> None:
        """There is something in the queue, or room in the window."""

    @property
    def astray(self) -> bool:
        """Whether another region than its own serves it."""
        return False

    @property
    def room(self) -> int:
        """Sends that the window still takes."""
        return self.shared.plan.window - self.in_flight

    @property
    def open(self) -> int:
        """Sends that are not acknowledged."""
        return self.in_flight + len(self.queue)

    def offer(self, intended_us: int) -> None:
        """A send is due."""
        talk, scope = self._talks[self._turn % len(self._talks)]
        self._turn += 1
        number = (self.plan.number << _SENDER_SHIFT) + self._numbers[talk]
        self._numbers[talk] += 1
        if not self.open:
            self._waiting_since_us = intended_us
        self.queue.append(Due(talk, scope, number, intended_us))
        self.wake()

    def fill(self) -> None:
        """Fill the window, for a client without a rate."""
        if self._talks and not self.plan.rate and self.shared.span.sending:
            now = now_us()
            for _ in range(self.shared.plan.window - self.open):
                self.offer(now)

    def text(self, due: Due) -> str:
        """What a send says."""
        return text_of(self.plan.region, due.talk, due.number, due.intended_us, self.shared.plan.size)

    def silence_us(self) -> int:
        """The longest time of the run without an acknowledgement, what still goes on included."""
        return max(self.longest_us, now_us() - self._waiting_since_us if self.open else 0)

    def left(self, due: Due) -> None:
        """A send went to the transport."""
        now = now_us()
        self.in_flight += 1
        if self.shared.span.holds(due.intended_us):
            self.shared.tally.histograms["late"].record(now - due.intended_us)
            self.shared.tally.counts["sent"] += 1

    def acked(self, due: Due) -> None:
        """A send was acknowledged."""
        now, tally, span = now_us(), self.shared.tally, self.shared.span
        self.in_flight -= 1
        tally.acked.setdefault(due.talk, set()).add(due.number)
        if span.holds(now):
            tally.counts["acked"] += 1
        if span.holds(due.intended_us):
            tally.histograms["ack"].record(now - due.intended_us)
        self.longest_us = max(self.longest_us, now - self._waiting_since_us)
        self._waiting_since_us = now

    def heard(self, raw: bytes) -> None:
        """A message arrived."""
        found = read_text(raw)
        if found is None:
            return
        region, talk, number, intended_us = found
        now, tally, span = now_us(), self.shared.tally, self.shared.span
        seen = tally.heard.get(talk)
        if seen is None:
            seen = tally.heard[talk] = Counter()
        seen[number] += 1
        if span.holds(now):
            tally.counts["heard"] += 1
        if span.holds(intended_us):
            tally.histograms["same" if region == self.plan.region else "other"].record(now - intended_us)
