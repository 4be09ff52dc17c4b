"""The door of a node: hellos come in a few at a time, so that a crowd that returns at once does not slow who is in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from evertalk.core import limits
from evertalk.core.errors import Code, Refused
from evertalk.ports import Clock

AT_ONCE = 8
PER_S = 400
WAITING = 256
RESUMES = 4  # catching up at once: others read the store as well
#: Then the next one comes in, whatever keeps this one: a client may take its time to read.
TURN_S = 0.25
_LATER_MAX_S = 10.0
_PACE_MAX_S = 0.05
_PACE_OVER = 64  # turns

assert WAITING / PER_S < limits.HELLO_TIMEOUT_S, "who waits in vain longer than clients do only wastes a turn"
assert AT_ONCE / PER_S < TURN_S


class Turn:
    """Leave to come in; it ends once, when the session has what it missed, or has to wait, or its time is over."""

    def __init__(self, release: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        self._release = release
        self._loop = loop
        self._began_s = loop.time()
        self._ended = False
        self._timer = loop.call_later(TURN_S, self.end)

    def end(self) -> None:
        """The next one may come in, but not before it is time: so many a second and no more."""
        if self._ended:
            return
        self._ended = True
        self._timer.cancel()
        ahead_s = self._began_s + AT_ONCE / PER_S - self._loop.time()
        if ahead_s > 0:
            self._loop.call_later(ahead_s, self._release)
        else:
            self._release()


class Door:
    """First come, first served; whoever finds too many waiting is told when to come again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._free = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0
        self._pace_s = 1 / PER_S  # between two turns while others wait: a busy machine is slower
        self._ended_s = 0.0
        self._promised_s = 0.0  # the last time for which somebody was told to come again
        #: Held while a session that resumes reads a page of the store.
        self.resumes = asyncio.Semaphore(RESUMES)

    def knock(self) -> None:
        """Ask whether there is room, before anything is spent on a caller.

        Raises:
            Refused: OVERLOADED, with a time of one's own to come again at.
        """
        if self._waiting >= WAITING:
            raise Refused(Code.OVERLOADED, "too many come at once: come again a little later", self._later_ms())

    async def enter(self) -> Turn:
        """Wait for one's turn.

        Raises:
            Refused: as `knock`.
        """
        self.knock()
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        return Turn(self._leave, asyncio.get_running_loop())

    def _leave(self) -> None:
        now = self._clock.monotonic()
        if self._waiting:
            self._pace_s += (min(now - self._ended_s, _PACE_MAX_S) - self._pace_s) / _PACE_OVER
        self._ended_s = now
        self._free.release()

    def _later_ms(self) -> int:
        """When all who wait and all who were sent away before are through: they come back one by one."""
        now = self._clock.monotonic()
        pace_s = max(self._pace_s, 1 / PER_S)
        promised = max(self._promised_s, now + WAITING * pace_s) + pace_s
        self._promised_s = min(promised, now + _LATER_MAX_S)
        return int((self._promised_s - now) * 1000)
