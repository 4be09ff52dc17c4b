"""The nemesis: random faults in random order, overlapping, never more than one region unable to serve; then heal."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from evertalk.core.checker.figures import GAP_HANG_MS
from evertalk.drill.plan import Drill
from evertalk.drill.run import Run

_AT_ONCE = 3
_BETWEEN_S = (0.3, 2.5)  # from one attempt to break something to the next
_LASTS_S = (1.0, 8.0)
_QUIET = 0.9  # share of the load after which nothing new is broken

Do = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Blow:
    """One thing to break, for a while.

    Args:
        claims: what it breaks: names of processes, "wan X", "clock X". Two blows at once never share one.
        mend: ends it.
        grave: it takes what perhaps only this region holds: redundancy must be whole before (P1).
    """

    name: str
    claims: frozenset[str]
    strike: Do
    mend: Do
    grave: bool = False


class Claims:
    """What is broken now, and what may be broken besides.

    Args:
        parts: region -> (its Redis, its nodes).
    """

    def __init__(self, parts: Mapping[str, tuple[str, Sequence[str]]]) -> None:
        self._parts = parts
        self._taken: frozenset[str] = frozenset()

    def may(self, claims: frozenset[str]) -> bool:
        """None of them is broken, and with them at most one region would be unable to serve."""
        taken = self._taken | claims
        away = [r for r, (redis, nodes) in self._parts.items() if redis in taken or taken.issuperset(nodes)]
        return not claims & self._taken and len(away) <= 1

    @contextmanager
    def hold(self, claims: frozenset[str]) -> Iterator[None]:
        """They are broken meanwhile."""
        self._taken |= claims
        try:
            yield
        finally:
            self._taken -= claims


def blows(run: Run, chance: random.Random) -> list[Blow]:
    """Everything that can be broken in this cluster by its driver."""
    found: list[Blow] = []
    for name, region in run.cluster.regions.items():
        found += _of_region(run, name) + _of_wan(run, name)
        for process in (region.redis.name, region.replicator.name, *region.nodes):
            found += _of_process(run, process)
        found += _inside_redis(run, name) + _of_clock(run, name, chance)
        for node in region.nodes:
            found += _inside_node(run, node, chance)
    return found


def _of_region(run: Run, name: str) -> list[Blow]:
    faults, region = run.faults, run.cluster.region(name)
    whole = frozenset([region.redis.name, region.replicator.name, *region.nodes])
    back = partial(faults.return_region, name)
    return [
        Blow(f"kill {name}", whole, partial(faults.kill_region, name), back),
        Blow(f"lose {name}", whole, partial(faults.kill_region, name, lose_disks=True), back, grave=True),
        Blow(f"stop {name}", whole, partial(faults.stop_region, name), back),
        Blow(f"pause {name}", whole, partial(faults.pause_region, name), partial(faults.resume_region, name)),
    ]


def _of_process(run: Run, name: str) -> list[Blow]:
    faults, one, back = run.faults, frozenset([name]), partial(run.faults.return_process, name)
    return [
        Blow(f"kill {name}", one, partial(faults.kill_process, name), back),
        Blow(f"stop {name}", one, partial(faults.stop_process, name), back),
        Blow(f"pause {name}", one, partial(faults.pause_process, name), partial(faults.resume_process, name)),
    ]


def _of_wan(run: Run, name: str) -> list[Blow]:
    faults, one = run.faults, frozenset(f"wan {region}" for region in run.regions)  # a link has two ends
    heal = partial(faults.heal_wan, name)
    return [
        Blow(f"cut wan {name}", one, partial(faults.cut_wan, name), heal),
        Blow(f"cut wan {name} one way", one, partial(faults.cut_wan_one_way, name), heal),
        Blow(f"black hole wan {name}", one, partial(faults.black_hole_wan, name), heal),
        Blow(f"swallow replies {name}", one, partial(faults.swallow_replies, name), heal),
        Blow(f"delay wan {name}", one, partial(faults.delay_wan, name, 200.0, 300.0), heal),
        Blow(f"narrow wan {name}", one, partial(faults.narrow_wan, name, 64e3), heal),
    ]


def _inside_redis(run: Run, name: str) -> list[Blow]:
    faults, region = run.faults, run.cluster.region(name)
    redis, serving = region.redis.name, partial(run.until_serving, name)
    one, served = frozenset([redis]), frozenset([redis, *region.nodes])  # each of its nodes is waited for
    return [
        Blow(f"empty redis {name}", served, partial(faults.empty_redis, name), serving, grave=True),
        Blow(f"roll back {name}", one, partial(faults.keep_log, name), partial(faults.roll_back_redis, name), True),
        Blow(f"fill redis {name}", one, partial(faults.fill_redis, name), partial(faults.relieve_redis, name)),
        Blow(f"fill disk {redis}", one, partial(faults.fill_disk, redis), partial(faults.free_disk, redis)),
    ]


def _inside_node(run: Run, name: str, chance: random.Random) -> list[Blow]:
    faults, one, seed = run.faults, frozenset([name]), chance.randrange(1 << 30)
    there = faults.process(name).start  # it lives: this only waits until it serves
    found = [
        Blow(f"{way} {name}", one, partial(faults.damage_store, name, way, seed), there)
        for way in ("delete_store", "truncate_store", "tear_store", "flip_store")
    ]
    return [*found, Blow(f"fill disk {name}", one, partial(faults.fill_disk, name), partial(faults.free_disk, name))]


def _of_clock(run: Run, name: str, chance: random.Random) -> list[Blow]:
    one = frozenset(["clock"])  # of one region at a time
    right = partial(run.faults.skew, name, 0)
    offsets = (chance.randrange(1_000, 30_000), -chance.randrange(1_000, 30_000))
    return [Blow(f"clock {name}", one, partial(run.faults.skew, name, offset), right) for offset in offsets]


async def _nemesis(run: Run) -> None:
    chance = random.Random(f"nemesis/{run.plan.seed}")
    everything = blows(run, chance)
    claims = Claims({n: (r.redis.name, list(r.nodes)) for n, r in run.cluster.regions.items()})
    done: Counter[str] = Counter()
    async with asyncio.TaskGroup() as group:
        open_: set[asyncio.Task[None]] = set()
        while run.share() < _QUIET:
            await asyncio.sleep(chance.uniform(*_BETWEEN_S))
            blow = chance.choice(everything)
            if len(open_) < _AT_ONCE and claims.may(blow.claims):
                task = group.create_task(_strike(run, claims, blow, chance.uniform(*_LASTS_S), done))
                open_.add(task)
                task.add_done_callback(open_.discard)
    run.say(f"the nemesis struck {done.total()} times, in {len(done)} ways; everything is mended")
    for name in run.regions:
        await run.until_serving(name)


async def _strike(run: Run, claims: Claims, blow: Blow, lasts_s: float, done: Counter[str]) -> None:
    with claims.hold(blow.claims):
        if blow.grave and not (await run.operator.look()).redundancy.whole:
            return
        done[blow.name] += 1
        await blow.strike()
        await asyncio.sleep(lasts_s)
        await blow.mend()


DRILLS = (
    Drill(
        "nemesis",
        "at random: processes, regions, the WAN, what is stored, clocks; up to three at once, one region at most away",
        "everything, when all is mended",
        _nemesis,
        gap_ms=GAP_HANG_MS,
        seconds=60.0,
    ),
)
