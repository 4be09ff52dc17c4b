"""Drills that break one process of a region: killed, paused, restarted in order; and its clock."""

from __future__ import annotations

from evertalk.core.checker.figures import GAP_HANG_MS
from evertalk.drill.plan import Drill, Script
from evertalk.drill.run import Run
from evertalk.drill.scripts import BREAK, MEND, SHORT_S

_SKEW_MS = 30_000


def _one(run: Run, kind: str) -> str:
    """Name of the first region's node, redis or replicator."""
    region = run.cluster.region(run.regions[0])
    return {"node": next(iter(region.nodes)), "redis": region.redis.name, "replicator": region.replicator.name}[kind]


def _kill(kind: str) -> Script:
    async def script(run: Run) -> None:
        await run.until(BREAK)
        await run.faults.kill_process(_one(run, kind))
        await run.until(MEND)
        await run.faults.return_process(_one(run, kind))

    return script


def _pause(kind: str) -> Script:
    async def script(run: Run) -> None:
        await run.until(BREAK)
        await run.faults.pause_process(_one(run, kind))
        await run.until(MEND)
        await run.faults.resume_process(_one(run, kind))

    return script


async def _restart_all(run: Run) -> None:
    """Every process of every region in turn, in order, the next when the last one serves."""
    await run.until(0.05)
    for region in run.cluster.regions.values():
        for name in (*region.nodes, region.replicator.name, region.redis.name):
            await run.faults.stop_process(name)
            await run.faults.return_process(name)
        await run.until_serving(region.name)


async def _drain_nodes(run: Run) -> None:
    """Each node of the first region in turn."""
    for number, node in enumerate(run.cluster.region(run.regions[0]).nodes):
        await run.until(0.2 + 0.3 * number)
        await run.faults.stop_process(node)
        await run.until(0.35 + 0.3 * number)
        await run.faults.return_process(node)


def _clock(*jumps: tuple[float, int]) -> Script:
    """(share of the load, offset in milliseconds) …"""

    async def script(run: Run) -> None:
        for share, offset_ms in jumps:
            await run.until(share)
            await run.faults.skew(run.regions[0], offset_ms)

    return script


_CLOCK_HOLDS = "order and deliveries are as ever in both regions, and nobody is silenced"

DRILLS = (
    Drill(
        "kill-node", "one chat node, by SIGKILL", "its people go on within a second; it returns and becomes equal",
        _kill("node"), seconds=SHORT_S,
    ),
    Drill(
        "kill-redis",
        "the Redis of one region, by SIGKILL; its nodes live on",
        "people go on within a second, in the other region; the log's new origin goes on from what was on the disk",
        _kill("redis"), seconds=SHORT_S,
    ),
    Drill(
        "kill-replicator", "the replicator of one region, by SIGKILL",
        "people of both regions go on; what was not carried is carried when it returns", _kill("replicator"),
        seconds=SHORT_S,
    ),
    Drill(
        "pause-node", "one chat node stands still (SIGSTOP), its connections stay open",
        "its people go on within two seconds", _pause("node"), gap_ms=GAP_HANG_MS, seconds=SHORT_S,
    ),
    Drill(
        "pause-redis", "the Redis of one region stands still (SIGSTOP)", "people go on within two seconds",
        _pause("redis"), gap_ms=GAP_HANG_MS, seconds=SHORT_S,
    ),
    Drill(
        "pause-replicator", "the replicator of one region stands still (SIGSTOP)",
        "people of both regions go on; it leaves no hole when it goes on", _pause("replicator"),
        gap_ms=GAP_HANG_MS, seconds=SHORT_S,
    ),
    Drill(
        "rolling-restart", "every process of every region in turn, in order (SIGTERM), under load",
        "nobody loses an acknowledgement, people go on within a second", _restart_all, seconds=60.0,
        converged_s=90.0,  # they talk on for most of it
    ),
    Drill(
        "drain-node", "each node of one region in turn, in order (SIGTERM)",
        "its people are handed over without losing an acknowledgement", _drain_nodes, seconds=SHORT_S,
    ),
    Drill(
        "clock-ahead", "the clock of one region is 30 s fast", _CLOCK_HOLDS,
        _clock((0.0, _SKEW_MS), (0.8, 0)), seconds=SHORT_S,
    ),
    Drill(
        "clock-behind", "the clock of one region is 30 s slow", _CLOCK_HOLDS,
        _clock((0.0, -_SKEW_MS), (0.8, 0)), seconds=SHORT_S,
    ),
    Drill(
        "clock-jumps", "the clock of one region jumps 30 s ahead, a minute back, and right again", _CLOCK_HOLDS,
        _clock((0.2, _SKEW_MS), (0.45, -_SKEW_MS), (0.7, 0)), seconds=SHORT_S,
    ),
)  # fmt: skip
