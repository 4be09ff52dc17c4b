"""One direction of one connection: a queue of (due time, bytes), so delay costs no throughput nor order."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

#: Bytes that one lane holds before it stops reading; throughput is at most this per delay.
LANE_CAP = 4 * 1024 * 1024
_MIN_PIECE = 512  # a narrow way trickles in pieces of about 50 ms, but not smaller than this
_END = b""  # the last in a queue: the source closed
_PIECES_PER_S = 20


class State(StrEnum):
    """OPEN relays; CUT resets and refuses; BLACK_HOLE accepts and swallows."""

    OPEN = "open"
    CUT = "cut"
    BLACK_HOLE = "black_hole"


@dataclass(slots=True)
class Quality:
    """What one direction of a link is like.

    Args:
        delay_ms: one way.
        jitter_ms: added to the delay, uniform from 0; bytes stay in order.
        bytes_per_s: of all connections of the link together; 0 = unlimited.
    """

    delay_ms: float = 20.0
    jitter_ms: float = 0.0
    bytes_per_s: float = 0.0
    state: State = State.OPEN

    def __post_init__(self) -> None:
        self.state = State(self.state)
        for name in ("delay_ms", "jitter_ms", "bytes_per_s"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
                raise ValueError(f"{name} must be a number ≥ 0, not {value!r}")


@dataclass(slots=True)
class Way:
    source: str
    sink: str
    quality: Quality
    delivered: int = 0
    swallowed: int = 0
    free_at: float = 0.0  # when the narrow way has sent all it was given

    def due(self, size: int, now: float, chance: random.Random) -> float:
        """When bytes given now come out at the other end."""
        start = now
        if self.quality.bytes_per_s:
            start = self.free_at = max(self.free_at, now) + size / self.quality.bytes_per_s
        return start + (self.quality.delay_ms + chance.uniform(0, self.quality.jitter_ms)) / 1000

    def pieces(self, data: bytes) -> Iterable[bytes]:
        """`data` cut so small that a narrow way trickles."""
        if not self.quality.bytes_per_s:
            return (data,)
        size = max(_MIN_PIECE, int(self.quality.bytes_per_s / _PIECES_PER_S))
        return (data[start : start + size] for start in range(0, len(data), size))


class Lane:
    """One direction of one connection."""

    def __init__(self, way: Way, chance: random.Random, on_done: Callable[[], None]) -> None:
        self.way = way
        self._on_done = on_done
        self.lossy = False  # bytes were swallowed: after healing the connection can only be reset
        self.ended = False  # the source closed
        self.done = False  # and the sink has been told
        self.pending = 0
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None
        self._chance = chance
        self._loop = asyncio.get_running_loop()
        self._queue: deque[tuple[float, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._stalled = False  # the sink's buffer is full
        self._paused = False
        self._reset_at: float | None = None
        self._closed = False

    def push(self, data: bytes) -> None:
        """Bytes from the source."""
        if self._closed:
            return
        if self.way.quality.state is State.BLACK_HOLE or self.lossy:
            self.way.swallowed += len(data)
            self.lossy = True
            return
        now = self._loop.time()
        for piece in self.way.pieces(data):
            self._put(piece, now)
        self.pump()

    def end(self, reset: bool) -> bool:
        """The source closed, or broke: a reset overtakes what is still under way, as TCP's does.

        Returns False if the other side will never hear of it.
        """
        self.ended = True
        if self._closed:
            return False
        if self.way.quality.state is State.BLACK_HOLE or self.lossy:
            self.lossy = True
            return False
        if reset:
            self._clear()
            self._reset_at = self.way.due(0, self._loop.time(), self._chance)
        elif not self.done and (not self._queue or self._queue[-1][1]):
            self._put(_END, self._loop.time())
        self.pump()
        return True

    def retime(self) -> None:
        """The way changed: what is under way moves at the new pace, or is swallowed."""
        if self.way.quality.state is State.BLACK_HOLE:
            self.lossy = self.lossy or bool(self._queue) or self._reset_at is not None
            self.way.swallowed += self.pending
            self._clear()
        elif self._queue:
            now, queued, resetting = self._loop.time(), list(self._queue), self._reset_at
            self._clear()
            self._reset_at = resetting
            for _, piece in queued:
                self._put(piece, now)
        self.pump()

    def stall(self, stalled: bool) -> None:
        """The sink takes no more, or does again."""
        self._stalled = stalled
        if not stalled:
            self.pump()

    def close(self) -> None:
        """Nothing is to be delivered any more."""
        self._closed = True
        self._clear()
        self._throttle()

    def pump(self) -> None:
        """Deliver what is due, and see to it that the rest follows."""
        if self.sink is not None and not self._closed and self._timer is None:
            self._deliver(self.sink)
        self._throttle()

    def _fire(self) -> None:
        self._timer = None
        self.pump()

    def _clear(self) -> None:
        self._queue.clear()
        self.pending = 0
        self._reset_at = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _put(self, piece: bytes, now: float) -> None:
        self._queue.append((self.way.due(len(piece), now, self._chance), piece))
        self.pending += len(piece)

    def _deliver(self, sink: asyncio.Transport) -> None:
        now = self._loop.time()
        if self._reset_at is not None:
            if self._reset_at <= now:
                reset(sink)
            else:
                self._timer = self._loop.call_at(self._reset_at, self._fire)
            return
        due: list[bytes] = []
        while self._queue and self._queue[0][0] <= now and not self._stalled:
            due.append(self._queue.popleft()[1])
        if due:
            data = b"".join(due)
            self.pending -= len(data)
            self.way.delivered += len(data)
            sink.write(data)
            if not due[-1]:
                self.done = True
                with suppress(OSError):  # reset by its other end just now: connection_lost is on its way
                    sink.write_eof()
                self._on_done()
        if self._queue and not self._stalled:
            self._timer = self._loop.call_at(self._queue[0][0], self._fire)

    def _throttle(self) -> None:
        """Back-pressure: a full lane stops reading its source until half of it is gone."""
        if self.source is None or self.source.is_closing():
            return
        if self.pending > LANE_CAP and not self._paused:
            self._paused = True
            self.source.pause_reading()
        elif self.pending <= LANE_CAP // 2 and self._paused:
            self._paused = False
            self.source.resume_reading()


def reset(transport: asyncio.Transport) -> None:
    """Close with RST: the other end learns at once that this was no orderly end."""
    sock = transport.get_extra_info("socket")
    if sock is not None and not transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
