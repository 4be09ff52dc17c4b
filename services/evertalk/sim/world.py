"""The simulated cluster: regions with a Redis, nodes and replicators each, and the verbs that break and mend them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evertalk.adapters import sqlite_read
from evertalk.adapters.settings import ClientEndpoint, NodeSettings, PeerRegion, ReplicatorSettings
from evertalk.chatnode.node import State
from evertalk.chatnode.parts import Parts
from evertalk.chatnode.parts import World as Given
from evertalk.client import Endpoint
from evertalk.core.limits import ID_BYTES
from evertalk.core.model import Applied, Event, Kind, Role, Stream
from evertalk.core.replication import redundancy
from evertalk.core.vector import Vector
from evertalk.replicator.app import Replicator
from evertalk.replicator.region import BoardView, Peer
from evertalk.sim.disk import Disk, SimStore
from evertalk.sim.loop import SimLoop
from evertalk.sim.network import CLIENTS, Network
from evertalk.sim.network import Path as Way
from evertalk.sim.own import SimClock, SimIds, SimKeyring, SimPasswords
from evertalk.sim.plan import Shape
from evertalk.sim.process import Process
from evertalk.sim.redis import Data, SimRedis
from evertalk.sim.redis_boards import SimBoard, SimBoardReader
from evertalk.sim.redis_ports import SimLog, SimTail, Station
from evertalk.sim.rpc import Cpu, SimServer, SimTransport, Switchboard

_NOWHERE = "redis://simulated"
_ALL = 100_000


@dataclass
class NodeHost:
    """A chat node's place: its disk outlives its processes."""

    name: str
    region: str
    address: str
    disk: Disk
    process: Process | None = None
    parts: Parts | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    _read: dict[str | bytes, Any] = field(default_factory=dict)  # what was read of its store as it is now
    _read_at: tuple[Any, int] = (None, 0)  # which connection, after how many changes

    @property
    def serves(self) -> bool:
        """True if clients are served here now."""
        alive = self.process is not None and self.process.alive and not self.process.frozen
        return alive and self.parts is not None and self.parts.node.state is State.SERVING

    # What its store holds, read beside it and at once.

    @property
    def vector(self) -> Vector:
        """Where its store is."""
        assert self.parts is not None
        return self.parts.node.store.vector

    def digests(self) -> dict[bytes, str]:
        """Of every conversation."""
        found: dict[bytes, str] = self._once(
            "digests", lambda: {d.scope: d.sha256 for d in sqlite_read.digests(self.disk.db, None)[0]}
        )
        return found

    def messages(self, scope: bytes) -> list[Applied]:
        """Every visible message of a conversation."""
        found: list[Applied] = self._once(
            scope, lambda: sqlite_read.history(self.disk.db, self.disk.shards, scope, None, _ALL).messages
        )
        return found

    def _once(self, what: str | bytes, read: Callable[[], Any]) -> Any:
        """Read it unless it was and nothing has changed since."""
        now = (self.disk.db, self.disk.db.total_changes)
        if now != self._read_at:
            self._read, self._read_at = {}, now
        if what not in self._read:
            self._read[what] = read()
        return self._read[what]

    def in_two_entries(self) -> int:
        """How many events it knows by more than one position."""
        found: int = self.disk.db.execute("SELECT count(*) FROM facts WHERE length(copies) > 0").fetchone()[0]
        return found

    def disappearing(self) -> bool:
        """True if it holds a message that is to disappear, or should have."""
        return self.disk.db.execute("SELECT 1 FROM facts WHERE expires_at > 0 LIMIT 1").fetchone() is not None

    def deleted(self) -> set[bytes]:
        """Ids of messages whose deletion it knows."""
        rows = self.disk.db.execute("SELECT slot FROM facts WHERE kind = ?", (int(Kind.DELETION),))
        return {slot[:ID_BYTES] for (slot,) in rows}

    def expired(self) -> set[bytes]:
        """Ids of messages that it knows to have disappeared."""
        return {slot[:ID_BYTES] for (slot,) in self.disk.db.execute("SELECT slot FROM expired")}

    def knows(self, account: bytes) -> bool:
        """True if that account is there."""
        return bool(sqlite_read.accounts(self.disk.db, [account]))

    def members(self, scope: bytes) -> set[bytes]:
        """Who is in it now."""
        state = sqlite_read.conversation(self.disk.db, scope)
        return {a for a, (role, _) in state.members.items() if role != Role.NONE} if state else set()


