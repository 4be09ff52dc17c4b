"""One measured cluster: processes started, people and conversations seeded, what is used between two moments."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from evertalk.cluster.layout import Options
from evertalk.cluster.processes import ProcessCluster
from evertalk.console.status import Operator, Place
from loadtest import measure
from loadtest.fleet import Fleet
from loadtest.measure import Used
from loadtest.plan import ClientPlan, Frames, Generator, Tally, WorkerPlan
from loadtest.seeding import Seeder, User

REGIONS = ("seoul", "busan", "daegu", "jeju")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Setup:
    """What may differ between runs.

    Args:
        regions, nodes: regions, and chat nodes in each.
        users: clients; what a workload makes of them it says.
        rate: sends per second of all together; 0: as fast as windows allow.
        warm_s, seconds: before it is measured, and while it is.
        processes: generator processes.
        delay_ms: of the WAN, one way.
        members: of a group, where a workload has groups; history: messages of its longest conversation (W7).
        samples: of what servers hold (soak).
        env: more environment of nodes and replicators.
    """

    regions: int = 2
    nodes: int = 1
    users: int = 100
    rate: float = 0.0
    warm_s: float = 3.0
    seconds: float = 10.0
    processes: int = 2
    generator: Generator = "bare"
    frames: Frames = "coalesced"
    window: int = 16
    size: int = 100
    delay_ms: float = 20.0
    members: int = 50
    history: int = 1_000_000
    samples: int = 20
    seed: int = 1
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """A measured run: what clients saw, what servers used, and what is left of it.

    Args:
        expected: deliveries that the sends acknowledged meanwhile come to; far more than were heard: queues grow.
        open: sends that nobody answered. lost, doubled: messages.
        client_rss: bytes that the chat nodes grew by when the clients came, per client.
        generator_cpu_s: of the generator processes meanwhile.
    """

    tally: Tally
    used: Used
    expected: int
    open: int
    lost: int
    doubled: int
    client_rss: float
    generator_cpu_s: float


class Bench:
    """A cluster of its own in a temporary directory. Use as a context manager."""

    def __init__(self, setup: Setup, say: Say) -> None:
        self.setup = setup
        self.say = say
        self.cluster: ProcessCluster
        self.seeder: Seeder
        self.operator: Operator
        self._rng = random.Random(f"bench/{setup.seed}")
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        setup = self.setup
        async with AsyncExitStack() as stack:
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="evertalk-load-"))
            names = REGIONS[: setup.regions]
            options = Options(delay_ms=setup.delay_ms, start_timeout_s=60.0, env=setup.env, max_memory_mb=2048)
            self.say(f"starting {len(names)} regions with {setup.nodes} chat nodes each")
            self.cluster = await stack.enter_async_context(
                await ProcessCluster.create(Path(place), names, setup.nodes, seed=setup.seed, options=options)
            )
            file = self.cluster.file
            self.operator = Operator([Place(e.region, e.node, e.address) for e in file.endpoints], dict(file.keys))
            stack.push_async_callback(self.operator.close)
            self.seeder = Seeder(self.cluster, self.operator)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    # ------------------------------------------------------------ clients

    def client(self, user: User, number: int, talks: Sequence[tuple[int, bytes]] = (), rate: float = 0.0) -> ClientPlan:
        """A client of a user, at any node of the user's region."""
        here = [e.address for e in self.cluster.file.endpoints if e.region == user.region]
        named = [(talk, scope.hex()) for talk, scope in talks]
        node = self._rng.choice(here)
        return ClientPlan(number, user.account.hex(), user.token, REGIONS.index(user.region), node, named, rate)

    def fleet(self, clients: Sequence[ClientPlan], processes: int = 0, generator: Generator | None = None) -> Fleet:
        """Generator processes for these clients."""
        setup = self.setup
        plan = WorkerPlan(
            generator or setup.generator, list(clients), setup.frames, setup.window, setup.size, setup.seed,
            [(e.region, e.address) for e in self.cluster.file.endpoints],
        )  # fmt: skip
        return Fleet(plan, processes or setup.processes)

    def rss(self) -> int:
        """Bytes of all chat nodes."""
        return measure.node_rss(self.cluster, {name: size or 0 for name, size in self.cluster.rss().items()})

    async def measured(self, clients: Sequence[ClientPlan], readers: Mapping[int, int]) -> Seen:
        """Connect the clients, run the load, and see what came of it.

        Args:
            readers: by conversation, how many clients hear what somebody says there.
        """
        setup, empty = self.setup, self.rss()
        async with self.fleet(clients) as fleet:
            grown = (self.rss() - empty) / len(clients)
            self.say(
                f"{len(clients)} clients are connected; {setup.warm_s:g} s to warm up, {setup.seconds:g} s measured"
            )
            run = await fleet.run(setup.warm_s, setup.seconds)
            await run.until(run.first_s - _LOOK_S)
            before, generators = await measure.look(self.cluster), fleet.cpu_s
            await run.until(run.last_s)
            after, generators = await measure.look(self.cluster, end=True), fleet.cpu_s - generators
            left = await run.finish()
            await fleet.settle(readers)
            tally = await fleet.result()
        used = measure.used(self.cluster, before, after)
        return self.seen(tally, used, left, readers, grown, generators)

    def seen(
        self,
        tally: Tally,
        used: Used,
        left: int,
        readers: Mapping[int, int],
        grown: float = 0.0,
        generators: float = 0.0,
    ) -> Seen:
        """A run with what is missing of it; `grown` and `generators` as in Seen."""
        sent = sum(map(len, tally.acked.values()))
        fan = sum(len(numbers) * readers[talk] for talk, numbers in tally.acked.items()) / max(1, sent)
        expected = round(tally.counts["acked"] * fan)
        return Seen(tally, used, expected, left, tally.lost(readers), tally.doubled(readers), grown, generators)


_LOOK_S = 0.05  # what asking Redis and the WAN takes
