"""Driver `process`: a cluster of real processes on this machine, and the faults done to it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from evertalk.adapters.grpc_health import SERVING, health
from evertalk.adapters.redis_server import find_server
from evertalk.cluster import child, layout, ports, resp
from evertalk.cluster.child import Child, Spec
from evertalk.cluster.layout import Layout, NodeLayout, Options, RegionLayout
from evertalk.cluster.local import CLUSTER_FILE, LOCK_FILE
from evertalk.cluster.verbs import ClusterError, ClusterFile, Endpoint, named
from evertalk.wan.control import WanError, ask

#: (kind, process name) -> command; kinds are "node" and "replicator".
Commands = Callable[[str, str], Sequence[str]]


def service_command(kind: str, name: str) -> Sequence[str]:
    """The real services; all they need to know is in their environment."""
    module = {"node": "evertalk.chatnode", "replicator": "evertalk.replicator"}[kind]
    return [sys.executable, "-m", module]


class ProcessRegion:
    """A region's processes. See `evertalk.cluster.verbs.Region`."""

    def __init__(self, name: str, redis: Child, replicator: Child, nodes: Mapping[str, Child]) -> None:
        self.name = name
        self.redis = redis
        self.replicator = replicator
        self.nodes = nodes

    @property
    def services(self) -> list[Child]:
        """Nodes and replicator."""
        return [self.replicator, *self.nodes.values()]

    @property
    def processes(self) -> list[Child]:
        """All of them."""
        return [self.redis, *self.services]

    async def kill(self) -> None:
        """SIGKILL to all at once."""
        await child.kill(self.processes)

    async def stop(self) -> None:
        """SIGSTOP to all at once."""
        for process in self.processes:
            process.send(signal.SIGSTOP)
        for process in self.processes:
            await process.stopped()

    async def resume(self) -> None:
        """SIGCONT to all at once."""
        for process in self.processes:
            process.send(signal.SIGCONT)

    async def terminate(self) -> None:
        """An orderly end: services first, they need their Redis to drain."""
        await child.terminate(self.services, self.redis.spec.stop_timeout_s)
        await self.redis.terminate()

    async def start(self, lose_disks: bool = False, wait: bool = True) -> None:
        """Return: whoever is not alive starts again, Redis first; with `wait`, until all are ready.

        Raises:
            ClusterError: one does not start, or is alive and was to lose its disk.
        """
        if lose_disks:
            await self.lose_disks()
        await self.redis.start()
        await child.together([process.start(wait=wait) for process in self.services])
        for process in self.services:
            process.check()

    async def lose_disks(self) -> None:
        """Delete what all of its processes stored; its keys and configuration are deployed, not stored.

        Raises:
            ClusterError: one of them is alive.
        """
        alive = [process.name for process in self.processes if process.alive]
        if alive:
            raise ClusterError(f"{', '.join(alive)} of {self.name} run: kill the region before its disks")
        for process in self.processes:
            await process.lose_disks()


class ProcessWan:
    """The proxy's verbs. See `evertalk.cluster.verbs.Wan`.

    Raises (each verb):
        WanError: the proxy refuses, or does not answer.
    """

    def __init__(self, control: str) -> None:
        self._control = control

    async def cut(self, source: str, sink: str, both: bool = True) -> None:
        await self._set(source, sink, both, state="cut")

    async def black_hole(self, source: str, sink: str, both: bool = True) -> None:
        await self._set(source, sink, both, state="black_hole")

    async def delay(self, source: str, sink: str, delay_ms: float, jitter_ms: float = 0.0, both: bool = True) -> None:
        await self._set(source, sink, both, delay_ms=delay_ms, jitter_ms=jitter_ms)

    async def narrow(self, source: str, sink: str, bytes_per_s: float, both: bool = True) -> None:
        await self._set(source, sink, both, bytes_per_s=bytes_per_s)

    async def swallow_replies(self, source: str, sink: str) -> None:
        await self._set(sink, source, False, way="back", state="black_hole")

    async def heal(self, source: str | None = None, sink: str | None = None, both: bool = True) -> None:
        await self._ask(source, sink, both, {"do": "heal"})

    async def stats(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await ask(self._control, {"do": "stats"}))["links"]
        return found

    async def _set(self, source: str, sink: str, both: bool, **changes: Any) -> None:
        await self._ask(source, sink, both, {"do": "set", **changes})

    async def _ask(self, source: str | None, sink: str | None, both: bool, what: dict[str, Any]) -> None:
        await ask(self._control, {**what, "from": source, "to": sink})
        if both and (source, sink) != (None, None):
            await ask(self._control, {**what, "from": sink, "to": source})


