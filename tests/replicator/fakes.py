"""A region's Redis in memory behind the ports, links that can be cut, and a clock that jumps over every wait."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from evertalk.adapters.settings import PeerRegion, ReplicatorSettings
from evertalk.core.errors import LogUnavailable
from evertalk.core.model import Stream
from evertalk.core.vector import Hole, Vector
from evertalk.ports import (
    MirrorBatch,
    OriginInfo,
    RawEntry,
    Read,
    StoreEntry,
    StreamState,
    Watermark,
)
from evertalk.replicator.app import Replicator
from evertalk.replicator.region import Peer

T = TypeVar("T")

SHARDS = 2
ENTRY_BYTES = 1000
START_MS = 1_800_000_000_000
_RANK = {"open": 1, "closed": 2, "folded": 3}

NOWHERE = "redis://127.0.0.1:1"  # never dialled: boards and tails are in memory


class _Selector(selectors.SelectSelector):
    """Never waits: what would be waited for is added to the clock."""

    passed_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everything waits for something that will not come"
        self.passed_s += max(0.0, timeout)
        return super().select(0)


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while everybody waits."""

    def __init__(self) -> None:
        self._jumps = _Selector()
        super().__init__(self._jumps)

    def time(self) -> float:
        return self._jumps.passed_s


def play(story: Coroutine[Any, Any, T]) -> T:
    """Run a story in time that costs nothing."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(story)


async def until(what: Any, within_s: float = 30.0) -> None:
    """Wait until `what()` is true."""
    async with asyncio.timeout(within_s):
        while not what():  # noqa: ASYNC110 this time costs nothing
            await asyncio.sleep(0.01)


class FakeClock:
    """The loop's time."""

    def wall_ms(self) -> int:
        return START_MS + int(self.monotonic() * 1000)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class FakeIds:
    """No chance at all."""

    def uuid7(self) -> bytes:
        return bytes(16)

    def ulid(self) -> str:
        return "0" * 26

    def token(self, size: int) -> bytes:
        return bytes(size)

    def random(self) -> float:
        return 0.5


@dataclass
class FakeStream:
    entries: dict[int, bytes] = field(default_factory=dict)
    last: int = 0
    floor: int = 0
    base: int = 0

    def trim(self, position: int) -> None:
        self.floor = max(self.floor, min(position, self.last))
        self.entries = {p: e for p, e in self.entries.items() if p > self.floor}


class FakeRedis:
    """What a region's Redis holds. Everybody reaches it through a FakeLink."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.origin = ""
        self.memory = (0, 0)
        self.rewrites = 0
        self.told: list[tuple[bool, Watermark]] = []
        self.streams: dict[Stream, FakeStream] = {}
        self.origins: dict[str, OriginInfo] = {}
        self.stores: dict[str, tuple[StoreEntry, float]] = {}
        self.listeners: list[asyncio.Queue[list[Watermark]]] = []
        self._pulse = asyncio.Event()

    def pulse(self) -> None:
        """Wake everybody who waits for a change."""
        self._pulse.set()
        self._pulse = asyncio.Event()

    async def changed(self) -> None:
        await self._pulse.wait()

    def claim(self, origin: str) -> str:
        """A new life of the region: its open origin closes, with what the logs hold of it."""
        for old in list(self.origins.values()):
            if old.region == self.region and old.state == "open":
                logs = [self.streams.get(Stream(old.origin, s), FakeStream()) for s in range(SHARDS)]
                self.origins[old.origin] = replace(old, state="closed", last=tuple(log.last for log in logs))
        self.origin = origin
        self.origins[origin] = OriginInfo(origin, self.region, "open")
        self.streams |= {Stream(origin, s): FakeStream() for s in range(SHARDS)}
        self.pulse()
        return origin

    def empty(self) -> None:
        """Everything is lost."""
        self.origin = ""
        self.streams, self.origins, self.stores = {}, {}, {}
        self.pulse()

    def write(self, shard: int, *payloads: bytes) -> int:
        """The region's nodes log something; returns its last position."""
        log = self.streams[Stream(self.origin, shard)]
        for payload in payloads:
            log.last += 1
            log.entries[log.last] = payload
        self.pulse()
        return log.last

    def held(self, origin: str, shard: int = 0) -> list[bytes]:
        """Payloads in the mirror of an origin."""
        mirror = self.streams.get(Stream(origin, shard, True), FakeStream())
        return [mirror.entries[p] for p in sorted(mirror.entries)]

    def level(self, origin: str, shard: int = 0, mirror: bool = True) -> FakeStream:
        return self.streams.get(Stream(origin, shard, mirror), FakeStream())

    def store(self, node: str, held: Mapping[tuple[str, int], int], holes: Iterable[Hole] = ()) -> None:
        """A node's store publishes itself, everything checkpointed, and goes on doing so."""
        vector = Vector(held, holes)
        entry = StoreEntry(node, self.region, "life", "SERVING", vector, vector)
        self.stores[node] = (entry, float("inf"))

    def heard(self, holder: str, origin: str, shard: int = 0) -> Watermark | None:
        """The last watermark of a holder that this region's nodes were told."""
        told = [w for _, w in self.told if (w.holder, w.origin, w.shard) == (holder, origin, shard)]
        return told[-1] if told else None


