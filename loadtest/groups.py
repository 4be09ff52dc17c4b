"""W2: groups in which everybody hears everybody, paced by deliveries."""

from __future__ import annotations

from collections.abc import Mapping

from loadtest.bench import REGIONS, Bench, Say, Setup
from loadtest.result import Figures, figures

#: `rate` is of deliveries here: 2,000/s.
W2 = Setup(users=200, members=50, rate=2000.0)


async def run(setup: Setup, floors: Mapping[str, float], say: Say) -> Figures:
    """One run on a new cluster: users // members groups, of which every member talks now and then."""
    async with Bench(setup, say) as bench:
        names = REGIONS[: setup.regions]
        number = max(1, setup.users // setup.members)
        users = await bench.seeder.users([names[k % len(names)] for k in range(number * setup.members)])
        groups = [users[n * setup.members : (n + 1) * setup.members] for n in range(number)]
        scopes = await bench.seeder.groups(groups)
        rate = setup.rate / (setup.members - 1) / len(users)
        clients = [
            bench.client(user, k, [(k // setup.members, scopes[k // setup.members])], rate)
            for k, user in enumerate(users)
        ]
        seen = await bench.measured(clients, dict.fromkeys(range(number), setup.members - 1))
        found = figures(setup, seen, floors)
        if "push_cpu_us" in floors:
            found["ratio_to_push"] = round(found["server_cpu_us_per_delivery"] / floors["push_cpu_us"], 2)
        return found
