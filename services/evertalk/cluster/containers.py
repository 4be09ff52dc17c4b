"""One container, and one region of them, as drills break them: the same verbs as for processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from evertalk.adapters.grpc_health import SERVING, health
from evertalk.cluster import child
from evertalk.cluster.docker import Compose, docker, inspect
from evertalk.cluster.verbs import ClusterError, ProcessFact

_POLL_S = 0.25
_READY_S = 90.0
_STOP_S = 6
#: By kind: what is asked inside the container, and what is in the answer of one that is ready.
_ASK = {
    "redis": (("redis-cli", "--no-auth-warning", "--user", "health", "--pass", "any", "ping"), "PONG"),
    "replicator": (("python", "-m", "evertalk.adapters.probe", "127.0.0.1:7000"), SERVING),
    "wan": (("python", "-m", "evertalk.wan.control", "127.0.0.1:7000", '{"do": "stats"}'), '"ok": true'),
}


class Container:
    """A service of the Compose project. See `evertalk.cluster.verbs.Process`.

    Args:
        address: "host:port" as the controller reaches it; "" if it publishes nothing.
    """

    def __init__(self, compose: Compose, name: str, kind: str, region: str, address: str) -> None:
        self.name = name
        self.kind = kind
        self.region = region
        self.address = address
        self.id = ""
        self.image = ""
        self.pid: int | None = None  # on this machine, if the engine runs on it
        self.restarts = 0
        self._compose = compose
        self._alive = False

    @property
    def alive(self) -> bool:
        """It runs, or is paused, as far as was heard."""
        return self._alive

    def note(self, seen: Mapping[str, Any]) -> None:
        """Take in what the engine says of it."""
        state = seen["State"]
        self.id, self.image = seen["Id"], seen["Image"]
        self._alive = bool(state["Running"])
        self.pid = state["Pid"] or None
        self.restarts = seen["RestartCount"]

    def gone(self) -> None:
        """It has ended."""
        self._alive, self.pid = False, None

    def fact(self) -> ProcessFact:
        """For cluster.json."""
        return ProcessFact(self.name, self.kind, self.region, self.address, self.pid, f"docker logs {self.id[:12]}")

    async def kill(self) -> None:
        """SIGKILL; nothing if it is dead."""
        await kill([self])

    async def stop(self) -> None:
        """Pause: every process of it freezes, its connections stay open."""
        await pause([self])

    async def resume(self) -> None:
        """Unpause."""
        await unpause([self])

    async def start(self, lose_disks: bool = False, wait: bool = True) -> None:
        """Return, on the same port; with `wait`, until it is ready.

        Raises:
            ClusterError: it does not start.
        """
        if lose_disks:
            await self.lose_disks()
        await start(self._compose, [self], wait)

    async def terminate(self) -> None:
        """SIGTERM and wait: an orderly end, SIGKILL if it takes too long."""
        await terminate([self])

    async def lose_disks(self) -> None:
        """Remove the container and the volumes it writes to.

        Raises:
            ClusterError: it is alive.
        """
        await lose_disks([self])

    async def missing(self) -> str:
        """What it still lacks to be of use; "" for nothing."""
        if self.kind == "node":
            said = await health(self.address, 1.0)
            return "" if said == SERVING else f"the health of {self.name} is {said}"
        question, answer = _ASK[self.kind]
        try:
            said = await docker("exec", self.id, *question, timeout_s=10.0)
        except ClusterError as error:
            return str(error)
        return "" if answer in said else f"{self.name} says {said.strip()}"


async def kill(containers: Iterable[Container]) -> None:
    """SIGKILL to all at once."""
    live = [each for each in containers if each.alive]
    if live:
        await docker("kill", *(each.id for each in live))
    for each in live:
        each.gone()


async def pause(containers: Iterable[Container]) -> None:
    """Freeze all at once."""
    if live := [each.id for each in containers if each.alive]:
        await docker("pause", *live)


async def unpause(containers: Iterable[Container]) -> None:
    """Let those go on that are paused."""
    live = [each for each in containers if each.alive]
    paused = [seen["Id"] for seen in await inspect([each.id for each in live]) if seen["State"]["Paused"]]
    if paused:
        await docker("unpause", *paused)


async def terminate(containers: Iterable[Container]) -> None:
    """An orderly end of all at once; the engine kills who takes longer than a drain may."""
    live = [each for each in containers if each.alive]
    if live:
        await docker("stop", "-t", str(_STOP_S), *(each.id for each in live))
    for each in live:
        each.gone()


async def start(compose: Compose, containers: Sequence[Container], wait: bool) -> None:
    """Start those that are not alive; removed ones are made again, with new volumes if theirs are gone."""
    there = await compose.containers()
    down = [each for each in containers if not each.alive]
    if ended := [there[each.name] for each in down if each.name in there]:
        await docker("start", *ended)
    if removed := [each.name for each in down if each.name not in there]:
        await compose("up", "-d", "--no-deps", "--no-build", *removed)
    await look(compose, down)
    if wait:
        await until_ready(containers)


async def look(compose: Compose, containers: Iterable[Container]) -> None:
    """Ask the engine how they are."""
    ids = await compose.containers()
    known = [each for each in containers if each.name in ids]
    for each, seen in zip(known, await inspect([ids[each.name] for each in known]), strict=True):
        each.note(seen)


async def lose_disks(containers: Sequence[Container]) -> None:
    """Remove containers, and the volumes that they write to; what they only read was deployed, not stored."""
    if alive := [each.name for each in containers if each.alive]:
        raise ClusterError(f"{', '.join(alive)} run: kill them before their disks")
    volumes = [
        mount["Name"]
        for seen in await inspect([each.id for each in containers])
        for mount in seen["Mounts"]
        if mount["Type"] == "volume" and mount["RW"]
    ]
    await docker("rm", *(each.id for each in containers))
    if volumes:
        await docker("volume", "rm", *volumes)


async def until_ready(containers: Iterable[Container], timeout_s: float = _READY_S) -> None:
    """Until all are of use.

    Raises:
        ClusterError: one is not in time; with the end of its log.
    """

    async def one(each: Container) -> None:
        missing = ""
        try:
            async with asyncio.timeout(timeout_s):
                while missing := await each.missing():  # noqa: ASYNC110  it can only be asked
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            log = await docker("logs", "--tail", "20", each.id)
            raise ClusterError(f"{each.name} was not ready after {timeout_s:g} s ({missing}):\n{log}") from None

    await child.together([one(each) for each in containers])


class ContainerRegion:
    """A region's containers, its end of the WAN among them. See `evertalk.cluster.verbs.Region`.

    Args:
        returned: called when it has been started again.
    """

    def __init__(
        self,
        name: str,
        compose: Compose,
        containers: Mapping[str, Container],
        returned: Callable[[str], Awaitable[None]],
    ) -> None:
        self.name = name
        self.redis = containers[f"{name}-redis"]
        self.replicator = containers[f"{name}-replicator"]
        self.wan = containers[f"{name}-wan"]
        self.nodes = {each.name: each for each in containers.values() if each.kind == "node" and each.region == name}
        self._compose = compose
        self._returned = returned

    @property
    def services(self) -> list[Container]:
        """Nodes and replicator."""
        return [self.replicator, *self.nodes.values()]

    @property
    def processes(self) -> list[Container]:
        """All of them."""
        return [self.redis, self.wan, *self.services]

    async def kill(self) -> None:
        """SIGKILL to all at once."""
        await kill(self.processes)

    async def stop(self) -> None:
        """Pause all at once."""
        await pause(self.processes)

    async def resume(self) -> None:
        """Unpause all at once."""
        await unpause(self.processes)

    async def terminate(self) -> None:
        """An orderly end: services first, they need their Redis to drain."""
        await terminate(self.services)
        await terminate([self.redis, self.wan])

    async def start(self, lose_disks: bool = False, wait: bool = True) -> None:
        """Return: Redis and the way to other regions first; with `wait`, until all are ready.

        Raises:
            ClusterError: one does not start, or is alive and was to lose its disk.
        """
        if lose_disks:
            await self.lose_disks()
        await start(self._compose, [self.redis, self.wan], wait=True)
        await self._returned(self.name)
        await start(self._compose, self.services, wait)

    async def lose_disks(self) -> None:
        """Remove its containers and the volumes of Redis and the stores; keys and passwords are deployed, not stored.

        Raises:
            ClusterError: one of them is alive.
        """
        await lose_disks(self.processes)
