"""The histogram against sorted lists, and over a pipe."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.histogram import Histogram

values = st.lists(st.integers(0, 10**9), min_size=1, max_size=200)


def of(numbers: list[int]) -> Histogram:
    found = Histogram()
    for number in numbers:
        found.record(number)
    return found


@given(values, st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_percentile_is_right_to_three_digits_and_never_too_low(numbers: list[int], share: float) -> None:
    exact = sorted(numbers)[max(1, int(share * len(numbers) + 0.5)) - 1]  # of that many, half a one counts
    assert exact <= of(numbers).percentile(share) <= exact * 1.001 + 1


@settings(max_examples=30)  # what goes over the pipe takes a tenth of a second to pack
@given(values, values)
def test_merged_histograms_are_that_of_both(one: list[int], other: list[int]) -> None:
    merged = of(one)
    merged.merge(Histogram.from_json(json.loads(json.dumps(of(other).to_json()))))
    assert merged.in_ms() == of(one + other).in_ms()
    assert merged.count == len(one) + len(other)


def test_an_empty_histogram_says_zero() -> None:
    assert Histogram().in_ms() == dict.fromkeys(("p50", "p90", "p99", "p999", "max", "mean"), 0.0)
