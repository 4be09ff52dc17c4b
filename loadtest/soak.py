"""The soak: as many messages as two hours at 100 a second bring, with processes killed in between; who leaks holds
more each time that nothing is under way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from evertalk.cluster.processes import ProcessRegion
from evertalk.cluster.verbs import Process
from loadtest import held, measure, pairs
from loadtest.bench import REGIONS, Bench, Say, Seen, Setup
from loadtest.fleet import Fleet, LoadFailed
from loadtest.held import Sample
from loadtest.result import Figures, machine

#: Time runs as much faster as the load does: logs keep so few entries that they are full within the first quarter, and
#: files are rewritten all along.
_FASTER = {"EVERTALK_LOG_KEEP": "200", "EVERTALK_REWRITE_S": "60", "EVERTALK_CHECKPOINT_S": "1"}
SOAK = Setup(users=100, rate=2000.0, seconds=360.0, generator="sdk", env=_FASTER)
_FALLEN = REGIONS[0]  # all faults are there: the others' processes run through
_EVERY = 2  # stretches of load, of which one has a fault
_FALL, _RISE = 0.2, 0.5  # shares of the stretch
_WHOLE_S = 60.0
_POLL_S = 0.25
_CALM_S = 5.0  # until all is checkpointed, told and trimmed


async def run(setup: Setup, floors: Mapping[str, float], say: Say) -> Figures:
    """One cluster; as many stretches of load as samples, every second one with a fault."""
    samples: list[Sample] = []
    sent: list[int] = []
    kills: list[Figures] = []
    stretch_s, left = setup.seconds / setup.samples, 0
    async with Bench(setup, say) as bench:
        clients, readers = await pairs.prepare(bench)
        async with bench.fleet(clients) as fleet:
            before, generators = await measure.look(bench.cluster), fleet.cpu_s
            for number in range(setup.samples):
                victim = _victim(bench.cluster.region(_FALLEN), number)
                if victim:
                    at = setup.rate * stretch_s * (number + _FALL)
                    kills.append({"messages": round(at), "killed": victim.name})
                left = await _stretch(fleet, stretch_s, victim)
                await _calm(bench, fleet, readers)
                sent.append(await _acknowledged(fleet))
                samples.append(await held.sample(bench, sent[-1]))
                say(f"{sent[-1]:,} messages" + (f"; {victim.name} was killed" if victim else ""))
            used = measure.used(bench.cluster, before, await measure.look(bench.cluster, end=True))
            generators = fleet.cpu_s - generators
            seen = bench.seen(await fleet.result(), used, left, readers, 0.0, generators)
    return {**_told(seen), "kills": kills, "sent": sent, **_growth(seen, samples)}


def _told(seen: Seen) -> Figures:
    histograms = seen.tally.histograms
    return {
        "acknowledged": sum(map(len, seen.tally.acked.values())),
        "lost": seen.lost,
        "doubled": seen.doubled,
        "unanswered": seen.open,
        "refused": seen.tally.counts["refused"],
        "latency_ms": histograms["same"].in_ms(),
        "latency_other_region_ms": histograms["other"].in_ms(),
        "seconds": round(seen.used.seconds, 1),
        "machine": machine(seen.used, seen.generator_cpu_s),
    }


def _growth(seen: Seen, samples: Sequence[Sample]) -> Figures:
    found = held.series(samples)
    growth = held.growth(found)
    grew = held.grew(growth) or ["nothing"]
    return {
        "growth": growth,
        "samples": found,
        "verdict": f"{seen.lost} lost, {seen.doubled} doubled; grown by more than {held.MUCH:.0%}"
        f" from the second quarter of the samples to the last: {'; '.join(grew)}",
    }


def _victim(region: ProcessRegion, number: int) -> Process | ProcessRegion | None:
    """What is killed in a stretch of load, if anything."""
    if number % _EVERY:
        return None
    victims = (region.replicator, next(iter(region.nodes.values())), region.redis, region)
    return victims[number // _EVERY % len(victims)]


async def _stretch(fleet: Fleet, seconds: float, victim: Process | ProcessRegion | None) -> int:
    """Load, with a fault in it; how many sends have no answer."""
    run = await fleet.run(0.0, seconds, goes_on=True)
    if victim:
        await run.until(run.first_s + _FALL * seconds)
        await victim.kill()
        await run.until(run.first_s + _RISE * seconds)
        await victim.start(wait=False)  # a node may have much to catch up with: the calm waits for it
    await run.until(run.last_s)
    return await run.finish()


async def _calm(bench: Bench, fleet: Fleet, readers: Mapping[int, int]) -> None:
    """Until nothing is under way, nothing broken and everybody at home: then one sample compares to another.

    Raises:
        LoadFailed: it does not come to that.
    """
    await fleet.settle(readers)
    await fleet.until_home()
    last = time.monotonic() + _WHOLE_S
    while not (found := (await bench.operator.look()).redundancy).whole:
        if time.monotonic() > last:
            raise LoadFailed(f"redundancy is not whole within {_WHOLE_S:g} s: {found.reasons[0]}")
        await asyncio.sleep(_POLL_S)
    await asyncio.sleep(_CALM_S)


async def _acknowledged(fleet: Fleet) -> int:
    return sum(sum(each["acked"].values()) for each in await fleet.ask({"do": "progress"}))
