"""The system's clock and randomness behind the ports."""

from __future__ import annotations

import os
import random
import time

import uuid_utils

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class SystemClock:
    """Wall clock and monotonic clock, with an offset that drills use to skew one region."""

    def __init__(self, offset_ms: int = 0) -> None:
        self.offset_ms = offset_ms

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.offset_ms

    def monotonic(self) -> float:
        return time.monotonic()


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
