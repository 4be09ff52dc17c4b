"""A whole run, small and short: what it writes, and that nothing is lost. How fast it was is nobody's test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest.__main__ import main
from loadtest.result import median, spread

KEYS = {
    "deliveries_per_s", "server_cpu_us_per_delivery", "latency_ms", "rss_kb_per_client", "floors", "nodes_per_region",
    "command", "commit", "runs",
}  # fmt: skip


@pytest.mark.timeout(180)
@pytest.mark.parametrize("generator", ["bare", "sdk"])
def test_a_run_writes_its_figures_and_loses_nothing(tmp_path: Path, generator: str) -> None:
    short = ["--users", "8", "--seconds", "1", "--warm-s", "0.5", "--no-floors"]
    assert main(["w1", "--out", str(tmp_path), "--generator", generator, *short]) == 0
    found = json.loads((tmp_path / "w1.json").read_text())
    assert found.keys() >= KEYS
    assert found["latency_ms"].keys() >= {"p50", "p99", "max"}
    assert found["deliveries_per_s"] > 0
    assert found["server_cpu_us_per_delivery"] > 0
    assert found["latency_ms"]["p50"] > 0
    assert found["latency_other_region_ms"]["p50"] > found["wan_delay_ms"]
    assert (found["lost"], found["doubled"], found["unanswered"], found["refused"]) == (0, 0, 0, 0)


def test_a_median_is_taken_figure_by_figure() -> None:
    runs = [{"a": 3, "b": {"p50": 1.0}, "c": None, "d": "x"}, {"a": 9, "b": {"p50": 5.0}, "c": None, "d": "x"}]
    assert median([*runs, {"a": 4, "b": {"p50": 2.0}, "c": None, "d": "x"}]) == {
        "a": 4, "b": {"p50": 2.0}, "c": None, "d": "x",
    }  # fmt: skip
    assert spread(runs, "a") == [3, 9]
    assert spread(runs, "c") == []