class FakeLink:
    """The way from somebody to a region's Redis; `cut` breaks what is under way too."""

    def __init__(self, redis: FakeRedis) -> None:
        self.redis = redis
        self.is_cut = False
        self.tries = 0
        self.reads = 0
        self.on_read: Callable[[Mapping[Stream, int]], None] = lambda cursors: None

    def cut(self) -> None:
        self.is_cut = True
        self.redis.pulse()

    def mend(self) -> None:
        self.is_cut = False

    async def pass_through(self) -> FakeRedis:
        self.tries += 1
        await asyncio.sleep(0.001)
        if self.is_cut:
            raise LogUnavailable(f"no way to {self.redis.region}")
        return self.redis


class FakeTail:
    """Tail over a link."""

    def __init__(self, link: FakeLink) -> None:
        self._link = link
        self._seen: dict[str, OriginInfo] = {}

    async def read(self, cursors: Mapping[Stream, int], block_s: float, count: int = 100) -> Read:
        redis = await self._link.pass_through()
        self._link.reads += 1
        self._link.on_read(cursors)
        deadline = asyncio.get_running_loop().time() + block_s
        while True:
            entries = [
                RawEntry(stream, position, log.entries[position])
                for stream, cursor in cursors.items()
                if (log := redis.streams.get(stream))
                for position in [p for p in sorted(log.entries) if p > cursor][:count]
            ]
            left = deadline - asyncio.get_running_loop().time()
            if entries or left <= 0 or redis.origins != self._seen:
                break
            try:
                async with asyncio.timeout(left):
                    await redis.changed()
            except TimeoutError:
                continue
            await self._link.pass_through()
        self._seen = dict(redis.origins)
        there = {stream: redis.streams[stream] for stream in cursors if stream in redis.streams}
        floors = {stream: log.floor for stream, log in there.items() if log.floor}
        return Read(entries, floors, set(cursors) - set(there), dict(redis.origins))

    async def close(self) -> None: ...


