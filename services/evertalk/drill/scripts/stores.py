"""Drills that break what is stored: Redis emptied, rolled back, full; stores deleted, damaged; disks full."""

from __future__ import annotations

from evertalk.drill.plan import Drill, Script
from evertalk.drill.run import Run
from evertalk.drill.scripts import BREAK, MEND, SHORT_S


def _node(run: Run) -> str:
    return next(iter(run.cluster.region(run.regions[0]).nodes))


def _damage(way: str) -> Script:
    async def script(run: Run) -> None:
        await run.until(BREAK)
        await run.faults.damage_store(_node(run), way, run.plan.seed)

    return script


async def _fill_node(run: Run) -> None:
    await run.until(BREAK)
    await run.faults.fill_disk(_node(run))
    await run.until(MEND)
    await run.faults.free_disk(_node(run))


async def _fill_redis_disk(run: Run) -> None:
    redis = run.cluster.region(run.regions[0]).redis.name
    await run.until(BREAK)
    await run.faults.fill_disk(redis)
    await run.until(MEND)
    await run.faults.free_disk(redis)


async def _fill_redis(run: Run) -> None:
    await run.until(BREAK)
    await run.faults.fill_redis(run.regions[0])
    await run.until(MEND)
    await run.faults.relieve_redis(run.regions[0])


async def _empty_redis(run: Run) -> None:
    await run.until(BREAK)
    await run.faults.empty_redis(run.regions[0])


async def _roll_back_redis(run: Run) -> None:
    await run.until(0.2)
    await run.faults.keep_log(run.regions[0])
    await run.until(0.5)
    await run.faults.roll_back_redis(run.regions[0])


_REBUILT = "it builds its store again and becomes equal; its people go on within a second"

DRILLS = (
    Drill(
        "redis-emptied",
        "FLUSHALL in one region's Redis",
        "a new origin; what only its log held comes from stores and outboxes",
        _empty_redis,
        seconds=SHORT_S,
    ),
    Drill(
        "redis-rolled-back",
        "one region's Redis comes back with its files of a while ago",
        "a new origin: no old position is mistaken for a new one, nothing is lost or doubled",
        _roll_back_redis,
        seconds=SHORT_S,
    ),
    Drill(
        "redis-full",
        "one region's Redis reaches its maxmemory",
        "its sends are refused by name, people go on elsewhere; trimming still works",
        _fill_redis,
        seconds=SHORT_S,
    ),
    Drill(
        "store-deleted",
        "a node dies and its store's files are deleted",
        _REBUILT,
        _damage("delete_store"),
        seconds=SHORT_S,
    ),
    Drill(
        "store-truncated",
        "a node dies and its store's file is cut to half",
        _REBUILT,
        _damage("truncate_store"),
        seconds=SHORT_S,
    ),
    Drill(
        "store-torn",
        "a node dies and a page of its store is noise",
        _REBUILT,
        _damage("tear_store"),
        seconds=SHORT_S,
    ),
    Drill(
        "store-flipped",
        "a node dies and 32 bits of its store flip",
        _REBUILT,
        _damage("flip_store"),
        seconds=SHORT_S,
    ),
    Drill(
        "disk-full-node",
        "no file of a node can grow",
        "it serves nobody until there is room; its people go on within a second",
        _fill_node,
        seconds=SHORT_S,
    ),
    Drill(
        "disk-full-redis",
        "no file of one region's Redis can grow: it ends itself",
        "nothing acknowledged is lost, people go on within a second",
        _fill_redis_disk,
        seconds=SHORT_S,
    ),
)
