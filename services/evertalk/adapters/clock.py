"""The system's clock and randomness behind the ports."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import uuid_utils

_LOOK_S = 0.1
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class SystemClock:
    """Wall clock and monotonic clock, with an offset that drills use to skew one region."""

    def __init__(self, offset_ms: int = 0) -> None:
        self.offset_ms = offset_ms

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.offset_ms

    def monotonic(self) -> float:
        return time.monotonic()


class OffsetClock(SystemClock):
    """The system's clock, wrong by what a file says: so a drill lets the clock of one region be wrong, or jump.

    Args:
        path: holds a number of milliseconds, ahead if above 0; looked at every 100 ms. No file: the right time.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._look_s = 0.0

    def wall_ms(self) -> int:
        now = time.monotonic()
        if now >= self._look_s:
            self._look_s = now + _LOOK_S
            self.offset_ms = self._read()
        return super().wall_ms()

    def _read(self) -> int:
        try:
            return int(self._path.read_text())
        except FileNotFoundError:
            return 0
        except (OSError, ValueError):
            return self.offset_ms  # being written just now


def clock_of(path: Path | None) -> SystemClock:
    """A process's clock: the system's, or with a file the system's and what the file adds to it."""
    return OffsetClock(path) if path else SystemClock()


class SystemIds:
    """Random identifiers from the operating system."""

    def uuid7(self) -> bytes:
        return uuid_utils.uuid7().bytes

    def ulid(self) -> str:
        """A ULID (ulid/spec): 48 bit time, 80 bit randomness, Crockford's base 32, 26 characters."""
        number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
        return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))

    def token(self, size: int) -> bytes:
        return os.urandom(size)

    def random(self) -> float:
        return random.random()
