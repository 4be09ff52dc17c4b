"""What a drill calls bounded, and what not."""

from __future__ import annotations

from evertalk.drill.bounds import Gauge, grown, largest_stream, wrong

CAP = 256 * 1024


def rss(per_s: float) -> list[Gauge]:
    return [Gauge(t, "rss_bytes", 80e6 + per_s * t, "seoul-1") for t in range(0, 61, 2)]


def streams(most: float) -> list[Gauge]:
    return [Gauge(t, "stream_bytes_max", min(most, t * 1e5), "seoul") for t in range(0, 61, 2)]


def test_a_warm_process_and_a_trimmed_stream_are_bounded() -> None:
    gauges = rss(per_s=50e3) + streams(CAP)
    assert wrong(grown(gauges, 0, 60), largest_stream(gauges), CAP) == ""


def test_a_leak_is_named_with_its_process() -> None:
    assert "seoul-1 grew" in wrong(grown(rss(per_s=400e3), 0, 60), 0, CAP)


def test_a_stream_far_beyond_its_cap_is_named() -> None:
    assert "a stream grew" in wrong({}, largest_stream(streams(4 * CAP)), CAP)


def test_a_process_that_was_down_for_a_half_is_not_compared() -> None:
    assert grown([g for g in rss(1e6) if g.at_s < 30], 0, 60) == {}
