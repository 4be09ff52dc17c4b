"""What a drill does to a cluster: the verbs and the facts, the same for every driver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from evertalk.core.errors import EvertalkError


class ClusterError(EvertalkError):
    """The cluster cannot do what was asked; the sentence names the process and the reason."""


T = TypeVar("T")


def named(what: str, name: str, found: Mapping[str, T]) -> T:
    """The region, or the node, of this name.

    Raises:
        ClusterError: there is none of that name.
    """
    if name not in found:
        raise ClusterError(f"there is no {what} {name!r}, only {', '.join(found)}")
    return found[name]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A node as clients reach it."""

    region: str
    node: str
    address: str  # host:port


@dataclass(frozen=True, slots=True)
class ProcessFact:
    """A process of the cluster as it is now. `kind`: redis | node | replicator | wan; `pid` None: not running."""

    name: str
    kind: str
    region: str
    address: str
    pid: int | None
    log: str


@dataclass(frozen=True, slots=True)
class ClusterFile:
    """cluster.json: what other commands need to find a running cluster. Holds no secret.

    `keys`: region -> directory with its signing key. `config`: region -> the directory of its process
    configuration (Redis passwords are in there).
    """

    driver: str
    directory: str
    regions: Sequence[str]
    shards: int
    seed: int
    controller_pid: int
    endpoints: Sequence[Endpoint]
    processes: Sequence[ProcessFact]
    keys: Mapping[str, str]
    wan_control: str
    redis_server: str  # the Redis-compatible program in use
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def nodes(self) -> Mapping[str, Endpoint]:
        """Endpoints by node name."""
        return {endpoint.node: endpoint for endpoint in self.endpoints}


class Process(Protocol):
    """One process, with its disk. Each verb returns when it is done."""

    @property
    def name(self) -> str: ...

    @property
    def alive(self) -> bool:
        """It runs, or stands still: the driver's knowledge, without asking anybody."""
        ...

    async def kill(self) -> None:
        """SIGKILL; nothing if it is dead."""
        ...

    async def stop(self) -> None:
        """SIGSTOP: silent, with open connections."""
        ...

    async def resume(self) -> None:
        """SIGCONT."""
        ...

    async def start(self, lose_disks: bool = False, wait: bool = True) -> None:
        """Return on the same port; with `wait`, until it is ready.

        Raises:
            ClusterError: it does not start.
        """
        ...

    async def terminate(self) -> None:
        """SIGTERM and wait: an orderly end (drain), SIGKILL if it takes too long."""
        ...

    async def lose_disks(self) -> None:
        """Delete what it has stored.

        Raises:
            ClusterError: it is alive.
        """
        ...


class Region(Protocol):
    """A data centre: the same verbs for all of its processes at once."""

    @property
    def name(self) -> str: ...

    @property
    def redis(self) -> Process: ...

    @property
    def replicator(self) -> Process: ...

    @property
    def nodes(self) -> Mapping[str, Process]: ...

    async def kill(self) -> None:
        """SIGKILL."""
        ...

    async def stop(self) -> None:
        """SIGSTOP, or what the engine calls pause."""
        ...

    async def resume(self) -> None:
        """SIGCONT."""
        ...

    async def start(self, lose_disks: bool = False, wait: bool = True) -> None: ...

    async def terminate(self) -> None:
        """SIGTERM: services first, then their Redis."""
        ...

    async def lose_disks(self) -> None: ...


class Wan(Protocol):
    """The links between regions. A direction is named by where bytes come from and where they go to.

    `cut` is a matter of who dials: with `both` False `source` no longer reaches `sink`, and `sink` still
    reaches `source`. All else is a matter of where bytes flow, requests and replies alike.
    """

    async def cut(self, source: str, sink: str, both: bool = True) -> None:
        """Reset connections, refuse new ones."""
        ...

    async def black_hole(self, source: str, sink: str, both: bool = True) -> None:
        """Swallow bytes and stay silent; connections that lost any are reset when it heals."""
        ...

    async def delay(self, source: str, sink: str, delay_ms: float, jitter_ms: float = 0.0, both: bool = True) -> None:
        """One-way delay; jitter is added, uniform from 0."""
        ...

    async def narrow(self, source: str, sink: str, bytes_per_s: float, both: bool = True) -> None:
        """Limit the bandwidth of each link; 0 = unlimited."""
        ...

    async def swallow_replies(self, source: str, sink: str) -> None:
        """What `source` asks of `sink` arrives there, and nothing comes back; `sink` still reaches `source`."""
        ...

    async def heal(self, source: str | None = None, sink: str | None = None, both: bool = True) -> None:
        """As at the start: open, with the first delay. Without names, everywhere."""
        ...

    async def stats(self) -> list[dict[str, Any]]:
        """Per link: connections and, for "there" and "back", bytes, swallowed, pending and settings."""
        ...


class Inside(Protocol):
    """What is done to the insides of processes. A driver that cannot do one of these says so.

    Raises (each verb):
        ClusterError: it cannot be done, here or now.
    """

    async def ask_redis(self, region: str, *words: str) -> str:
        """A command to a region's Redis as its admin, who may do everything; returns the answer as text."""
        ...

    async def damage(self, process: str, way: str, seed: int = 0) -> str:
        """Damage what a dead process stored, in one of `damage.WAYS`; returns a sentence that says what was done."""
        ...

    async def fill_disk(self, process: str) -> None:
        """Its disk is full: no file of it can grow any more, from now to `free_disk` or its end."""
        ...

    async def free_disk(self, process: str) -> None:
        """There is room again; nothing if it is dead."""
        ...

    async def skew(self, region: str, offset_ms: int) -> None:
        """The wall clock of all its nodes and replicators jumps to so much ahead of the right time (behind: < 0)."""
        ...


class Cluster(Inside, Protocol):
    """A running cluster."""

    @property
    def file(self) -> ClusterFile: ...

    @property
    def wan(self) -> Wan: ...

    @property
    def regions(self) -> Mapping[str, Region]: ...

    def region(self, name: str) -> Region: ...

    def node(self, name: str) -> Process: ...

    @property
    def fallen(self) -> list[str]:
        """A sentence for each process that ended though no verb ended it."""
        ...

    def rss(self) -> Mapping[str, int | None]:
        """Resident memory in bytes of each live process; None where it cannot be known."""
        ...

    def cpu_s(self) -> Mapping[str, float | None]:
        """Processor seconds, user and system, of each live process since it started."""
        ...

    async def close(self) -> None:
        """End every process."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