class FakeBoard:
    """Board and BoardReader over a link."""

    def __init__(self, link: FakeLink) -> None:
        self._link = link
        self.lost_replies = 0  # so many appends are written but not answered
        self.reply_s = 0.001  # how long some answers are under way, while the world moves on
        self.refused = 0  # appends whose predecessor was not the last

    async def origins(self) -> dict[str, OriginInfo]:
        return dict((await self._link.pass_through()).origins)

    async def streams(self, wanted: Iterable[Stream]) -> dict[Stream, StreamState]:
        found = (await self._link.pass_through()).streams
        answer = {
            s: StreamState(
                found[s].last, len(found[s].entries), len(found[s].entries) * ENTRY_BYTES, found[s].floor, found[s].base
            )
            for s in wanted
            if s in found
        }
        await asyncio.sleep(self.reply_s)
        return answer

    async def stores(self) -> list[StoreEntry]:
        redis = await self._link.pass_through()
        now = asyncio.get_running_loop().time()
        ages = [(entry, 0.0 if end == float("inf") else 60 - (end - now)) for entry, end in redis.stores.values()]
        return [replace(entry, age_s=age) for entry, age in ages if age <= 60]

    async def watermarks(self, relayed: bool = False) -> AsyncIterator[list[Watermark]]:
        redis = await self._link.pass_through()
        queue: asyncio.Queue[list[Watermark]] = asyncio.Queue()
        redis.listeners.append(queue)
        try:
            yield []
            while True:
                try:
                    async with asyncio.timeout(1.0):
                        batch = await queue.get()
                except TimeoutError:
                    batch = []
                await self._link.pass_through()
                if batch:
                    yield batch
        finally:
            redis.listeners.remove(queue)

    async def append_mirror(self, batches: Sequence[MirrorBatch], announce: Sequence[Watermark]) -> list[bool]:
        redis = await self._link.pass_through()
        done = []
        for batch, mark in zip(batches, announce, strict=True):
            mirror = redis.streams.setdefault(Stream(batch.origin, batch.shard, True), FakeStream())
            info = redis.origins.get(batch.origin)
            fits = mirror.last == batch.predecessor and not (info and info.state == "folded")
            if fits:
                mirror.entries |= dict(batch.entries)
                mirror.last = batch.entries[-1][0]
                if mark.position:
                    self._tell(redis, [mark], False)
            self.refused += not fits
            done.append(fits)
        redis.pulse()
        if self.lost_replies:
            self.lost_replies -= 1
            raise LogUnavailable("the reply is lost")
        return done

    async def jump_mirror(self, origin: str, shard: int, floor: int) -> int:
        redis = await self._link.pass_through()
        mirror = redis.streams.setdefault(Stream(origin, shard, True), FakeStream())
        if mirror.last < floor:
            redis.streams[Stream(origin, shard, True)] = mirror = FakeStream({}, floor, floor, floor)
        return mirror.last

    async def trim(self, stream: Stream, position: int) -> None:
        (await self._link.pass_through()).streams[stream].trim(position)

    async def publish_store(self, entry: StoreEntry) -> None:
        redis = await self._link.pass_through()
        redis.stores[entry.node] = (entry, asyncio.get_running_loop().time() + 60 - entry.age_s)

    async def carry_origins(self, origins: Iterable[OriginInfo]) -> None:
        redis = await self._link.pass_through()
        for new in origins:
            if new.origin == redis.origin:
                continue
            old = redis.origins.get(new.origin, new)
            both = [old.last + (0,) * (SHARDS - len(old.last)), new.last + (0,) * (SHARDS - len(new.last))]
            state = max(old.state, new.state, key=_RANK.__getitem__)
            redis.origins[new.origin] = replace(old, state=state, last=tuple(map(max, *both)))
        redis.pulse()

    async def fold(self, origin: str) -> None:
        redis = await self._link.pass_through()
        redis.origins[origin] = replace(redis.origins[origin], state="folded")
        redis.streams = {s: log for s, log in redis.streams.items() if s.origin != origin}
        redis.pulse()

    async def forget_folded(self, origin: str) -> None:
        del (await self._link.pass_through()).origins[origin]

    async def announce(self, watermarks: Sequence[Watermark], relayed: bool) -> None:
        self._tell(await self._link.pass_through(), watermarks, relayed)

    def _tell(self, redis: FakeRedis, watermarks: Sequence[Watermark], relayed: bool) -> None:
        redis.told += [(relayed, w) for w in watermarks]
        if not relayed:
            for queue in redis.listeners:
                queue.put_nowait(list(watermarks))

    async def rewrite_aof(self) -> None:
        (await self._link.pass_through()).rewrites += 1

    async def memory(self) -> tuple[int, int]:
        answer = (await self._link.pass_through()).memory
        await asyncio.sleep(self.reply_s)
        return answer

    async def close(self) -> None: ...


class World:
    """Regions with a replicator each, and links between them that can be cut.

    Args:
        regions: their names; each gets the origin "{name}-1".
        settings: for every replicator.
    """

    def __init__(self, *regions: str, **settings: Any) -> None:
        self.redis = {name: FakeRedis(name) for name in regions}
        self.links = {(a, b): FakeLink(self.redis[b]) for a in regions for b in regions}
        self.boards = {name: FakeBoard(self.links[name, name]) for name in regions}
        self._settings = settings
        self._tasks = asyncio.TaskGroup()
        self.running: list[asyncio.Task[None]] = []
        for name, redis in self.redis.items():
            redis.claim(f"{name}-1")

    def replicator(self, own: str) -> Replicator:
        """A replicator of a region; it runs when started, and any number of them may."""
        others = [name for name in self.redis if name != own]
        settings = ReplicatorSettings(
            region=own,
            redis=NOWHERE,
            shards=SHARDS,
            peers={o: PeerRegion(redis=NOWHERE) for o in others},
            **self._settings,
        )
        peers = [Peer(o, FakeBoard(self.links[own, o]), FakeTail(self.links[own, o])) for o in others]
        return Replicator(settings, self.boards[own], peers, FakeClock(), FakeIds())

    def start(self, own: str) -> Replicator:
        replicator = self.replicator(own)
        self.running.append(self._tasks.create_task(replicator.run()))
        return replicator

    def cut(self, one: str, other: str) -> None:
        """Neither reaches the other."""
        self.links[one, other].cut()
        self.links[other, one].cut()

    def mend(self, one: str, other: str) -> None:
        self.links[one, other].mend()
        self.links[other, one].mend()

    async def __aenter__(self) -> World:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        for task in self.running:
            task.cancel()
        await self._tasks.__aexit__(*error)
