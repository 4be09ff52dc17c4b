"""Driver `compose`: the cluster of docker-compose.yml, as a project of its own, and the faults done to it."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from evertalk.cluster import child, containers
from evertalk.cluster.containers import Container, ContainerRegion
from evertalk.cluster.docker import Compose, compose_command, docker
from evertalk.cluster.insides import CLOCK_FILE, Insides
from evertalk.cluster.ports import free_ports
from evertalk.cluster.verbs import ClusterError, ClusterFile, Endpoint, named

#: Names the compose file to use; else the nearest docker-compose.yml above this package or the working directory.
FILE_VARIABLE = "EVERTALK_COMPOSE_FILE"
_FILE = "docker-compose.yml"
_FIRST = ("seoul", "busan")
_SECRETS, _JOINS = "secrets", "jeju-joins"
_THIRD = "three"  # the profile of every region beyond the first two
_BUILD_S = 900.0
_DOWN_S = 120.0
_UP_S = 180.0
_LOOK_S = 10.0
_ROLES = ("redis", "replicator", "wan")


class ContainerWan:
    """The verbs of all regions' proxies together. See `evertalk.cluster.verbs.Wan`.

    A region's proxy shapes the connections that its region dials, in both directions. One that was started again
    has forgotten what was set: `again` tells it.
    """

    def __init__(self, proxies: Mapping[str, Container]) -> None:
        self._proxies = proxies
        self._in_force: list[tuple[str, dict[str, Any]]] = []

    async def cut(self, source: str, sink: str, both: bool = True) -> None:
        for near, far in _ways(source, sink, both):  # a matter of who dials
            await self._set([near], {"from": near, "to": far, "state": "cut"})

    async def black_hole(self, source: str, sink: str, both: bool = True) -> None:
        await self._flow(source, sink, both, state="black_hole")

    async def delay(self, source: str, sink: str, delay_ms: float, jitter_ms: float = 0.0, both: bool = True) -> None:
        await self._flow(source, sink, both, delay_ms=delay_ms, jitter_ms=jitter_ms)

    async def narrow(self, source: str, sink: str, bytes_per_s: float, both: bool = True) -> None:
        await self._flow(source, sink, both, bytes_per_s=bytes_per_s)

    async def swallow_replies(self, source: str, sink: str) -> None:
        await self._set([source], {"from": sink, "to": source, "way": "back", "state": "black_hole"})

    async def heal(self, source: str | None = None, sink: str | None = None, both: bool = True) -> None:
        if source is None or sink is None:
            self._in_force.clear()
            for proxy in self._proxies.values():
                await self._ask(proxy, {"do": "heal"})
            return
        for near, far in _ways(source, sink, both):
            self._in_force = [(r, s) for r, s in self._in_force if (s["from"], s["to"]) != (near, far)]
            for region in (near, far):
                await self._ask(self._proxies[region], {"do": "heal", "from": near, "to": far})

    async def stats(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for proxy in self._proxies.values():
            found += (await self._ask(proxy, {"do": "stats"})).get("links", [])
        return found

    async def again(self, region: str) -> None:
        """Tell a region's proxy what is in force."""
        for each, command in self._in_force:
            if each == region:
                await self._ask(self._proxies[region], {"do": "set", **command})

    async def _flow(self, source: str, sink: str, both: bool, **changes: Any) -> None:
        """A matter of where bytes flow: requests leave through the one's proxy, answers through the other's."""
        for near, far in _ways(source, sink, both):
            await self._set([near, far], {"from": near, "to": far, **changes})

    async def _set(self, regions: Iterable[str], command: dict[str, Any]) -> None:
        for region in regions:
            self._in_force.append((region, command))
            await self._ask(self._proxies[region], {"do": "set", **command})

    async def _ask(self, proxy: Container, command: dict[str, Any]) -> dict[str, Any]:
        if not proxy.alive:  # nothing passes it anyway, and it will be told when it returns
            return {}
        said = await docker(
            "exec", proxy.id, "python", "-m", "evertalk.wan.control", "127.0.0.1:7000", json.dumps(command)
        )
        answer: dict[str, Any] = json.loads(said)
        return answer


def _ways(source: str, sink: str, both: bool) -> list[tuple[str, str]]:
    return [(source, sink), (sink, source)] if both else [(source, sink)]


