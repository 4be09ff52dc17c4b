"""Times in an HdrHistogram: microseconds to three digits, mergeable, and small enough for a pipe."""

from __future__ import annotations

from collections.abc import Mapping

from hdrh.histogram import HdrHistogram

_LONGEST_US = 3_600_000_000  # an hour; nothing here waits longer
_DIGITS = 3


class Histogram:
    """Counts of microseconds."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found = HdrHistogram(1, _LONGEST_US, _DIGITS)

    @property
    def count(self) -> int:
        """How many were recorded."""
        return int(self._found.get_total_count())

    @property
    def max(self) -> int:
        """The longest, to three digits; 0 if there are none."""
        return int(self._found.get_max_value()) if self.count else 0

    def record(self, value: int) -> None:
        """Count a value once; a negative one (two clocks of one moment) as 0."""
        self._found.record_value(min(max(value, 0), _LONGEST_US))

    def merge(self, other: Histogram) -> None:
        """Add another's counts."""
        self._found.add(other._found)

    def percentile(self, share: float) -> int:
        """The value that this share (0 to 1) of all do not exceed; 0 if there are none."""
        return int(self._found.get_value_at_percentile(100 * share)) if self.count else 0

    def in_ms(self) -> dict[str, float]:
        """p50, p90, p99, p999, max and mean, of microseconds, in milliseconds."""
        shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
        found = {name: self.percentile(share) / 1000 for name, share in shares.items()}
        mean = self._found.get_mean_value() / 1000 if self.count else 0.0
        return {name: round(value, 3) for name, value in {**found, "max": self.max / 1000, "mean": mean}.items()}

    def to_json(self) -> Mapping[str, str]:
        """For another process; `from_json` reads it."""
        return {"hdr": self._found.encode().decode()}

    @staticmethod
    def from_json(data: Mapping[str, str]) -> Histogram:
        """What `to_json` wrote."""
        found = Histogram()
        found._found.decode_and_add(data["hdr"].encode())
        return found
