"""W1 and W3: pairs of people, of which one talks and the other listens, over all regions alike."""

from __future__ import annotations

from collections.abc import Mapping

from loadtest.bench import REGIONS, Bench, Say, Setup
from loadtest.plan import ClientPlan
from loadtest.result import Figures, figures

W1 = Setup(users=100, rate=0.0)
W3 = Setup(users=100, rate=200.0, warm_s=3.0, seconds=20.0)


async def prepare(bench: Bench) -> tuple[list[ClientPlan], dict[int, int]]:
    """Clients of all pairs, those who talk first; and the readers of each conversation.

    Every combination of the regions of both is as frequent as any other.
    """
    setup = bench.setup
    pairs = setup.users // 2
    names = REGIONS[: setup.regions]
    talking = await bench.seeder.users([names[k % len(names)] for k in range(pairs)])
    reading = await bench.seeder.users([names[k // len(names) % len(names)] for k in range(pairs)])
    scopes = await bench.seeder.pairs(list(zip(talking, reading, strict=True)))
    rate = setup.rate / pairs
    clients = [bench.client(user, k, [(k, scopes[k])], rate) for k, user in enumerate(talking)]
    clients += [bench.client(user, pairs + k) for k, user in enumerate(reading)]
    return clients, dict.fromkeys(range(pairs), 1)


async def run(setup: Setup, floors: Mapping[str, float], say: Say) -> Figures:
    """One run on a new cluster."""
    async with Bench(setup, say) as bench:
        clients, readers = await prepare(bench)
        return figures(setup, await bench.measured(clients, readers), floors)