class ComposeCluster(Insides):
    """A running Compose project; make one with `create`, leave it as a context manager or with `close`."""

    def __init__(self, directory: Path, compose: Compose, services: Mapping[str, str], shards: int, seed: int) -> None:
        super().__init__({name: _container(compose, name, services[name]) for name in services})
        self._directory = directory
        self._compose = compose
        self._shards = shards
        self._seed = seed
        self._stack = AsyncExitStack()
        names = list(dict.fromkeys(each.region for each in self._containers.values()))
        self._wan = ContainerWan({name: self._containers[f"{name}-wan"] for name in names})
        self._regions = {name: ContainerRegion(name, compose, self._containers, self._wan.again) for name in names}
        self._redis_server = ""

    @classmethod
    async def create(
        cls,
        directory: Path,
        regions: Sequence[str],
        nodes_per_region: int,
        shards: int,
        seed: int,
        env: Mapping[str, str],
    ) -> ComposeCluster:
        """Build the image, bring a project of its own up, and return when all of it is ready.

        Args:
            directory: for keys, the changed configuration and the logs; not for data, which lies in volumes.
            env: more environment of every node and replicator.

        Raises:
            ClusterError: no engine answers, the file has no such regions, or something does not start.
        """
        file, command = find_file(), await compose_command()
        project = f"evertalk-drill-{secrets.token_hex(3)}"
        profiles = [_THIRD] if len(regions) > 2 else []
        services = await _services(Compose(command, [file], project, profiles, {}), regions, nodes_per_region)
        nodes = [name for name in services if _kind(name) == "node"]
        ports = dict(zip(nodes, free_ports(len(nodes)), strict=True))
        given = {f"{name.replace('-', '_').upper()}_PORT": str(port) for name, port in ports.items()}
        files = [file, _override(directory, services, env)]
        compose = Compose(command, files, project, profiles, {**given, "EVERTALK_SHARDS": str(shards)})
        addresses = {name: f"127.0.0.1:{ports[name]}" if name in ports else "" for name in services}
        cluster = cls(directory, compose, addresses, shards, seed)
        try:
            await cluster._start()
        except BaseException:
            await cluster.close()
            raise
        return cluster

    async def __aenter__(self) -> ComposeCluster:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def project(self) -> str:
        """Name of the Compose project."""
        return self._compose.project

    @property
    def compose(self) -> Compose:
        """The Compose tool, for what no verb covers."""
        return self._compose

    @property
    def regions(self) -> Mapping[str, ContainerRegion]:
        """By name."""
        return self._regions

    @property
    def wan(self) -> ContainerWan:
        """The links between regions."""
        return self._wan

    def region(self, name: str) -> ContainerRegion:
        """A region by name.

        Raises:
            ClusterError: there is none of that name.
        """
        return named("region", name, self._regions)

    def node(self, name: str) -> Container:
        """A chat node by name.

        Raises:
            ClusterError: there is none of that name.
        """
        return named("node", name, {each.name: each for each in self._containers.values() if each.kind == "node"})

    @property
    def fallen(self) -> list[str]:
        """A sentence for each container that ended by itself and was restarted by the engine."""
        return [
            f"{each.name} ended by itself and was restarted {each.restarts} times"
            for each in self._containers.values()
            if each.restarts
        ]

    @property
    def file(self) -> ClusterFile:
        """What there is to know of it."""
        nodes = [each for each in self._containers.values() if each.kind == "node"]
        return ClusterFile(
            driver="compose",
            directory=str(self._directory),
            regions=list(self._regions),
            shards=self._shards,
            seed=self._seed,
            controller_pid=os.getpid(),
            endpoints=[Endpoint(each.region, each.name, each.address) for each in nodes],
            processes=[each.fact() for each in self._containers.values()],
            keys={name: str(self._directory / name / "keys") for name in self._regions},
            wan_control="",
            redis_server=self._redis_server,
            extra={"project": self.project},
        )

    def rss(self) -> dict[str, int | None]:
        """Resident bytes of each live container's processes; None if the engine runs on another machine."""
        return {each.name: _sum(each.pid, child.rss) for each in self._containers.values() if each.alive}

    def cpu_s(self) -> dict[str, float | None]:
        """Processor seconds of each live container's processes; None if the engine runs on another machine."""
        return {each.name: _sum(each.pid, child.cpu_s) for each in self._containers.values() if each.alive}

    async def close(self) -> None:
        """Keep the logs, then remove every container, network and volume of the project."""
        try:
            await self._stack.aclose()
        finally:
            try:
                logs = await self._compose("logs", "--no-color")
                await asyncio.to_thread((self._directory / "containers.log").write_text, logs)
            finally:
                await self._compose("down", "--volumes", "--remove-orphans", "--timeout", "6", timeout_s=_DOWN_S)

    async def _start(self) -> None:
        await self._compose("build", _SECRETS, timeout_s=_BUILD_S)
        await self._provision()
        live = list(self._containers.values())
        for first in (True, False):  # one call each: two at once would both make the networks
            stage = [each for each in live if (each.kind in ("redis", "wan")) is first]
            await containers.start(self._compose, stage, wait=True)
        for region in self._regions.values():
            keys = self._directory / region.name
            keys.mkdir(exist_ok=True)
            await docker("cp", f"{region.replicator.id}:/secrets/{region.name}/keys", str(keys))
        version = await docker("exec", next(iter(self._regions.values())).redis.id, "redis-server", "--version")
        self._redis_server = f"{version.split(' sha=')[0].strip()}, in a container"
        group = await self._stack.enter_async_context(asyncio.TaskGroup())
        watching = group.create_task(self._watch(live))
        self._stack.callback(watching.cancel)

    async def _provision(self) -> None:
        """Run those that make the secrets, as the file's start order would."""
        for name in (_SECRETS, _JOINS)[: len(self._regions) - 1]:
            await self._compose("up", "-d", "--no-deps", "--no-build", name, timeout_s=_UP_S)
            maker = (await self._compose.containers())[name]
            if (code := (await docker("wait", maker)).strip()) != "0":
                raise ClusterError(f"{name} ended with exit code {code}:\n{await docker('logs', maker)}")

    async def _watch(self, live: Sequence[Container]) -> None:
        """Process ids and restarts, as they come and go; until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await containers.look(self._compose, live)
            except ClusterError:
                continue  # one was removed just now: what it was asked about has changed


def find_file() -> Path:
    """The compose file.

    Raises:
        ClusterError: there is none.
    """
    if named := os.environ.get(FILE_VARIABLE):
        candidates = [Path(named)]
    else:
        here = Path(__file__).resolve()
        candidates = [place / _FILE for place in (Path.cwd(), *here.parents)]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.absolute()
    raise ClusterError(f"there is no {_FILE} here: run this in a checkout, or let {FILE_VARIABLE} name one")


async def _services(compose: Compose, regions: Sequence[str], nodes_per_region: int) -> list[str]:
    """The services of these regions, by the names that the file gives them.

    Raises:
        ClusterError: it has not what is asked for.
    """
    names = (await compose("config", "--services")).split()
    there = sorted({name.removesuffix("-redis") for name in names if name.endswith("-redis")})
    if sorted(regions) not in (sorted(_FIRST), there):
        raise ClusterError(f"the compose file has the regions {' and '.join(_FIRST)}, or all of {', '.join(there)}")
    found = [name for region in regions for name in sorted(names) if name.startswith(f"{region}-")]
    found = [name for name in found if _kind(name)]
    nodes = [name for name in found if _kind(name) == "node"]
    if len(nodes) != nodes_per_region * len(regions):
        raise ClusterError(f"the compose file has the nodes {', '.join(nodes)}, and not {nodes_per_region} a region")
    return found


def _override(directory: Path, services: Sequence[str], env: Mapping[str, str]) -> Path:
    """Makes the directory, and in it a file that adds to nodes' and replicators' environment."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory.absolute() / "override.json"  # JSON is YAML
    rare = {"healthcheck": {"interval": "60s"}}  # the driver asks for itself, and each check starts a process
    added = {"environment": {"EVERTALK_CLOCK_FILE": CLOCK_FILE, **env}}
    changed = {name: {**rare, **(added if _kind(name) in ("node", "replicator") else {})} for name in services}
    path.write_text(json.dumps({"services": changed}, indent=1))
    return path


def _kind(service: str) -> str:
    """redis | replicator | wan | node, or "" for what is none of a region's processes."""
    role = service.rpartition("-")[2]
    return "node" if role.isdecimal() else role if role in _ROLES else ""


def _container(compose: Compose, name: str, address: str) -> Container:
    return Container(compose, name, _kind(name), name.rpartition("-")[0], address)


def _sum(pid: int | None, measure: Any) -> Any:
    """Of a container's first process and what it started."""
    if pid is None:
        return None
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    found = [measure(each) for each in (pid, *map(int, children))]
    return sum(found) if None not in found else None
