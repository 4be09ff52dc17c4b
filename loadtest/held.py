"""What servers hold when nothing is under way: memory, files, threads, tasks, logs; and how that grew."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from evertalk.adapters.redis_keys import stream_key
from evertalk.cluster import child
from evertalk.core.model import Stream
from loadtest.bench import Bench
from loadtest.fleet import LoadFailed
from loadtest.measure import SERVERS

#: By figure, then by process, node or region.
Sample = dict[str, dict[str, float]]
Series = dict[str, dict[str, list[float]]]
Growth = dict[str, dict[str, dict[str, float | None]]]

OF_A_LIFE = ("rss_mb", "fds", "threads", "tasks")  # begin anew with the process; the others outlive it
_PID = "pid"  # tells lives apart
_FEW = 8  # samples of a life that say nothing about growth
MUCH = 0.1


async def sample(bench: Bench, messages: int) -> Sample:
    """One look at every server; `messages`: sent so far. Stores keep all of them, so theirs is told per message.

    Raises:
        LoadFailed: a node does not answer.
    """
    cluster = bench.cluster
    found: Sample = {_PID: {}, **{name: {} for name in OF_A_LIFE}}
    for process in cluster.processes:
        if process.spec.kind in SERVERS and process.pid is not None:
            inside = Path("/proc", str(process.pid))
            found[_PID][process.name] = process.pid
            found["rss_mb"][process.name] = (child.rss(process.pid) or 0) / 1e6
            found["fds"][process.name] = len(os.listdir(inside / "fd"))
            found["threads"][process.name] = len(os.listdir(inside / "task"))
    look = await bench.operator.ask_all()
    if look.silent:
        raise LoadFailed(f"nodes do not say what they hold: {look.silent}")
    answers = look.answers
    found["tasks"] = {name: answer.tasks for name, answer in answers.items()}
    found["stream_entries"] = {each.region: sum(s.length for s in each.streams) for each in answers.values()}
    found["redis_mb"] = {region: await _used_memory(bench, region) / 1e6 for region in cluster.regions}
    if unread := [name for name, answer in answers.items() if not answer.log_reachable]:
        raise LoadFailed(f"nodes do not reach their Redis: {unread}")
    streams = {
        each.region: {stream_key(Stream(s.origin, s.shard, s.mirror)) for s in each.streams}
        for each in answers.values()
    }
    found["streams_mb"] = {region: await _memory_of(bench, region, keys) / 1e6 for region, keys in streams.items()}
    found["redis_beyond_streams_mb"] = {
        region: found["redis_mb"][region] - held for region, held in found["streams_mb"].items()
    }
    found["store_bytes_per_message"] = {
        node.name: sum(file.stat().st_size for file in node.directory.glob("store.db*")) / max(1, messages)
        for node in cluster.layout.nodes()
    }
    return found


async def _used_memory(bench: Bench, region: str) -> int:
    said = await bench.cluster.ask_redis(region, "INFO", "memory")
    return int(dict(line.split(":", 1) for line in said.splitlines() if ":" in line)["used_memory"])


async def _memory_of(bench: Bench, region: str, keys: Iterable[str]) -> int:
    """What retention keeps: bytes of whole streams, each entry counted."""
    asked = [await bench.cluster.ask_redis(region, "MEMORY", "USAGE", key, "SAMPLES", "0") for key in keys]
    return sum(int(said or 0) for said in asked)  # nothing: a stream has gone meanwhile


def series(samples: Sequence[Sample]) -> Series:
    """The same, each figure of each in a row."""
    return {
        figure: {who: [round(each[figure][who], 2) for each in samples] for who in whose}
        for figure, whose in samples[0].items()
    }


def growth(found: Series) -> Growth:
    """Of each figure and process: the first sample, and the medians of the second and the last quarter; the first
    quarter fills caches. Of a process that was started again only its last life counts."""
    return {
        figure: {
            who: _grown(_last_life(values, found[_PID][who]) if figure in OF_A_LIFE else values)
            for who, values in whose.items()
        }
        for figure, whose in found.items()
        if figure != _PID
    }


def _last_life(values: Sequence[float], pids: Sequence[float]) -> Sequence[float]:
    return values[pids.index(pids[-1]) :]


def _grown(values: Sequence[float]) -> dict[str, float | None]:
    quarter = len(values) // 4
    if len(values) < _FEW:
        return {"first": values[0], "middle": None, "last": values[-1], "growth": None}
    middle, last = statistics.median(values[quarter : 2 * quarter]), statistics.median(values[-quarter:])
    grown = round(last / middle - 1, 3) if middle else None
    return {"first": values[0], "middle": middle, "last": last, "growth": grown}


def grew(found: Growth) -> list[str]:
    """Each figure that grew much, by name."""
    return [
        f"{figure} of {who} by {grown['growth']:.0%} ({grown['middle']:,.6g} to {grown['last']:,.6g})"
        for figure, whose in found.items()
        for who, grown in whose.items()
        if (grown["growth"] or 0.0) > MUCH
    ]
