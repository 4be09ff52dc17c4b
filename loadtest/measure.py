"""What a cluster has used, as the operating system, its Redis and its WAN count it; and the difference of two looks."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertalk.cluster.processes import ProcessCluster

SERVERS = ("node", "replicator", "redis")


@dataclass(frozen=True, slots=True)
class Look:
    """One moment. Times in seconds, memory and traffic in bytes, all since the processes started.

    Args:
        cpu_s, rss: by process.
        machine: busy, stolen and total seconds of all cores.
        calls: Redis commands of all regions, by name.
        redis_in, redis_out: bytes of Redis's connections; aof: its append-only files.
        wan: bytes that crossed between regions, both ways.
    """

    at_s: float
    cpu_s: dict[str, float]
    rss: dict[str, int]
    machine: tuple[float, float, float]
    calls: Counter[str]
    redis_in: int
    redis_out: int
    aof: int
    wan: int


@dataclass(frozen=True, slots=True)
class Used:
    """What went between two looks; `kinds`: CPU seconds by kind of process (node, replicator, redis, wan)."""

    seconds: float
    cpu_s: dict[str, float]
    kinds: dict[str, float]
    rss: dict[str, int]
    calls: Counter[str]
    redis_in: int
    redis_out: int
    aof: int
    wan: int
    stolen_share: float
    busy_share: float

    @property
    def server_cpu_s(self) -> float:
        """CPU of all chat nodes, replicators and Redis servers; the WAN proxy is not a server of ours."""
        return sum(self.kinds.get(kind, 0.0) for kind in SERVERS)


async def look(cluster: ProcessCluster, end: bool = False) -> Look:
    """Look now; what asks Redis and the WAN comes outside the span: before it, or with `end` behind it."""
    first = time.monotonic(), _cpu(cluster), _machine()
    infos = await asyncio.gather(
        *(cluster.ask_redis(region, "INFO", part) for region in cluster.regions for part in _PARTS)
    )
    links = await cluster.wan.stats()
    at, cpu, machine = first if end else (time.monotonic(), _cpu(cluster), _machine())
    calls: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for line in "\n".join(infos).splitlines():
        name, _, value = line.partition(":")
        if name.startswith("cmdstat_"):
            calls[name.removeprefix("cmdstat_")] += int(value.partition(",")[0].removeprefix("calls="))
        elif name in _TOTALS:
            totals[name] += int(value)
    return Look(
        at, cpu, {name: size for name, size in cluster.rss().items() if size is not None}, machine, calls,
        totals["total_net_input_bytes"], totals["total_net_output_bytes"], totals["aof_current_size"],
        sum(int(link[way]["bytes"]) for link in links for way in ("there", "back")),
    )  # fmt: skip


_PARTS = ("commandstats", "stats", "persistence")
_TOTALS = ("total_net_input_bytes", "total_net_output_bytes", "aof_current_size")


def used(cluster: ProcessCluster, before: Look, after: Look) -> Used:
    """What went between; a process that was started again in between counts from its start."""
    cpu = {name: now - before.cpu_s.get(name, 0.0) for name, now in after.cpu_s.items()}
    cpu = {name: spent if spent >= 0 else after.cpu_s[name] for name, spent in cpu.items()}
    kinds: Counter[str] = Counter()
    for process in cluster.processes:
        kinds[process.spec.kind] += cpu.get(process.name, 0.0)  # type: ignore[assignment]
    busy, stolen, total = (now - then for now, then in zip(after.machine, before.machine, strict=True))
    return Used(
        after.at_s - before.at_s, cpu, dict(kinds), after.rss, after.calls - before.calls,
        after.redis_in - before.redis_in, after.redis_out - before.redis_out, after.aof - before.aof,
        after.wan - before.wan, stolen / total if total else 0.0, busy / total if total else 0.0,
    )  # fmt: skip


def node_rss(cluster: ProcessCluster, rss: dict[str, int]) -> int:
    """Bytes of all chat nodes."""
    return sum(rss.get(process.name, 0) for process in cluster.processes if process.spec.kind == "node")


def _cpu(cluster: ProcessCluster) -> dict[str, float]:
    return {name: spent for name, spent in cluster.cpu_s().items() if spent is not None}


def _machine() -> tuple[float, float, float]:
    """(busy, stolen, total) seconds of all cores since boot; proc(5)."""
    fields = [int(text) for text in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    ticks: Any = os.sysconf("SC_CLK_TCK")
    idle, stolen, total = fields[3] + fields[4], fields[7], sum(fields)
    return (total - idle - stolen) / ticks, stolen / ticks, total / ticks
