"""One chat node without gRPC and Redis: real hub, sessions, batcher, tail and store; a log in memory, with gates."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from evertalk.adapters.clock import SystemIds
from evertalk.adapters.settings import NodeSettings
from evertalk.adapters.sqlite_store import SqliteStore
from evertalk.adapters.wire import (
    decode_batch,
    decode_delivery,
    decode_vector,
    encode_batch,
    encode_event,
    encode_vector,
)
from evertalk.chatnode.batcher import Batcher
from evertalk.chatnode.hub import Hub
from evertalk.chatnode.node import Node
from evertalk.chatnode.tail import Tailer
from evertalk.core.clock import pack
from evertalk.core.errors import Code, LogError, Refused
from evertalk.core.ids import region_of, shard_of
from evertalk.core.model import Applied, Event, Message, Record, Stream
from evertalk.core.replication import Watermarks
from evertalk.core.vector import Key, Vector
from evertalk.ports import OriginInfo, RawEntry, Read
from evertalk.v1 import chat_pb2
from tests.adapters.store_helpers import NOW_MS, ROOM, SHARDS, account

PATIENCE_S = 20.0
REGION = "seoul"
BUSAN = f"busan-{1:026d}"
DORA = account("dora")
#: A second conversation, in another shard than ROOM.
CLUB = next(s for n in range(99) if shard_of(s := account(f"#club{n}"), SHARDS) != shard_of(ROOM, SHARDS))


def club(event: Event) -> Event:
    """The same event in the club."""
    return encode_event(event._replace(scope=CLUB))


def signed(event: Event, line: Line) -> Event:
    """The same event as the session of that line makes it."""
    return encode_event(event._replace(session=line.session, sender=line.account))


class Gate:
    """Stops a method of an object, before or after it has done its work."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: object, name: str, after: bool = False) -> None:
        self.reached, self.open = asyncio.Event(), asyncio.Event()
        original = getattr(owner, name)

        async def gated(*args: Any) -> Any:
            result = await original(*args) if after else None
            self.reached.set()
            await self.open.wait()
            return result if after else await original(*args)

        patch.setattr(owner, name, gated)


class FakeClock:
    """A wall clock that the test moves; monotonic time is the machine's."""

    def __init__(self) -> None:
        self.ms = NOW_MS

    def wall_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return time.monotonic()


class FakeRegion:
    """A region's Redis in memory: the Log and the Tail port in one. Entries come in the order they were written.

    It mirrors one origin of busan.
    """

    def __init__(self) -> None:
        self.lives = 1
        self.written: list[RawEntry] = []
        self.open = asyncio.Event()  # cleared: appends wait
        self.open.set()
        self.next: list[LogError] = []  # what happens to the next appends instead
        self.folded: list[str] = []  # origins of other regions that are
        self._last: dict[Stream, int] = {}
        self._moved = asyncio.Event()

    @property
    def origin(self) -> str:
        return f"{REGION}-{self.lives:026d}"

    def write(self, *events: Event, accepted_ms: int = NOW_MS, origin: str = "") -> list[RawEntry]:
        """As another node of the region, or into busan's mirror: an entry per event."""
        found = []
        for event in events:
            batch = encode_batch([Record(event, pack(accepted_ms))])
            found.append(self._put(shard_of(event.scope, SHARDS), batch, origin))
        return found

    def _put(self, shard: int, payload: bytes, origin: str = "") -> RawEntry:
        stream = Stream(origin or self.origin, shard, mirror=bool(origin))
        self._last[stream] = self._last.get(stream, 0) + 1
        entry = RawEntry(stream, self._last[stream], payload)
        self.written.append(entry)
        self._moved.set()
        return entry

    def events(self) -> list[tuple[Key, int, Event]]:
        """Everything in the log: (origin, shard), position, event; in the order it was written."""
        return [
            ((e.stream.origin, e.stream.shard), e.position, record.event)
            for e in self.written
            for record in decode_batch(e.payload)
        ]

    async def claim(self) -> str:
        return self.origin

    async def append(self, entries: Sequence[tuple[int, bytes]]) -> list[int | LogError]:
        await self.open.wait()
        if self.next:
            return [self.next.pop(0)] * len(entries)
        return [self._put(shard, payload).position for shard, payload in entries]

    async def read(self, cursors: Mapping[Stream, int], block_s: float, count: int = 100) -> Read:
        try:
            async with asyncio.timeout(block_s):
                while not (found := [e for e in self.written if e.position > cursors.get(e.stream, 1 << 62)]):
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            found = []
        origins = {f"{REGION}-{n:026d}": "open" if n == self.lives else "closed" for n in range(1, self.lives + 1)}
        known = {o: OriginInfo(o, REGION, state, ()) for o, state in origins.items()}
        known |= {o: OriginInfo(o, region_of(o), "folded", ()) for o in self.folded}
        return Read(found, origins=known | {BUSAN: OriginInfo(BUSAN, "busan", "open", ())})

    async def close(self) -> None: ...


