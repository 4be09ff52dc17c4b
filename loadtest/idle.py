"""W5 and W6: many clients that only listen, at rest and coming back all at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace

from loadtest import measure, pairs
from loadtest.bench import REGIONS, Bench, Say, Setup
from loadtest.histogram import Histogram
from loadtest.plan import ClientPlan
from loadtest.result import Figures, figures, machine

W5 = Setup(users=1000, warm_s=12.0, seconds=20.0)
#: `users` come back; 100 others talk meanwhile, as in W3.
W6 = Setup(users=2000, rate=200.0, warm_s=3.0, seconds=15.0)
_TALKING = 100
_AWAY_S = 2.0
_CALM_S = 10.0


async def _listeners(bench: Bench, first: int) -> list[ClientPlan]:
    names = REGIONS[: bench.setup.regions]
    users = await bench.seeder.users([names[k % len(names)] for k in range(bench.setup.users)])
    return [bench.client(user, first + k) for k, user in enumerate(users)]


async def rest(setup: Setup, floors: Mapping[str, float], say: Say) -> Figures:
    """W5: what a client costs that says nothing and hears nothing: memory, and the heartbeats' CPU."""
    async with Bench(setup, say) as bench:
        clients = await _listeners(bench, 0)
        say(f"the cluster alone for {_CALM_S:g} s")
        await asyncio.sleep(_CALM_S / 2)
        alone = await _span(bench, _CALM_S)
        empty = bench.rss()
        async with bench.fleet(clients, generator="crowd") as fleet:
            say(f"{len(clients)} clients are connected; {setup.warm_s:g} s of rest, {setup.seconds:g} s measured")
            run = await fleet.run(setup.warm_s, setup.seconds)
            await run.until(run.first_s)
            grown = (bench.rss() - empty) / len(clients)
            used = await _span(bench, setup.seconds)
            await run.finish()
    kinds = {name: spent / used.seconds for name, spent in used.cpu_s.items()}
    return {
        "deliveries_per_s": 0.0,
        "server_cpu_us_per_delivery": None,
        "latency_ms": Histogram().in_ms(),
        "rss_kb_per_client": round(grown / 1024, 1),
        "floors": dict(floors),
        "nodes_per_region": setup.nodes,
        "users": setup.users,
        "idle_core_share_without_clients": _shares(alone),
        "idle_core_share": {name: round(share, 4) for name, share in kinds.items()},
        "cpu_us_per_client_and_s": round(used.server_cpu_s / used.seconds / len(clients) * 1e6, 1),
        "rss_mb": {name: round(size / 1e6, 1) for name, size in used.rss.items()},
        "machine": machine(used),
    }


async def _span(bench: Bench, seconds: float) -> measure.Used:
    before = await measure.look(bench.cluster)
    await asyncio.sleep(seconds)
    return measure.used(bench.cluster, before, await measure.look(bench.cluster, end=True))


def _shares(used: measure.Used) -> dict[str, float]:
    return {name: round(spent / used.seconds, 4) for name, spent in used.cpu_s.items()}


async def stampede(setup: Setup, floors: Mapping[str, float], say: Say) -> Figures:
    """W6: everybody who listens leaves and comes back at one moment, while others talk."""
    async with Bench(setup, say) as bench:
        listeners = await _listeners(bench, _TALKING)
        bench.setup = replace(setup, users=_TALKING)
        talking, readers = await pairs.prepare(bench)
        async with (
            bench.fleet(listeners, processes=1, generator="crowd") as herd,
            bench.fleet(talking, processes=1) as people,
        ):
            say(f"{len(listeners)} listen and {len(talking)} talk")
            run = await people.run(setup.warm_s, setup.seconds)
            await run.until(run.first_s)
            before, generators = await measure.look(bench.cluster), people.cpu_s + herd.cpu_s
            at = time.monotonic() + _AWAY_S
            took = [each for said in await herd.ask({"do": "return", "at": at}) for each in said["seconds"]]
            say(f"all {len(took)} are back after {max(took):.2f} s")
            await run.until(run.last_s)
            after = await measure.look(bench.cluster, end=True)
            generators = people.cpu_s + herd.cpu_s - generators
            left = await run.finish()
            await people.settle(readers)
            seen = bench.seen(
                await people.result(), measure.used(bench.cluster, before, after), left, readers, 0.0, generators
            )
    back = Histogram()
    for each in took:
        back.record(int(each * 1e6))
    return {**figures(setup, seen, floors), "returned": len(took), "return_ms": back.in_ms()}
