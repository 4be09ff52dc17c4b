"""A histogram of high dynamic range, in HdrHistogram's layout: every value to three digits, and mergeable."""

from __future__ import annotations

from collections.abc import Mapping

_BITS = 11  # 2048 values an octave: an error of at most 1 in 1024
_HALF = 1 << (_BITS - 1)


class Histogram:
    """Counts of integers ≥ 0, here microseconds."""

    __slots__ = ("_counts", "count", "max", "min", "total")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.total = 0
        self.min = 0
        self.max = 0

    def record(self, value: int) -> None:
        """Count a value once; a negative one (two clocks of one moment) as 0."""
        value = max(value, 0)
        index = _index(value)
        self._counts[index] = self._counts.get(index, 0) + 1
        self.min = min(self.min, value) if self.count else value
        self.max = max(self.max, value)
        self.total += value
        self.count += 1

    def merge(self, other: Histogram) -> None:
        """Add another's counts."""
        if not other.count:
            return
        for index, number in other._counts.items():
            self._counts[index] = self._counts.get(index, 0) + number
        self.min = min(self.min, other.min) if self.count else other.min
        self.max = max(self.max, other.max)
        self.total += other.total
        self.count += other.count

    def percentile(self, share: float) -> int:
        """The value that this share (0 to 1) of all do not exceed; 0 if there are none."""
        wanted, seen = max(1, -int(-share * self.count // 1)), 0
        for index in sorted(self._counts):
            seen += self._counts[index]
            if seen >= wanted:
                return min(_highest(index), self.max)
        return self.max

    def in_ms(self) -> dict[str, float]:
        """p50, p90, p99, p999, max and mean, of microseconds, in milliseconds."""
        shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
        found = {name: self.percentile(share) / 1000 for name, share in shares.items()}
        mean = self.total / self.count / 1000 if self.count else 0.0
        return {name: round(value, 3) for name, value in {**found, "max": self.max / 1000, "mean": mean}.items()}

    def to_json(self) -> dict[str, object]:
        """For another process; `from_json` reads it."""
        return {"counts": self._counts, "total": self.total, "min": self.min, "max": self.max}

    @staticmethod
    def from_json(data: Mapping[str, object]) -> Histogram:
        """What `to_json` wrote."""
        found = Histogram()
        counts = data["counts"]
        assert isinstance(counts, dict)
        found._counts = {int(index): int(number) for index, number in counts.items()}
        found.count = sum(found._counts.values())
        found.total, found.min, found.max = (int(str(data[name])) for name in ("total", "min", "max"))
        return found


def _index(value: int) -> int:
    """Octaves of _HALF steps, each step twice as wide as in the octave before."""
    shift = max(0, value.bit_length() - _BITS)
    return (shift << (_BITS - 1)) + (value >> shift)


def _highest(index: int) -> int:
    """The highest value that is counted there."""
    shift = max(0, (index >> (_BITS - 1)) - 1)
    return (((index - (shift << (_BITS - 1))) + 1) << shift) - 1
