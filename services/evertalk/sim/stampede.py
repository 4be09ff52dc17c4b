"""A stampede on virtual time: a region dies, and thousands of clients come to the other one at once.

    python -m evertalk.sim.stampede 10000

Nodes have a processor each here: a frame keeps it busy, a hello longer, and what comes meanwhile waits. So it shows
what a crowd does to who is served already, which a simulation where everything is done at once cannot.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from evertalk.client import Client
from evertalk.client.accounts import Registered, register
from evertalk.core.model import Applied, Kind
from evertalk.sim.loop import SimLoop, play
from evertalk.sim.network import CLIENTS
from evertalk.sim.own import SimClock
from evertalk.sim.plan import Shape
from evertalk.sim.process import Process
from evertalk.sim.rpc import Cpu, SimTransport
from evertalk.sim.world import World

#: What a hello and any other frame cost a node's processor, in seconds; about what one here takes.
HELLO_S, FRAME_S = 0.001, 0.00005
SHAPE = Shape(
    regions=("seoul", "busan"), nodes=(2, 2), shards=4, replicators=1, wan_s=0.015, clock_offsets_ms=(0, 0),
    drifts=(0.0, 0.0), log_cap_bytes=1 << 26, log_keep=1000, log_keep_s=3600.0, checkpoint_s=10.0,
)  # fmt: skip
_ACCOUNTS = 20  # many devices each
_SPEAKERS = 10
_EVERY_S = 0.1
_CALM_S = 5.0
_PATIENCE_S = 300.0
_PASSWORD = "a long password"
_NEWS = "said while they were away"


@dataclass
class Figures:
    """What came of it. `gap_s`: the longest that a speaker waited for an answer to what it said."""

    clients: int
    arrived_s: float = 0.0
    served_s: float = 0.0
    heard_s: float = 0.0
    gap_s: float = 0.0
    said: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)


class _Herd:
    """Clients of the region that dies, many devices of a few people."""

    def __init__(self, world: World, people: Sequence[Registered], clock: SimClock) -> None:
        self._world, self._people, self._clock = world, people, clock
        self.clients: list[Client] = []
        self.heard: set[int] = set()

    async def arrive(self, count: int) -> None:
        for number in range(count):
            process = self._world.process(f"device{number}", CLIENTS)
            client = client_of(self._world, process, self._people[number % len(self._people)], "seoul", self._clock)
            self.clients.append(client)
            process.start(self._listen(number, client))
        await until(lambda: all(client.node for client in self.clients))

    async def _listen(self, number: int, client: Client) -> None:
        async with client:
            async for happening in client.events():
                if isinstance(happening, Applied) and happening.event.kind == Kind.MESSAGE:
                    self.heard.add(number)


def client_of(world: World, process: Process, who: Registered, region: str, clock: SimClock) -> Client:
    """A real client in a process."""
    return Client(
        world.endpoints, region=region, access_token=who.token, receipts=False, start_timeout=_PATIENCE_S, clock=clock,
        ids=world.ids(process.name, clock), transport=SimTransport(process, world.board),
    )  # fmt: skip


async def until(done: Callable[[], bool]) -> float:
    """Until it is true; seconds that it took.

    Raises:
        TimeoutError: five minutes were not enough.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(_PATIENCE_S):
        while not done():  # noqa: ASYNC110 this time costs nothing
            await asyncio.sleep(0.05)
    return loop.time() - began


async def _story(count: int, seed: int, hello_s: float, found: Figures) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    world = World(loop, seed, SHAPE, found.failures.append)
    world.cpu = lambda: Cpu(loop, hello_s, FRAME_S)
    world.start()
    clock = SimClock(loop)
    process = world.process("people", CLIENTS)
    try:
        people = [
            await process.start(
                register(
                    world.endpoints, f"user{n}", _PASSWORD, region="busan", timeout=_PATIENCE_S,
                    transport=SimTransport(process, world.board), clock=clock, ids=world.ids(f"user{n}", clock),
                )
            )
            for n in range(_ACCOUNTS + _SPEAKERS)
        ]  # fmt: skip
        speakers = [client_of(world, process, who, "busan", clock) for who in people[_ACCOUNTS:]]
        herd = _Herd(world, people[:_ACCOUNTS], clock)
        began = loop.time()
        await herd.arrive(count)
        found.arrived_s = loop.time() - began
        await process.start(_talk(world, herd, speakers, people, found))
    finally:
        found.refused = world.network.counts["refused: OVERLOADED"]
        world.close()


async def _talk(
    world: World, herd: _Herd, speakers: Sequence[Client], people: Sequence[Registered], found: Figures
) -> None:
    """Speakers talk in pairs, and go on when the region dies; one of them tells the news to everybody."""
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        talking = [group.create_task(_speak(speaker, people[_ACCOUNTS], over, found)) for speaker in speakers[1:]]
        async with speakers[0] as teller:
            everybody = await teller.create_group("all", [p.account for p in people[:_ACCOUNTS]], timeout=None)
            await asyncio.sleep(_CALM_S)
            world.kill_region("seoul")
            await teller.send(everybody.id, _NEWS, timeout=None)
            found.served_s = await until(lambda: all(client.region == "busan" for client in herd.clients))
            found.heard_s = found.served_s + await until(lambda: len(herd.heard) == len(herd.clients))
            over.set()
        await asyncio.gather(*talking)


async def _speak(speaker: Client, other: Registered, over: asyncio.Event, found: Figures) -> None:
    loop = asyncio.get_running_loop()
    async with speaker:
        talk = await speaker.direct(other.account, timeout=None)
        while not over.is_set():
            began = loop.time()
            await speaker.send(talk.id, "as ever", timeout=None)
            found.gap_s = max(found.gap_s, loop.time() - began)
            found.said += 1
            await asyncio.sleep(_EVERY_S)


def stampede(count: int, seed: int = 1, hello_s: float = HELLO_S) -> Figures:
    """Let so many clients lose their region at once.

    Args:
        hello_s: what a hello costs a node, in seconds.

    Raises:
        TimeoutError: they were not served within five minutes.
    """
    found = Figures(count)
    play(
        _story(count, seed, hello_s, found),
        lambda context: found.failures.append(f"{context.get('message')} {context.get('exception')!r}"),
    )
    return found


def tell(found: Figures) -> None:
    """Print it."""
    print(f"{found.clients} clients came within {found.arrived_s:.1f} s; then their region died")
    print(f"all were served elsewhere after {found.served_s:.1f} s, and had heard the news after {found.heard_s:.1f} s")
    print(f"hellos sent away for a while: {found.refused}")
    print(f"who was there already said {found.said} things; the longest wait for an answer was {found.gap_s:.3f} s")
    for failure in found.failures:
        print(failure)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m evertalk.sim.stampede", description="A stampede on virtual time.")
    parser.add_argument("clients", type=int)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    found = stampede(chosen.clients, chosen.seed)
    tell(found)
    return 1 if found.failures else 0


if __name__ == "__main__":
    sys.exit(main())
