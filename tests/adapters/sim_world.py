"""The simulated Redis as a world of the contract suites: on the real loop, with delays of nothing."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

from evertalk.adapters.clock import SystemIds
from evertalk.core.model import Stream
from evertalk.sim.network import Network
from evertalk.sim.process import Process
from evertalk.sim.redis import SimRedis
from evertalk.sim.redis_boards import SimBoard, SimBoardReader
from evertalk.sim.redis_ports import SimLog, SimTail, Station

_FULL = 1


class RealLoop:
    """What the simulation asks of its loop, over the one that runs the tests."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def time(self) -> float:
        return self._loop.time()

    def at(self, when: float, call: Any, *args: Any) -> None:
        self._loop.call_at(when, call, *args)

    def thaw(self, owner: Any) -> None:
        owner.frozen = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


class SimWire:
    """A faulty way to the simulated Redis: a place of its own, from which replies can be held."""

    def __init__(self, world: SimWorld) -> None:
        self._world = world
        self.place = f"wire-{time.monotonic_ns()}"

    def hold_replies(self) -> None:
        self._world.network.cut((self._world.redis.place, self.place))

    async def replied(self) -> None:
        async with asyncio.timeout(5):
            while not any(  # noqa: ASYNC110 nobody tells of a held reply
                c.down.queue for c in self._world.network.connections if c.path[0] == self.place
            ):
                await asyncio.sleep(0)

    def cut(self) -> None:
        self._world.network.reset((self.place, self._world.redis.place))


class SimWorld:
    """A region whose Redis is simulated."""

    def __init__(self, region: str, shards: int) -> None:
        self._region, self._shards = region, shards
        loop: Any = RealLoop()
        self.network = Network(loop, random.Random(1), wan_s=0.0, lan_s=0.0)
        self.redis = SimRedis(loop, region, random.Random(2))
        self._loop = loop

    def _station(self, wire: Any = None, writes: bool = True) -> Station:
        place = wire.place if wire is not None else self._region
        return Station(Process(self._loop, "test", place), self.network, self.redis, writes)

    def log(self, region: str = "", shards: int = 0, wire: Any = None) -> SimLog:
        return SimLog(self._station(wire), region or self._region, shards or self._shards, SystemIds())

    def tail(self, peer: bool = False, wire: Any = None) -> SimTail:
        return SimTail(self._station(wire, writes=not peer))

    def board(self, region: str = "", wire: Any = None) -> SimBoard:
        return SimBoard(self._station(wire), region or self._region)

    def reader(self, peer: bool = True, wire: Any = None) -> SimBoardReader:
        return SimBoardReader(self._station(wire, writes=not peer))

    def intruder(self) -> SimBoard:
        return SimBoard(self._station(writes=False), self._region)

    async def wire(self) -> SimWire:
        return SimWire(self)

    async def kill(self) -> None:
        self.redis.kill()
        await asyncio.sleep(0.001)  # what is told of it arrives

    async def restart(self) -> None:
        await self.kill()
        self.redis.restart()

    def freeze(self) -> None:
        self.redis.freeze()

    async def empty(self) -> None:
        self.redis.empty()

    async def remove(self, stream: Stream) -> None:
        del self.redis.data.streams[stream]

    async def fill(self) -> None:
        self.redis.maxmemory = _FULL

    async def drain(self) -> None:
        self.redis.maxmemory = 0

    async def misconfigure(self, name: str, value: str) -> None:
        self.redis.settings[name] = value

    async def age_stores(self, seconds: float) -> None:
        stores = self.redis.data.stores
        self.redis.data.stores = {name: (entry, end - seconds) for name, (entry, end) in stores.items()}

    async def forget_scripts(self) -> None:
        """There are none to forget."""