class ProcessCluster:
    """A running local cluster; make one with `create`, leave it as a context manager or with `close`."""

    def __init__(self, plan: Layout, commands: Commands, server: Path) -> None:
        self.layout = plan
        self._server = server
        self._stack = ExitStack()
        self._pipe = -1
        self._commands = commands
        self._regions: dict[str, ProcessRegion] = {}
        self._wan = ProcessWan(plan.control)
        self._wan_process: Child | None = None

    @classmethod
    async def create(
        cls,
        directory: Path,
        regions: Sequence[str] = ("seoul", "busan"),
        nodes_per_region: int = 2,
        shards: int = 4,
        seed: int = 0,
        options: Options | None = None,
        commands: Commands = service_command,
    ) -> ProcessCluster:
        """Start a cluster and return when every process is ready. Must run in a thread that outlives it.

        Args:
            directory: for everything it writes; data of an earlier cluster there is used again.
            seed: of the WAN's jitter; drills take theirs from here too.
            commands: what to run as a node and as a replicator.

        Raises:
            ClusterError: a cluster runs there already, a port is taken, or a process does not start.
            NoServer: there is no Redis-compatible server. ValueError: the names of regions.
        """
        server, _why = await asyncio.to_thread(find_server)
        plan = layout.plan(directory, regions, nodes_per_region, shards, seed, options or Options())
        cluster = cls(plan, commands, server)
        try:
            await cluster._start()
        except BaseException:
            await cluster.close()
            raise
        return cluster

    async def __aenter__(self) -> ProcessCluster:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def regions(self) -> Mapping[str, ProcessRegion]:
        """By name."""
        return self._regions

    @property
    def wan(self) -> ProcessWan:
        """The links between regions."""
        return self._wan

    def region(self, name: str) -> ProcessRegion:
        """A region by name.

        Raises:
            ClusterError: there is none of that name.
        """
        return named("region", name, self._regions)

    def node(self, name: str) -> Child:
        """A chat node by name.

        Raises:
            ClusterError: there is none of that name.
        """
        return named(
            "node", name, {each.name: each for region in self._regions.values() for each in region.nodes.values()}
        )

    @property
    def processes(self) -> list[Child]:
        """All of them, the WAN proxy first."""
        wan = [self._wan_process] if self._wan_process is not None else []
        return [*wan, *(each for region in self._regions.values() for each in region.processes)]

    @property
    def fallen(self) -> list[str]:
        """A sentence for each process that is down though no verb ended it."""
        return [process.fell for process in self.processes if process.fell]

    @property
    def file(self) -> ClusterFile:
        """What cluster.json says."""
        plan = self.layout
        return ClusterFile(
            driver="process",
            directory=str(plan.directory),
            regions=list(plan.regions),
            shards=plan.shards,
            seed=plan.seed,
            controller_pid=os.getpid(),
            endpoints=[Endpoint(node.region, node.name, node.address) for node in plan.nodes()],
            processes=[process.fact() for process in self.processes],
            keys={region.name: str(region.keys) for region in plan.regions.values()},
            wan_control=plan.control,
            redis_server=str(self._server),
        )

    def rss(self) -> dict[str, int | None]:
        """Resident bytes of each live process; None where there is no /proc."""
        return {each.name: child.rss(each.pid) for each in self.processes if each.pid is not None}

    def cpu_s(self) -> dict[str, float | None]:
        """Processor seconds of each live process since it started; None where there is no /proc."""
        return {each.name: child.cpu_s(each.pid) for each in self.processes if each.pid is not None}

    def process(self, name: str) -> Child:
        """Any process by name.

        Raises:
            ClusterError: there is none of that name.
        """
        found = {each.name: each for each in self.processes}
        if name not in found:
            raise ClusterError(f"there is no process {name!r}, only {', '.join(found)}")
        return found[name]

    async def ask_redis(self, region: str, *words: str) -> str:
        """As `evertalk.cluster.verbs.Inside.ask_redis`."""
        place = self.layout.regions[self.region(region).name]
        try:
            return await resp.ask(ports.HOST, place.redis_port, "admin", place.passwords["admin"], *words)
        except (OSError, TimeoutError) as error:
            raise ClusterError(f"the Redis of {region} does not answer: {error!r}") from error

    async def damage(self, process: str, way: str, seed: int = 0) -> str:
        """As `evertalk.cluster.verbs.Inside.damage`."""
        return await self.process(process).damage(way, seed)

    async def fill_disk(self, process: str) -> None:
        """As `evertalk.cluster.verbs.Inside.fill_disk`, by RLIMIT_FSIZE."""
        self.process(process).fill_disk()

    async def free_disk(self, process: str) -> None:
        """As `evertalk.cluster.verbs.Inside.free_disk`."""
        self.process(process).free_disk()

    async def skew(self, region: str, offset_ms: int) -> None:
        """As `evertalk.cluster.verbs.Inside.skew`: within 100 ms."""
        layout.write_private(self.layout.regions[self.region(region).name].clock, str(offset_ms))

    async def close(self) -> None:
        """End all processes, in order if they let themselves: services, then Redis and the WAN. The data stays."""
        timeout_s = self.layout.options.stop_timeout_s
        try:
            services = [each for region in self._regions.values() for each in region.services]
            await child.terminate(services, timeout_s)
            await child.terminate(self.processes, timeout_s)
        finally:
            try:
                await child.kill(self.processes)
            finally:
                self._stack.close()

    async def _start(self) -> None:
        plan = self.layout
        plan.directory.mkdir(parents=True, exist_ok=True)
        self._lock()
        layout.write(plan)
        if sys.platform != "linux":
            self._pipe, controller_end = os.pipe()
            self._stack.callback(os.close, self._pipe)
            self._stack.callback(os.close, controller_end)
        self._wan_process = self._child(_wan_spec(plan))
        for region in plan.regions.values():
            self._regions[region.name] = ProcessRegion(
                region.name,
                self._child(_redis_spec(plan, region, self._server)),
                self._child(_replicator_spec(plan, region, self._commands)),
                {node.name: self._child(_node_spec(plan, node, self._commands)) for node in region.nodes.values()},
            )
        self._stack.callback((plan.directory / CLUSTER_FILE).unlink, missing_ok=True)
        await child.together([self._wan_process.start(), *(region.redis.start() for region in self._regions.values())])
        await child.together([region.start() for region in self._regions.values()])

    def _child(self, spec: Spec) -> Child:
        return Child(spec, self._pipe, self._publish)

    def _publish(self) -> None:
        layout.write_private(self.layout.directory / CLUSTER_FILE, layout.to_json(self.file))

    def _lock(self) -> None:
        """Held as long as this process lives, however it ends; released by the kernel."""
        path = self.layout.directory / LOCK_FILE
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        self._stack.callback(os.close, fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ClusterError(f"a cluster runs in {self.layout.directory} already") from error


# ---------------------------------------------------------------- what each process is made of


def _spec(plan: Layout, **given: Any) -> Spec:
    options = plan.options
    return Spec(
        directory=plan.directory,
        start_timeout_s=options.start_timeout_s,
        stop_timeout_s=options.stop_timeout_s,
        **given,
    )


def _wan_spec(plan: Layout) -> Spec:
    async def probe() -> str:
        try:
            await ask(plan.control, {"do": "stats"}, timeout_s=1.0)
        except WanError as error:
            return str(error)
        return ""

    return _spec(
        plan, name="wan", kind="wan", region="", address=plan.control,
        ports=[plan.control_port, *(link.port for link in plan.links)],
        command=[sys.executable, "-m", "evertalk.wan", "--config", str(plan.wan_config)],
        env=os.environ, log=plan.directory / "wan.log", disks=[], probe=probe,
    )  # fmt: skip


def _redis_spec(plan: Layout, region: RegionLayout, server: Path) -> Spec:
    async def probe() -> str:
        return await ping(region.redis_port, "admin", region.passwords["admin"])

    name = f"{region.name}-redis"
    return _spec(
        plan, name=name, kind="redis", region=region.name, address=f"{ports.HOST}:{region.redis_port}",
        ports=[region.redis_port], command=[str(server), str(region.redis_config)], env=os.environ,
        log=region.directory / f"{name}.log", disks=[region.redis_directory], probe=probe,
    )  # fmt: skip


def _replicator_spec(plan: Layout, region: RegionLayout, commands: Commands) -> Spec:
    async def probe() -> str:
        said = await health(region.replicator_address, 1.0)
        return "" if said == SERVING else f"its health is {said}"

    name = f"{region.name}-replicator"
    return _spec(
        plan, name=name, kind="replicator", region=region.name, address=region.replicator_address,
        ports=[region.replicator_port], command=commands("replicator", name),
        env=layout.replicator_env(plan, region), log=region.directory / f"{name}.log", disks=[], probe=probe,
    )  # fmt: skip


def _node_spec(plan: Layout, node: NodeLayout, commands: Commands) -> Spec:
    async def probe() -> str:
        said = await health(node.address, 1.0)
        return "" if said == SERVING else f"its health is {said}"

    log = plan.regions[node.region].directory / f"{node.name}.log"
    return _spec(
        plan, name=node.name, kind="node", region=node.region, address=node.address, ports=[node.port],
        command=commands("node", node.name), env=layout.node_env(plan, node), log=log,
        disks=[node.directory], probe=probe,
    )  # fmt: skip


async def ping(port: int, user: str, password: str, timeout_s: float = 1.0) -> str:
    """Ask a Redis on this machine whether it takes commands: "" if so, else what it says instead."""
    try:
        said = await resp.ask(ports.HOST, port, user, password, "PING", timeout_s=timeout_s)
    except (OSError, TimeoutError) as error:
        return f"its port does not answer: {error!r}"
    except ClusterError as error:
        return f"it says {error}"
    return "" if said == "PONG" else f"it says {said}"
