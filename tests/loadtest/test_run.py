"""A whole run, small and short: what it writes, and that nothing is lost. How fast it was is nobody's test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest import held
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


@pytest.mark.timeout(240)
def test_a_soak_loses_nothing_and_says_what_each_server_holds(tmp_path: Path) -> None:
    short = ["--users", "8", "--rate", "100", "--seconds", "6", "--samples", "2", "--no-floors"]
    assert main(["soak", "--out", str(tmp_path), *short]) == 0
    found = json.loads((tmp_path / "soak.json").read_text())
    assert (found["lost"], found["doubled"], found["unanswered"]) == (0, 0, 0)
    assert [kill["killed"] for kill in found["kills"]] == ["seoul-replicator"]
    assert found["acknowledged"] == found["sent"][-1] > found["sent"][0] > 0
    servers = {f"{region}-{each}" for region in ("seoul", "busan") for each in ("redis", "replicator", "1")}
    whose = {"rss_mb": servers, "fds": servers, "threads": servers, "tasks": {"seoul-1", "busan-1"}}
    whose |= {
        "store_bytes_per_message": whose["tasks"],
        **{key: {"seoul", "busan"} for key in ("redis_mb", "streams_mb", "redis_beyond_streams_mb")},
    }
    for figure, names in whose.items():
        samples = found["samples"][figure]
        assert samples.keys() == names == found["growth"][figure].keys(), figure
        assert all(len(values) == 2 and min(values) > 0 for values in samples.values()), samples


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    place, out = tmp_path / "tmp", tmp_path / "out"
    place.mkdir()
    words = [sys.executable, "-u", "-m", "loadtest", "w3", "--users", "4", "--no-floors", "--out", str(out)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(place)}) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if "starting" in line:
                break
        while not list(place.glob("evertalk-load-*/seoul/*.log")):
            assert run.poll() is None
        run.send_signal(number)
        assert run.wait(60) == 1
    assert not list(place.glob("evertalk-load-*"))
    assert not out.exists()


def test_growth_is_told_of_a_process_since_its_last_start() -> None:
    climbing = [float(n) for n in range(10, 26)]
    found = held.growth(
        {
            "pid": {"a": [1.0] * 16, "b": [1.0] * 8 + [2.0] * 8, "c": [1.0] * 9 + [2.0] * 7},
            "fds": {"a": climbing, "b": climbing, "c": climbing},
            "redis_mb": {"seoul": [9.0] + [3.0] * 15},
        }
    )
    assert found["fds"]["a"] == {"first": 10, "middle": 15.5, "last": 23.5, "growth": 0.516}
    assert found["fds"]["b"] == {"first": 18, "middle": 20.5, "last": 24.5, "growth": 0.195}
    assert found["fds"]["c"] == {"first": 19, "middle": None, "last": 25, "growth": None}
    assert held.grew(found) == ["fds of a by 52% (15.5 to 23.5)", "fds of b by 20% (20.5 to 24.5)"]


def test_a_median_is_taken_figure_by_figure() -> None:
    runs = [{"a": 3, "b": {"p50": 1.0}, "c": None, "d": "x"}, {"a": 9, "b": {"p50": 5.0}, "c": None, "d": "x"}]
    assert median([*runs, {"a": 4, "b": {"p50": 2.0}, "c": None, "d": "x"}]) == {
        "a": 4, "b": {"p50": 2.0}, "c": None, "d": "x",
    }  # fmt: skip
    assert spread(runs, "a") == [3, 9]
    assert spread(runs, "c") == []