@dataclass
class RegionHost:
    """A region: what runs there, and its clock."""

    name: str
    redis: SimRedis
    clock: SimClock
    nodes: list[NodeHost]
    replicators: list[Process] = field(default_factory=list)
    dark: bool = False  # without power

    def processes(self) -> list[Process]:
        return [n.process for n in self.nodes if n.process is not None] + self.replicators


class World:
    """A cluster of the given shape; verbs act at once.

    Args:
        shape: how many of what, and every knob.
        fail: told of what should never happen.
    """

    def __init__(self, loop: SimLoop, seed: int, shape: Shape, fail: Callable[[str], None]) -> None:
        self.loop, self.seed, self.shape, self.fail = loop, seed, shape, fail
        self._lives = 0
        self.cpu: Callable[[], Cpu | None] = lambda: None  # a processor for each life of a node
        self.network = Network(loop, self._rng("network"), shape.wan_s)
        self.regions: dict[str, RegionHost] = {}
        self._written: dict[tuple[str, int, int], bytes] = {}
        for number, name in enumerate(shape.regions):
            self.regions[name] = self._region(name, number)
        self.copies: dict[tuple[bytes, bytes], bytes] = {}  # (sender, another's id that it used) -> what it is called
        self.absent = {shape.joins} - {""}  # regions that come later
        hosts = self.hosts()
        self.board = Switchboard(self.network, {h.address: h.region for h in hosts})
        self.endpoints = [Endpoint(h.region, h.address) for h in hosts if h.region in self.joined]

    def _rng(self, name: str) -> random.Random:
        return random.Random(f"{self.seed}/{name}")

    def _region(self, name: str, number: int) -> RegionHost:
        shape = self.shape
        clock = SimClock(self.loop, shape.clock_offsets_ms[number], shape.drifts[number])
        redis = SimRedis(self.loop, name, self._rng(f"redis/{name}"))
        redis.on_write = self._wrote
        nodes = [
            NodeHost(f"{name}-{n}", name, f"{name}:{n}", Disk(shape.shards, self._rng(f"disk/{name}/{n}")))
            for n in range(1, shape.nodes[number] + 1)
        ]
        return RegionHost(name, redis, clock, nodes)

    def _wrote(self, stream: Stream, position: int, payload: bytes) -> None:
        """One position of one origin is one entry, wherever it lies (R3, R4)."""
        key = (stream.origin, stream.shard, position)
        if self._written.setdefault(key, payload) != payload:
            self.fail(f"two entries at {key}: {'mirror' if stream.mirror else 'log'} holds another than was there")

    @property
    def joined(self) -> set[str]:
        """The regions that the others know of."""
        return set(self.regions) - self.absent

    def told_apart(self, event: Event) -> Event:
        """The event as histories name it: by an id of its own, also where its sender used another's."""
        name = self.copies.get((event.sender, event.id))
        return event._replace(id=name) if name else event

    def hosts(self) -> list[NodeHost]:
        """Every node of every region."""
        return [node for region in self.regions.values() for node in region.nodes]

    def ids(self, name: str, clock: SimClock) -> SimIds:
        """Fresh chance for one life of one process."""
        self._lives += 1
        return SimIds(self._rng(f"ids/{name}/{self._lives}"), clock)

    def process(self, name: str, place: str) -> Process:
        """A new process; its unexpected end is a failure."""
        process = Process(self.loop, name, place)
        process.on_failure = lambda p, error: self.fail(f"{p.name} ended by itself: {_named(error)}")
        return process

    # ------------------------------------------------------------ starting

    def start(self) -> None:
        """Everything that is there from the start."""
        for name in self.regions:
            if name not in self.absent:
                self.start_region(name)

    def join(self, name: str) -> None:
        """A region comes. Nodes read their configuration again as they run, replicators as they start again."""
        self.absent.discard(name)
        self.endpoints += [Endpoint(name, node.address) for node in self.regions[name].nodes]
        for host in self.hosts():
            if host.parts is not None:
                node = host.parts.node
                fresh = {"peers": self._peers(host.region), "endpoints": self._client_endpoints()}
                node.settings = node.settings.model_copy(update=fresh)
        for other in sorted(self.joined - {name}):
            for process in self.regions[other].replicators:
                process.kill()
            if not self.regions[other].dark:
                self.start_replicators(other)
        self.start_region(name)

    def start_region(self, name: str) -> None:
        """Whatever of it does not run."""
        region = self.regions[name]
        if region.dark:
            region.dark = False
            self.network.mend(*self._ways(name))
        if not region.redis.alive:
            region.redis.restart()
        for node in region.nodes:
            self.start_node(node)
        self.start_replicators(name)

    def _peers(self, own: str) -> dict[str, PeerRegion]:
        return {
            name: PeerRegion.model_construct(redis=_NOWHERE, nodes={n.name: n.address for n in other.nodes})
            for name, other in self.regions.items()
            if name != own and name not in self.absent
        }

    def _client_endpoints(self) -> list[ClientEndpoint]:
        return [ClientEndpoint.model_construct(region=e.region, address=e.address) for e in self.endpoints]

    def start_node(self, node: NodeHost) -> None:
        """Start it unless it runs."""
        if node.process is not None and node.process.alive:
            return
        region = self.regions[node.region]
        process = self.process(node.name, node.region)
        node.process, node.parts, node.stop = process, None, asyncio.Event()
        process.start(self._run_node(node, region, process, node.stop))

    def _settings(self, **own: Any) -> dict[str, Any]:
        shape = self.shape
        return {
            "redis": _NOWHERE, "shards": shape.shards, "copies": 2, "log_cap_bytes": shape.log_cap_bytes,
            "log_keep": shape.log_keep, "log_keep_s": shape.log_keep_s, **own,
        }  # fmt: skip

    async def _run_node(self, node: NodeHost, region: RegionHost, process: Process, stop: asyncio.Event) -> None:
        ids = self.ids(node.name, region.clock)
        store = await SimStore.start(process, node.disk, ids)
        settings = NodeSettings.model_construct(**self._settings(
            region=region.name, peers=self._peers(region.name), node=node.name, listen=node.address,
            store=Path(node.name), keys=Path(), checkpoint_s=self.shape.checkpoint_s,
            neighbours={n.name: n.address for n in region.nodes if n is not node},
            endpoints=self._client_endpoints(),
        ))  # fmt: skip
        station = Station(process, self.network, region.redis)
        given = Given(
            clock=region.clock, ids=ids, store=store,
            log=SimLog(station, region.name, self.shape.shards, ids),
            tail=SimTail(station), again=SimTail(station), board=SimBoard(station, region.name),
            transport=SimTransport(process, self.board), keyring=SimKeyring(region.name), passwords=SimPasswords(),
        )  # fmt: skip
        parts = Parts(settings, given)
        server = SimServer(process, self.network, parts.service, self.cpu())
        self.board.listen(node.address, server)
        node.parts = parts
        await parts.run(server, stop)
        if not stop.is_set():
            self.fail(f"{node.name} stopped by itself")
        await store.close()
        process.kill()

    def start_replicators(self, name: str) -> None:
        """As many as the shape wants."""
        region = self.regions[name]
        region.replicators = [p for p in region.replicators if p.alive]
        while len(region.replicators) < self.shape.replicators:
            process = self.process(f"{name}-replicator", name)
            region.replicators.append(process)
            process.start(self._run_replicator(region, process))

    async def _run_replicator(self, region: RegionHost, process: Process) -> None:
        settings = ReplicatorSettings.model_construct(
            **self._settings(region=region.name, peers=self._peers(region.name), rewrite_s=self.shape.rewrite_s)
        )
        board = SimBoard(Station(process, self.network, region.redis), region.name)
        peers = []
        for name, other in self.regions.items():
            if name != region.name and name not in self.absent:
                station = Station(process, self.network, other.redis, writes=False)
                peers.append(Peer(name, SimBoardReader(station), SimTail(station)))
        ids = self.ids(process.name, region.clock)
        await Replicator(settings, board, peers, region.clock, ids).run()

    # ------------------------------------------------------------ breaking

    def _ways(self, name: str) -> list[Way]:
        others = [*self.regions, CLIENTS]
        return [way for o in others if o != name for way in ((name, o), (o, name))]

    def mend_all(self) -> None:
        """Every path, but those of regions without power."""
        self.network.mend()
        for region in self.regions.values():
            if region.dark:
                self.network.cut(*self._ways(region.name))
        self.network.slow.clear()

    def kill_region(self, name: str) -> None:
        """kill -9 of everything there, Redis last: nobody's goodbye helps the others."""
        region = self.regions[name]
        for process in region.processes():
            process.kill()
        region.redis.thaw()
        region.redis.kill()

    def lose_power(self, name: str) -> None:
        """Everything is gone at once, and nobody is told; disks keep what was flushed."""
        region = self.regions[name]
        self.network.cut(*self._ways(name))
        region.dark = True
        region.redis.thaw()
        for process in region.processes():
            for connection in list(process.connections):
                connection.vanish()
            process.kill()
        region.redis.lose_power()
        for node in region.nodes:
            node.disk.lose_power()

    def lose_disks(self, name: str) -> None:
        """What the fire took; the region is down already."""
        region = self.regions[name]
        region.redis.data = Data()
        for node in region.nodes:
            node.disk.wipe()

    def freeze_region(self, name: str) -> None:
        """SIGSTOP of everything there."""
        region = self.regions[name]
        for process in region.processes():
            process.freeze()
        region.redis.freeze()

    def thaw(self) -> None:
        """SIGCONT of everything everywhere."""
        for region in self.regions.values():
            for process in region.processes():
                process.thaw()
            region.redis.thaw()
        self.network.kick()

    def heal(self) -> None:
        """Everything runs, every path is open."""
        self.thaw()
        self.mend_all()
        for name in sorted(self.absent):
            self.join(name)
        for name in self.regions:
            self.start_region(name)
        self.mend_all()

    def counts(self) -> Counter[str]:
        """What happened, for the figures."""
        claims = sum(region.redis.claims for region in self.regions.values())
        return self.network.counts + Counter({"new origins": claims - len(self.regions)})

    def close(self) -> None:
        """End every process."""
        for region in self.regions.values():
            for process in region.processes():
                process.kill()

    # ------------------------------------------------------------ seeing

    def up(self) -> bool:
        """True once every node serves and hears of every region."""
        nodes = [n for n in self.hosts() if n.region in self.joined]
        return all(n.serves and n.parts is not None and n.parts.node.live_peers_complete() for n in nodes)

    def serving(self) -> list[str]:
        """Regions with a node that serves and a Redis that answers."""
        return [r.name for r in self.regions.values() if _serves(r)]

    def whole(self) -> bool:
        """True if the next region may fall (P1)."""
        views = self.views()
        return redundancy(views, sorted(self.joined), self.shape.shards, 2).whole

    def views(self) -> dict[str, BoardView]:
        """Every board that answers, as it is now."""
        shards = range(self.shape.shards)
        found = {}
        for region in self.regions.values():
            redis = region.redis
            if redis.alive and not redis.frozen and not region.dark and region.name in self.joined:
                origins = dict(redis.data.origins)
                wanted = [Stream(o.origin, s, o.region != region.name) for o in origins.values() for s in shards]
                found[region.name] = BoardView(region.name, origins, redis.store_entries(), redis.stream_states(wanted))
        return found


def _serves(region: RegionHost) -> bool:
    redis = region.redis
    return redis.alive and not redis.frozen and not region.dark and any(n.serves for n in region.nodes)


def _named(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_named(e) for e in error.exceptions)
    return f"{type(error).__name__}: {error}"
