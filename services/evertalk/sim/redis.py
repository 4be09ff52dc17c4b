"""A simulated Redis of one region: the scripts in Python, durable with each reply; killed, emptied, rolled back."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evertalk.core import limits
from evertalk.core.errors import LogError, LogFull, OriginLost, UnsafeRedis
from evertalk.core.model import Stream
from evertalk.ports import MirrorBatch, OriginInfo, RawEntry, StoreEntry, StreamState, Watermark
from evertalk.sim.loop import SimLoop
from evertalk.sim.network import Connection

_RANK = {"open": 1, "closed": 2, "folded": 3}
_ENTRY_BYTES = 100
_SAFE = {
    "appendonly": "yes",
    "appendfsync": "always",
    "maxmemory-policy": "noeviction",
    "no-appendfsync-on-rewrite": "no",
}
_FULL = "Redis is out of memory: trim, or raise maxmemory"


@dataclass(slots=True)
class Lane:
    """One stream. Positions of `entries` are dense from `first`."""

    entries: list[bytes] = field(default_factory=list)
    last: int = 0
    size: int = 0  # in bytes

    @property
    def first(self) -> int:
        return self.last - len(self.entries) + 1

    def add(self, payload: bytes) -> int:
        self.entries.append(payload)
        self.size += len(payload) + _ENTRY_BYTES
        self.last += 1
        return self.last

    def trim(self, position: int) -> None:
        gone = max(0, min(position, self.last) - self.first + 1)
        self.size -= sum(len(p) + _ENTRY_BYTES for p in self.entries[:gone])
        del self.entries[:gone]

    def after(self, cursor: int, count: int) -> list[tuple[int, bytes]]:
        """Entries beyond a cursor, as XREAD gives them: a trimmed range is silently skipped."""
        start = max(0, cursor - self.first + 1)
        return list(enumerate(self.entries[start : start + count], self.first + start))


@dataclass(slots=True)
class Data:
    """What lies on the disk."""

    meta: dict[str, str] = field(default_factory=dict)
    origins: dict[str, OriginInfo] = field(default_factory=dict)
    streams: dict[Stream, Lane] = field(default_factory=dict)
    floors: dict[Stream, int] = field(default_factory=dict)
    bases: dict[Stream, int] = field(default_factory=dict)
    stores: dict[str, tuple[StoreEntry, float]] = field(default_factory=dict)  # with the time it expires at
    wake: int = 0


class SimRedis:
    """Commands are methods, each atomic and durable; connections bring them in and carry the replies out.

    Args:
        place: its region, for the network.
    """

    def __init__(self, loop: SimLoop | Any, place: str, rng: random.Random) -> None:
        self.loop, self.place, self.rng = loop, place, rng
        self.alive, self.frozen = True, False
        self.connections: dict[Connection, None] = {}
        self.data = Data()
        self.maxmemory = 0
        self.settings = dict(_SAFE)
        self.run_id = self._new_run_id()
        self.waiters: dict[Callable[[], None], None] = {}  # called when a stream or the wake stream grows
        self.subscribers: dict[Callable[[bool, list[Watermark]], None], None] = {}
        self.rewrites = 0
        self.claims = 0  # of new origins
        #: What was ever written where, for the invariant that a mirror is its log; told to the world.
        self.on_write: Callable[[Stream, int, bytes], None] = lambda stream, position, payload: None

    def _new_run_id(self) -> str:
        return f"{self.rng.getrandbits(160):040x}"

    # ------------------------------------------------------------ faults

    def kill(self) -> None:
        """kill -9. A pipeline that was under way may have run, wholly or up to some command; nobody is told."""
        if not self.alive:
            return
        for connection in list(self.connections):
            for _, arrive in connection.up.queue:
                if isinstance(arrive, Pipeline) and self.rng.random() < 0.3:
                    arrive.run_some(self.rng)
        self._stop()
        for connection in list(self.connections):
            connection.died(self)

    def lose_power(self) -> None:
        """As kill, and nobody's kernel says goodbye."""
        if self.alive:
            self._stop()
            for connection in list(self.connections):
                connection.vanish()

    def freeze(self) -> None:
        """SIGSTOP."""
        self.frozen = self.alive

    def thaw(self) -> None:
        """SIGCONT; the network must be told to look again."""
        self.frozen = False
        self._grown()

    def _stop(self) -> None:
        self.alive = self.frozen = False
        self.waiters.clear()
        self.subscribers.clear()

    def restart(self, data: Data | None = None) -> None:
        """Start on what is on the disk, or on other data: an older copy, or nothing."""
        self.alive = True
        self.run_id = self._new_run_id()
        if data is not None:
            self.data = data

    def backup(self) -> Data:
        """A copy of the disk."""
        return copy.deepcopy(self.data)

    def empty(self) -> None:
        """FLUSHALL: the process goes on."""
        self.data = Data()
        self._grown()

    # ------------------------------------------------------------ helpers

    def _grown(self) -> None:
        for waiter in list(self.waiters):
            waiter()

    def _wake(self) -> None:
        self.data.wake += 1
        self._grown()

    def full(self) -> bool:
        return 0 < self.maxmemory <= self.used()

    def used(self) -> int:
        return 1000 + sum(lane.size for lane in self.data.streams.values())

    def _last_of(self, stream: Stream) -> int:
        lane = self.data.streams.get(stream)
        return lane.last if lane else 0

    def _folded(self, origin: str) -> bool:
        info = self.data.origins.get(origin)
        return info is not None and info.state == "folded"

    def _remove(self, origin: str) -> None:
        data = self.data
        for table in (data.streams, data.floors, data.bases):
            for stream in [s for s in table if s.origin == origin]:
                del table[stream]

    # ------------------------------------------------------------ commands of a log

    def check_safe(self) -> None:
        for name, wanted in _SAFE.items():
            if self.settings[name] != wanted:
                raise UnsafeRedis(
                    f"Redis in {self.place} runs with '{name} {self.settings[name]}' and may forget what it has"
                    f" acknowledged: set '{name} {wanted}' in its configuration and restart it"
                )

    def claim(self, region: str, shards: int, fresh: str) -> tuple[str, str]:
        """As the script: ("kept" | "new" | "shards" | "region", value)."""
        data, meta = self.data, self.data.meta
        if meta.get("region", region) != region:
            return "region", meta["region"]
        if meta.get("shards", str(shards)) != str(shards):
            return "shards", meta["shards"]
        kept = meta.get("origin")
        if kept is not None:
            whole = meta["run_id"] == self.run_id and all(Stream(kept, s) in data.streams for s in range(shards))
            info = data.origins.get(kept)
            if whole and (info is None or info.state == "open"):
                if info is None:
                    data.origins[kept] = OriginInfo(kept, region, "open")
                    self._wake()
                return "kept", kept
            if info is None:
                data.origins[kept] = OriginInfo(kept, region, "open")
        for info in list(data.origins.values()):
            if info.region == region and info.state == "open":
                known = info.last + (0,) * (shards - len(info.last))
                last = tuple(max(known[s], self._last_of(Stream(info.origin, s))) for s in range(shards))
                data.origins[info.origin] = replace(info, state="closed", last=last)
        for shard in range(shards):
            data.streams[Stream(fresh, shard)] = Lane()
        data.meta = {"run_id": self.run_id, "origin": fresh, "region": region, "shards": str(shards)}
        data.origins[fresh] = OriginInfo(fresh, region, "open")
        self.claims += 1
        self._wake()
        return "new", fresh

    def xadd(self, stream: Stream, payload: bytes) -> int | LogError:
        """XADD NOMKSTREAM."""
        if self.full():
            return LogFull(_FULL)
        lane = self.data.streams.get(stream)
        if lane is None:
            return OriginLost("the stream is gone: it was emptied, claim again")
        position = lane.add(payload)
        self.on_write(stream, position, payload)
        self._grown()
        return position

    # ------------------------------------------------------------ reading

    def xread(self, cursors: Mapping[Stream, int], count: int) -> list[RawEntry]:
        found = []
        streams = self.data.streams
        for stream, cursor in cursors.items():
            lane = streams.get(stream)
            if lane is not None and lane.last > cursor and lane.entries:
                found += [RawEntry(stream, position, payload) for position, payload in lane.after(cursor, count)]
        return found

    def stream_states(self, wanted: Iterable[Stream]) -> dict[Stream, StreamState]:
        data = self.data
        return {
            s: StreamState(
                lane.last, len(lane.entries), lane.size + _ENTRY_BYTES, data.floors.get(s, 0), data.bases.get(s, 0)
            )
            for s in wanted
            if (lane := data.streams.get(s)) is not None
        }

    def store_entries(self) -> list[StoreEntry]:
        now = self.loop.time()
        life = limits.STORE_COUNTED_S
        return [
            StoreEntry(e.node, e.region, e.life, e.state, e.vector, e.checkpointed, max(0.0, life - (end - now)))
            for _, (e, end) in sorted(self.data.stores.items())
            if end > now
        ]

    # ------------------------------------------------------------ commands of a board

    def append_mirror(self, batch: MirrorBatch, mark: Watermark) -> bool:
        stream = Stream(batch.origin, batch.shard, True)
        if self.full():
            raise LogFull(_FULL)
        if self._folded(batch.origin) or self._last_of(stream) != batch.predecessor:
            return False
        lane = self.data.streams.setdefault(stream, Lane())
        for position, payload in batch.entries:
            lane.add(payload)
            self.on_write(stream, position, payload)
        self._grown()
        if mark.position:
            self.publish([mark], False)
        return True

    def jump_mirror(self, origin: str, shard: int, floor: int) -> int:
        stream = Stream(origin, shard, True)
        last = self._last_of(stream)
        if floor <= last or self._folded(origin):
            return last
        self.data.streams[stream] = Lane(last=floor)
        self.data.floors[stream] = self.data.bases[stream] = floor
        return floor

    def trim(self, stream: Stream, position: int) -> None:
        lane = self.data.streams.get(stream)
        position = min(position, lane.last if lane else 0)
        if lane is not None and position > self.data.floors.get(stream, 0):
            self.data.floors[stream] = position
            lane.trim(position)

    def publish_store(self, entry: StoreEntry) -> None:
        left = limits.STORE_COUNTED_S - entry.age_s
        end = self.loop.time() + left
        old = self.data.stores.get(entry.node)
        if left > 0 and (old is None or old[1] <= end):
            kept = replace(entry, vector=entry.vector.copy(), checkpointed=entry.checkpointed.copy())
            self.data.stores[entry.node] = (kept, end)

    def carry_origins(self, region: str, origins: Iterable[OriginInfo]) -> None:
        mine = self.data.meta.get("origin")
        changes = 0
        for new in origins:
            if new.origin == mine:
                continue
            state = "closed" if mine and new.region == region and new.state == "open" else new.state
            old = self.data.origins.get(new.origin)
            kept = old or OriginInfo(new.origin, new.region, "open")
            if _RANK[state] > _RANK[kept.state]:
                kept = replace(kept, state=state)
                if state == "folded":
                    self._remove(new.origin)
            size = max(len(kept.last), len(new.last))
            last = tuple(map(max, _padded(kept.last, size), _padded(new.last, size)))
            kept = replace(kept, last=last)
            if kept != old:
                self.data.origins[new.origin] = kept
                changes += 1
        if changes:
            self._wake()

    def fold(self, origin: str, region: str) -> None:
        if self.data.meta.get("origin") == origin:
            return
        info = self.data.origins.get(origin) or OriginInfo(origin, region, "open")
        self._remove(origin)
        if info.state != "folded":
            self.data.origins[origin] = replace(info, state="folded")
            self._wake()

    def forget_folded(self, origin: str) -> None:
        if self._folded(origin):
            del self.data.origins[origin]
            self._wake()

    def publish(self, marks: Sequence[Watermark], relayed: bool) -> None:
        for subscriber in list(self.subscribers):
            subscriber(relayed, list(marks))


def _padded(last: tuple[int, ...], size: int) -> tuple[int, ...]:
    return last + (0,) * (size - len(last))


class Pipeline:
    """Commands on their way, called on arrival; on a crash some of them may have run, unanswered."""

    def __init__(self, commands: Sequence[Callable[[], Any]], answer: Callable[[list[Any]], None]) -> None:
        self._commands = commands
        self._answer = answer

    def __call__(self) -> None:
        replies = []
        for command in self._commands:
            try:
                replies.append(command())
            except LogError as error:
                replies.append(error)
        self._answer(replies)

    def run_some(self, rng: random.Random) -> None:
        """The first few of them, and no answer."""
        for command in self._commands[: rng.randint(0, len(self._commands))]:
            try:
                command()
            except LogError:
                continue  # a refusal that nobody hears
