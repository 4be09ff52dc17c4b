"""Hybrid logical clock (Kulkarni et al., 2014): 48 bit milliseconds, 16 bit counter, in one integer."""

from __future__ import annotations

COUNTER_BITS = 16
_MASK = (1 << COUNTER_BITS) - 1


def pack(ms: int, counter: int = 0) -> int:
    """Stamp of `ms` since the epoch and a counter; an overflowing counter carries into ms."""
    return (ms << COUNTER_BITS) + counter


def ms_of(stamp: int) -> int:
    """Milliseconds of a stamp."""
    return stamp >> COUNTER_BITS


class HybridClock:
    """Hands out stamps that grow, follow the wall clock, and never fall behind what was seen."""

    __slots__ = ("_last",)

    def __init__(self, last: int = 0) -> None:
        self._last = last

    @property
    def last(self) -> int:
        """The highest stamp handed out or seen."""
        return self._last

    def tick(self, wall_ms: int) -> int:
        """A new stamp, above every one before it."""
        self._last = max(pack(wall_ms), self._last + 1)
        return self._last

    def merge(self, stamp: int) -> None:
        """Take note of a stamp from elsewhere (R2)."""
        if stamp > self._last:
            self._last = stamp


class RegionTime:
    """A client's idea of region time: what a node said, advanced by the client's monotonic clock (R1)."""

    __slots__ = ("_at", "_base_ms")

    def __init__(self) -> None:
        self._base_ms = 0
        self._at = 0.0

    def told(self, region_ms: int, monotonic_s: float) -> None:
        """A node gave its region time; an earlier one than ours is ignored, time does not run back."""
        if region_ms > self.now_ms(monotonic_s):
            self._base_ms, self._at = region_ms, monotonic_s

    def now_ms(self, monotonic_s: float) -> int:
        """Region time now, in milliseconds; 0 before any node has said it."""
        if not self._base_ms:
            return 0
        return self._base_ms + int((monotonic_s - self._at) * 1000)