class Line:
    """A client's end of one session stream, frame by frame."""

    def __init__(self, desk: Desk, account: bytes, session: bytes, have: Vector | None, hello: chat_pb2.Hello) -> None:
        self.account, self.session, self.resumed = account, session, have or Vector()
        self.region = desk.region
        self.frames: list[chat_pb2.SessionResponse] = []
        self.reading = asyncio.Event()  # cleared: it reads nothing, so the node cannot write
        self.reading.set()
        self.taken = 0  # frames that the node has read
        self._out: asyncio.Queue[chat_pb2.SessionRequest | None] = asyncio.Queue()
        self._moved = asyncio.Event()
        self._out.put_nowait(chat_pb2.SessionRequest(hello=hello))
        self._serving = asyncio.create_task(desk.hub.serve(account, self._requests(), self._write))
        self._serving.add_done_callback(lambda _: self._moved.set())

    async def _requests(self) -> AsyncIterator[chat_pb2.SessionRequest]:
        while (frame := await self._out.get()) is not None:
            self.taken += 1
            yield frame

    async def _write(self, frame: bytes | chat_pb2.SessionResponse) -> None:
        await self.reading.wait()
        raw = frame if isinstance(frame, bytes) else frame.SerializeToString()
        self.frames.append(chat_pb2.SessionResponse.FromString(raw))
        self._moved.set()

    def say(self, *events: Event | bytes, epoch: int = 1, first_seq: int = 1) -> None:
        """One frame of sends."""
        raw = [e if isinstance(e, bytes) else e.raw for e in events]
        self._out.put_nowait(
            chat_pb2.SessionRequest(sends=chat_pb2.Sends(epoch=epoch, first_seq=first_seq, events=raw))
        )

    def beat(self, awaiting: Vector) -> None:
        """A heartbeat."""
        heartbeat = chat_pb2.Heartbeat(awaiting=encode_vector(awaiting))
        self._out.put_nowait(chat_pb2.SessionRequest(heartbeat=heartbeat))

    async def until(self, condition: Callable[[], object]) -> None:
        """Until the condition holds; looked at with every frame.

        Raises:
            Refused: the node ended it before.
        """
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                if self._serving.done():
                    self._serving.result()
                    raise AssertionError("it ended without a word")
                self._moved.clear()
                await self._moved.wait()

    async def sees(self, text: str) -> None:
        await self.until(lambda: text in self.texts())

    async def greeted(self) -> chat_pb2.HelloReply:
        await self.until(lambda: self.frames)
        return self.frames[0].hello

    async def answered(self, seq: int) -> None:
        await self.until(lambda: seq in self.acks())

    async def hang_up(self) -> None:
        """Leave, in order."""
        self._out.put_nowait(None)
        await self._serving

    async def ended(self) -> Refused:
        """How the node ended it."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                await self._serving
            except Refused as refused:
                return refused
        raise AssertionError("it ended without a word")

    def close(self) -> asyncio.Task[None]:
        self._serving.cancel()
        return self._serving

    # ------------------------------------------------------------ what came

    def shown(self) -> list[Applied]:
        """Every delivery, in order."""
        return [decode_delivery(d, SHARDS) for frame in self.frames for d in frame.deliveries]

    def texts(self) -> list[str]:
        return [a.event.body.text for a in self.shown() if isinstance(a.event.body, Message)]

    def acks(self) -> dict[int, tuple[int, int]]:
        """seq -> (shard, position)."""
        return {
            seq: (shard, position)
            for f in self.frames
            for seq, shard, position in zip(f.acks.seqs, f.acks.shards, f.acks.positions, strict=True)
        }

    def refusals(self) -> list[tuple[int, int, Code]]:
        """(epoch, seq, code)."""
        return [(f.refusal.epoch, f.refusal.seq, Code(f.refusal.code)) for f in self.frames if f.HasField("refusal")]

    def have(self) -> Vector:
        """What markers have said so far."""
        found = self.have_at_hello()
        for frame in self.frames:
            found.merge(decode_vector(frame.marker))
        return found

    def skipped(self, *events: Event) -> list[Event]:
        """Those events which a marker has passed although they had not come yet."""
        start = self.have_at_hello()
        return [e for e in events if not self._passes(start, e) and self._passed_unseen(e)]

    def have_at_hello(self) -> Vector:
        """Where the session began: what it resumed from, or for a fresh one what the hello said."""
        if self.frames and self.frames[0].hello.HasField("marker"):
            return decode_vector(self.frames[0].hello.marker)
        return self.resumed.copy()

    def _passed_unseen(self, event: Event) -> bool:
        had = self.have_at_hello()
        for frame in self.frames:
            if any(decode_delivery(d, SHARDS).event.id == event.id for d in frame.deliveries):
                return False
            had.merge(decode_vector(frame.marker))
            if self._passes(had, event):
                return True
        return False

    def _passes(self, vector: Vector, event: Event) -> bool:
        return any(vector[key] >= position for key, position, e in self.region.events() if e.id == event.id)


class Desk:
    """The node, and whoever calls it."""

    def __init__(self, node: Node, store: SqliteStore, region: FakeRegion, clock: FakeClock) -> None:
        self.node, self.store, self.region, self.clock = node, store, region, clock
        self.hub = Hub(node)
        self.batcher = Batcher(node, region, self.hub.cut_all)
        self.hub.batcher = self.batcher
        hub, batcher = self.hub, self.batcher
        self.tailer = Tailer(node, region, hub, batcher.suspect)
        batcher.read_to = self.tailer.read_to
        batcher.catch_up = _nothing
        self.lines: list[Line] = []

    def call(
        self,
        account: bytes,
        session: bytes = b"",
        have: Vector | None = None,
        need: Vector | None = None,
        awaiting: Vector | None = None,
    ) -> Line:
        """Open a session: a fresh one, or with `have` one that resumes."""
        session = session or self.node.ids.token(8)
        hello = chat_pb2.Hello(
            session=session, fresh=have is None, have=encode_vector(have or Vector()),
            need=encode_vector(need or Vector()), awaiting=encode_vector(awaiting or Vector()),
        )  # fmt: skip
        line = Line(self, account, session, have, hello)
        self.lines.append(line)
        return line

    async def opened(self, account: bytes, session: bytes = b"", have: Vector | None = None) -> Line:
        """A session that has been greeted."""
        line = self.call(account, session, have)
        await line.greeted()
        return line

    async def wrote(self, *events: Event, origin: str = "") -> Vector:
        """Events of another node of the region, or of busan, once they are applied and handed out here."""
        reached = Vector()
        for entry in self.region.write(*events, origin=origin):
            reached.advance(entry.stream.origin, entry.stream.shard, entry.position)
        await self.applied(reached)
        return reached

    async def applied(self, vector: Vector) -> None:
        """Until that is applied and handed out here."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.node.fanned.reaches(vector):
                await self.node.progress.wait()


async def _nothing() -> None:
    """There is nobody to catch up with."""


@asynccontextmanager
async def desk(directory: Path) -> AsyncIterator[Desk]:
    """A node that serves; it knows nothing yet."""
    settings = NodeSettings(
        region=REGION, redis="redis://nowhere", shards=SHARDS, node="seoul-1", listen="127.0.0.1:1",
        store=directory / "store.db", keys=directory, peers={}, endpoints=[], neighbours={},
    )  # fmt: skip
    clock, ids = FakeClock(), SystemIds()
    store = await SqliteStore.open(settings.store, ids, SHARDS)
    node = Node(settings, clock, ids, store, Watermarks(1))
    found = Desk(node, store, FakeRegion(), clock)
    try:
        async with asyncio.TaskGroup() as group:
            await found.batcher.claim()
            node.caught_up = True
            loops = [group.create_task(found.batcher.run()), group.create_task(found.tailer.run())]
            try:
                yield found
            finally:
                ends = [line.close() for line in found.lines]
                await asyncio.gather(*ends, return_exceptions=True)
                for loop in loops:
                    loop.cancel()
    finally:
        await store.close()
