"""W4: what people notice when a region dies, and when one falls silent: W3 on the real SDK, which moves to another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from evertalk.cluster.verbs import Region
from loadtest import measure, pairs
from loadtest.bench import REGIONS, Bench, Say, Seen, Setup
from loadtest.fleet import Fleet
from loadtest.result import Figures, figures

W4 = Setup(users=100, rate=200.0, warm_s=3.0, seconds=20.0, generator="sdk")
_FALLEN = 0  # number of the region that falls
_BEFORE, _AFTER = 0.25, 0.65  # shares of the measured time at which it falls and comes back


async def run(setup: Setup, floors: Mapping[str, float], say: Say) -> Figures:
    """One cluster; the region is killed and started again, then stopped and resumed."""
    found: Figures = {}
    async with Bench(setup, say) as bench:
        clients, readers = await pairs.prepare(bench)
        region: Region = bench.cluster.region(REGIONS[_FALLEN])
        empty = bench.rss()
        async with bench.fleet(clients) as fleet:
            grown = (bench.rss() - empty) / len(clients)
            seen: list[Seen] = []
            for name, fall, rise in (
                ("killed", region.kill, region.start),
                ("stopped", region.stop, region.resume),
            ):
                say(f"{region.name} will be {name}")
                seen.append(await _phase(bench, fleet, readers, grown, fall, rise))
                found[name] = _told(seen[-1])
    whole = {key: sum(found[name][key] for name in found) for key in ("lost", "doubled", "unanswered")}
    return {**figures(setup, seen[0], floors), **whole, **found}


def _told(seen: Seen) -> Figures:
    return {
        "gap_ms": seen.tally.histograms["gap"].in_ms(),
        "latency_ms": seen.tally.histograms["same"].in_ms(),
        "acknowledged": sum(map(len, seen.tally.acked.values())),
        "lost": seen.lost,
        "doubled": seen.doubled,
        "unanswered": seen.open,
    }


async def _phase(
    bench: Bench,
    fleet: Fleet,
    readers: Mapping[int, int],
    grown: float,
    fall: Callable[[], Awaitable[None]],
    rise: Callable[[], Awaitable[None]],
) -> Seen:
    """What clients saw of one fault, the gaps only of those whose region it was."""
    setup = bench.setup
    await fleet.until_home()
    run = await fleet.run(setup.warm_s, setup.seconds)
    await run.until(run.first_s)
    before, generators = await measure.look(bench.cluster), fleet.cpu_s
    await run.until(run.first_s + _BEFORE * setup.seconds)
    await fall()
    await run.until(run.first_s + _AFTER * setup.seconds)
    await rise()
    await run.until(run.last_s)
    used = measure.used(bench.cluster, before, await measure.look(bench.cluster, end=True))
    generators = fleet.cpu_s - generators
    left = await run.finish()
    await fleet.settle(readers)
    return bench.seen(await fleet.result(_FALLEN), used, left, readers, grown, generators)
