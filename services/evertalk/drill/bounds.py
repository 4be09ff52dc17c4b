"""Nothing grows without bound (P8): what a drill's gauges say of memory and of Redis's streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

#: What a process may gain in the second half: stores and caches warm up, a leak at full rate gains far more.
_GAIN_SHARE = 0.10
_GAIN_BYTES = 4_000_000
#: Beyond the cap lies only what own stores have not checkpointed, some seconds of it (R5).
_OVER_CAP = 3.0


class Gauge(NamedTuple):
    """`at_s`: seconds since the run began."""

    at_s: float
    name: str
    value: float
    target: str


def grown(gauges: Sequence[Gauge], began_s: float, ended_s: float) -> dict[str, tuple[float, float]]:
    """Resident bytes of each process at half time and at the end of the load, by name."""
    half_s = (began_s + ended_s) / 2
    found: dict[str, tuple[float, float]] = {}
    for name in {g.target for g in gauges if g.name == "rss_bytes"}:
        mine = [g for g in gauges if g.name == "rss_bytes" and g.target == name and began_s <= g.at_s <= ended_s]
        before, after = [g for g in mine if g.at_s <= half_s], [g for g in mine if g.at_s > half_s]
        if before and after:
            found[name] = (before[-1].value, after[-1].value)
    return dict(sorted(found.items()))


def largest_stream(gauges: Sequence[Gauge]) -> float:
    """Bytes of the largest stream seen in any region."""
    return max((g.value for g in gauges if g.name == "stream_bytes_max"), default=0.0)


def wrong(growth: Mapping[str, tuple[float, float]], largest: float, cap: int) -> str:
    """Empty if everything stayed bounded; else one sentence."""
    if largest > cap * _OVER_CAP:
        return f"a stream grew to {largest / 1024:.0f} KB, its cap is {cap / 1024:.0f} KB"
    for name, (half, end) in growth.items():
        if end - half > max(half * _GAIN_SHARE, _GAIN_BYTES):
            return f"{name} grew from {half / 1e6:.1f} MB at half time to {end / 1e6:.1f} MB at the end of the load"
    return ""
