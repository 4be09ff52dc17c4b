"""The faults that a drill's script can do, the same for every driver: each is done, told, and recorded with its end."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from evertalk.cluster.verbs import Cluster, ClusterError, Process
from evertalk.drill.recorder import Recorder

_FULL_BYTES = 64 * 1024  # what a Redis "at maxmemory" may still take


class Faults:
    """Breaks a cluster and mends it.

    Args:
        say: tells whoever watches.

    Raises (each verb):
        ClusterError: it cannot be done, by this driver or now.
    """

    def __init__(self, cluster: Cluster, recorder: Recorder, say: Callable[[str], None]) -> None:
        self.away: dict[str, str] = {}  # region that serves nobody -> the word that the view shows
        self._cluster = cluster
        self._recorder = recorder
        self._say = say
        self._lasting: dict[tuple[str, str], int] = {}  # (kind, target) of a fault that lasts -> its record
        self._maxmemory: dict[str, str] = {}  # region -> what was set before its Redis was "full"

    def _begin(self, kind: str, verb: str, target: str, effect: str) -> None:
        self._lasting[kind, target] = self._recorder.record_fault(verb, target, effect)

    def _end(self, kind: str, target: str) -> None:
        fault = self._lasting.pop((kind, target), None)
        if fault is None:
            raise ClusterError(f"nothing of this kind ({kind}) was done to {target}")
        self._recorder.end_fault(fault)

    # ------------------------------------------------------------ regions

    async def kill_region(self, name: str, lose_disks: bool = False) -> None:
        """SIGKILL for every process of a region; its data may go too."""
        self._say(f"SIGKILL: every process of {name}")
        self.away[name] = "DOWN"
        self._begin("region", "kill", name, "lost" if lose_disks else "crash")
        await self._cluster.region(name).kill()
        if lose_disks:
            await self._cluster.region(name).lose_disks()
            self._say(f"{name}'s disks are gone")

    async def stop_region(self, name: str) -> None:
        """An orderly end (SIGTERM): people are asked to go elsewhere first."""
        self._say(f"SIGTERM: {name} drains and stops")
        self.away[name] = "STOPPED"
        self._begin("region", "stop", name, "")
        since = time.monotonic()
        await self._cluster.region(name).terminate()
        self._say(f"{name} has stopped, after {time.monotonic() - since:.1f} s")

    async def return_region(self, name: str) -> None:
        """Start a killed or stopped region again; returns when it serves, which it does once it has caught up."""
        self._say(f"{name} starts again")
        since = time.monotonic()
        await self._cluster.region(name).start()
        self.away.pop(name, None)
        self._end("region", name)
        self._recorder.record_returned(name)
        self._say(f"{name} serves again, {time.monotonic() - since:.1f} s after its start")

    async def pause_region(self, name: str) -> None:
        """Every process stands still with open connections (SIGSTOP): nobody is told."""
        self._say(f"SIGSTOP: every process of {name}")
        self.away[name] = "PAUSED"
        self._begin("region", "pause", name, "hang")
        await self._cluster.region(name).stop()

    async def resume_region(self, name: str) -> None:
        """It goes on where it stood."""
        await self._cluster.region(name).resume()
        self._end("region", name)
        self.away.pop(name, None)
        self._say(f"SIGCONT: {name} goes on")

    # ------------------------------------------------------------ single processes

    def process(self, name: str) -> Process:
        """A Redis, a replicator or a node."""
        for region in self._cluster.regions.values():
            for process in (region.redis, region.replicator, *region.nodes.values()):
                if process.name == name:
                    return process
        raise ClusterError(f"there is no process {name!r} in any region")

    async def kill_process(self, name: str) -> None:
        """SIGKILL for one process."""
        self._say(f"SIGKILL: {name}")
        self._begin("process", "kill", name, "crash")
        await self.process(name).kill()

    async def stop_process(self, name: str) -> None:
        """An orderly end (SIGTERM): a node drains, a Redis closes its file."""
        self._say(f"SIGTERM: {name}")
        self._begin("process", "stop", name, "")
        await self.process(name).terminate()

    async def return_process(self, name: str) -> None:
        """Start a process that is down again; returns when it is ready."""
        since = time.monotonic()
        await self.process(name).start()
        self._end("process", name)
        self._say(f"{name} is back, {time.monotonic() - since:.1f} s after its start")

    async def pause_process(self, name: str) -> None:
        """It stands still with open connections (SIGSTOP)."""
        self._say(f"SIGSTOP: {name}")
        self._begin("process", "pause", name, "hang")
        await self.process(name).stop()

    async def resume_process(self, name: str) -> None:
        """It goes on where it stood."""
        await self.process(name).resume()
        self._end("process", name)
        self._say(f"SIGCONT: {name}")

    # ------------------------------------------------------------ disks and memory

    async def damage_store(self, node: str, way: str, seed: int) -> None:
        """A node dies, its store is damaged (`cluster.damage.WAYS`), and it starts; returns when it serves."""
        await self.kill_process(node)
        self._say(await self._cluster.damage(node, way, seed))
        await self.return_process(node)

    async def fill_disk(self, name: str) -> None:
        """No file of a process can grow any more."""
        self._say(f"the disk of {name} is full")
        self._begin("disk", "fill disk", name, "crash")
        await self._cluster.fill_disk(name)

    async def free_disk(self, name: str) -> None:
        """There is room again; who has ended because of it is started, as a supervisor does."""
        process = self.process(name)
        if process.alive:
            await self._cluster.free_disk(name)
        else:
            self._say(f"{name} had ended")
        await process.start()
        self._end("disk", name)
        self._say(f"{name} has room again")

    async def fill_redis(self, region: str) -> None:
        """A region's Redis reaches its maxmemory: it refuses what needs room."""
        info = await self._cluster.ask_redis(region, "INFO", "memory")
        used = next(int(line.split(":")[1]) for line in info.splitlines() if line.startswith("used_memory:"))
        limit = (await self._cluster.ask_redis(region, "CONFIG", "GET", "maxmemory")).split()[-1]
        self._maxmemory[region] = limit
        self._say(f"the Redis of {region} is full: maxmemory is {_FULL_BYTES // 1024} KB above what it uses")
        self._begin("memory", "fill redis", region, "")
        await self._cluster.ask_redis(region, "CONFIG", "SET", "maxmemory", str(used + _FULL_BYTES))

    async def relieve_redis(self, region: str) -> None:
        """Its maxmemory is what it was."""
        await self._cluster.ask_redis(region, "CONFIG", "SET", "maxmemory", self._maxmemory.pop(region))
        self._end("memory", region)
        self._say(f"the Redis of {region} has room again")

    async def empty_redis(self, region: str) -> None:
        """FLUSHALL: the process lives, everything in it is gone."""
        self._say(f"FLUSHALL in {region}'s Redis")
        self._begin("log", "empty redis", region, "lost")
        await self._cluster.ask_redis(region, "FLUSHALL")
        self._end("log", region)

    async def keep_log(self, region: str) -> None:
        """Copy the append-only files of a region's Redis, for `roll_back_redis`."""
        await self._cluster.damage(self._cluster.region(region).redis.name, "keep_log")
        self._say(f"a copy of {region}'s append-only files is kept")

    async def roll_back_redis(self, region: str) -> None:
        """A region's Redis dies and comes back with the append-only files kept earlier."""
        redis = self._cluster.region(region).redis
        self._say(f"SIGKILL: {redis.name}; it comes back with its files of a while ago")
        self._begin("log", "roll back redis", region, "lost")
        await redis.kill()
        await self._cluster.damage(redis.name, "roll_back_log")
        await redis.start()
        self._end("log", region)

    # ------------------------------------------------------------ clocks

    async def skew(self, region: str, offset_ms: int) -> None:
        """The clock of a region jumps; 0 sets it right."""
        ahead = "ahead" if offset_ms > 0 else "behind"
        self._say(f"{region}'s clock is {f'{abs(offset_ms) / 1000:g} s {ahead}' if offset_ms else 'right again'}")
        if ("clock", f"clock {region}") in self._lasting:
            self._end("clock", f"clock {region}")
        if offset_ms:
            self._begin("clock", f"skew {offset_ms} ms", f"clock {region}", "")
        await self._cluster.skew(region, offset_ms)

    # ------------------------------------------------------------ the WAN

    async def cut_wan(self, name: str) -> None:
        """Connections between a region and all others are reset, new ones refused."""
        wan = self._cluster.wan
        await self._wan(name, "cut", "", "is cut", lambda other: wan.cut(name, other))

    async def cut_wan_one_way(self, name: str) -> None:
        """A region reaches no other one; the others reach it."""
        wan = self._cluster.wan
        await self._wan(name, "cut one way", "", "is cut outwards", lambda other: wan.cut(name, other, both=False))

    async def black_hole_wan(self, name: str) -> None:
        """Bytes between a region and all others vanish; nobody is told."""
        wan = self._cluster.wan
        await self._wan(name, "black hole", "hang", "is a black hole", lambda other: wan.black_hole(name, other))

    async def swallow_replies(self, name: str) -> None:
        """What a region asks of others arrives there, and nothing comes back."""
        wan = self._cluster.wan
        say = "swallows the replies to what it asks"
        await self._wan(name, "swallow replies", "hang", say, lambda other: wan.swallow_replies(name, other))

    async def delay_wan(self, name: str, delay_ms: float, jitter_ms: float) -> None:
        """One-way delay between a region and all others; jitter is added, uniform from 0."""
        wan = self._cluster.wan
        say = f"takes {delay_ms:g} to {delay_ms + jitter_ms:g} ms"
        await self._wan(name, "delay", "", say, lambda other: wan.delay(name, other, delay_ms, jitter_ms))

    async def narrow_wan(self, name: str, bytes_per_s: float) -> None:
        """The bandwidth of each link between a region and all others."""
        wan = self._cluster.wan
        say = f"has {bytes_per_s / 1000:g} KB/s a link"
        await self._wan(name, "narrow", "", say, lambda other: wan.narrow(name, other, bytes_per_s))

    async def _wan(self, name: str, verb: str, effect: str, say: str, do: Callable[[str], Awaitable[None]]) -> None:
        self._say(f"the WAN of {name} {say}")
        self._begin("wan", verb, f"wan {name}", effect)
        for other in self._others(name):
            await do(other)

    async def heal_wan(self, name: str) -> None:
        """Its links are as at the start."""
        for other in self._others(name):
            await self._cluster.wan.heal(name, other)
        self._end("wan", f"wan {name}")
        self._say(f"the WAN of {name} is whole again")

    def _others(self, name: str) -> list[str]:
        return [other for other in self._cluster.regions if other != name]
