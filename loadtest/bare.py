"""A client of bare protocol frames (docs/protocol.md): as little as a client may do, so that it is not what is
measured. It stamps, names what it has seen (R11), sends again what a refusal cut off, and moves to no other node."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from typing import Any, Protocol

import uuid_utils

from evertalk.adapters.grpc_transport import SESSION_METHOD, GrpcStream, GrpcTransport
from evertalk.adapters.wire import encode_vector
from evertalk.core import limits
from evertalk.core.clock import pack
from evertalk.core.errors import Code, PeerUnavailable, Refused
from evertalk.core.ids import shard_of
from evertalk.core.vector import Key, Vector
from evertalk.v1 import chat_pb2, event_pb2, vector_pb2
from loadtest.client import Client, Due, Shared, now_us
from loadtest.plan import ClientPlan

_HELLO_S = 10.0
_PATIENCE_S = 60.0
_AGAIN_S = 0.25
_AGAIN_MAX_S = 4.0


def _vector(positions: dict[Key, int]) -> vector_pb2.Vector:
    return encode_vector(Vector(positions))


class Stream(Protocol):
    """A live session's two ways: frames out as bytes, and in."""

    async def write(self, frame: bytes) -> None: ...

    async def read(self) -> chat_pb2.SessionResponse | None: ...

    def cancel(self) -> None: ...


class BareClient(Client):
    """One session on a channel of its own."""

    def __init__(self, plan: ClientPlan, shared: Shared) -> None:
        super().__init__(plan, shared)
        self._transport = GrpcTransport()
        self._stream: Stream | None = None
        self._channels = 0
        self._session = secrets.token_bytes(limits.SESSION_BYTES)
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._epoch, self._seq, self._hlc, self._ahead_ms = 1, 0, 0, 0
        self._shards: dict[int, int] = {}  # by conversation
        self._seen: dict[Key, int] = {}  # highest position that was acknowledged or seen
        self._have: dict[Key, int] = {}  # the highest that a marker named
        self._pending: dict[int, tuple[Due, bytes]] = {}  # by sequence number
        self._again: deque[tuple[Due, bytes]] = deque()
        self._pause_s = 0.0
        self._beat = False

    async def connect(self) -> None:
        last_s, pause_s = time.monotonic() + _PATIENCE_S, _AGAIN_S
        while True:
            try:
                async with asyncio.timeout(_HELLO_S):
                    return await self._connect()
            except (Refused, PeerUnavailable, TimeoutError) as error:
                await self._leave()
                if time.monotonic() > last_s:
                    raise
                told_s = error.retry_after_ms / 1000 if isinstance(error, Refused) else 0.0
                await asyncio.sleep(told_s or pause_s * secrets.randbelow(1000) / 1000)
                pause_s = min(pause_s * 2, _AGAIN_MAX_S)

    async def _connect(self) -> None:
        """One try: a fresh session, or after a first one its resumption."""
        hello = chat_pb2.Hello(
            session=self._session,
            fresh=not self._have,
            have=_vector(self._have),
            need=_vector(self._seen),
            hlc=self._hlc,
        )
        self._stream = stream = await self._open(hello)
        frame = await stream.read()
        if frame is None:
            raise PeerUnavailable(f"{self.plan.address} ended the session at once")
        self._mark(frame.hello.marker)
        self._shards = {talk: shard_of(scope, frame.hello.shards) for talk, scope in self._talks}
        self._ahead_ms = frame.hello.region_time_ms - now_us() // 1000
        self._tasks = [asyncio.create_task(self._read_all(stream)), asyncio.create_task(self._write_all(stream))]

    async def _open(self, hello: chat_pb2.Hello) -> Stream:
        """A stream on which the hello was said."""
        channel = self._transport.acquire(self.plan.address)
        call: Any = channel.stream_stream(SESSION_METHOD, request_serializer=None, response_deserializer=self._parsed)
        stream = GrpcStream(call(metadata=(("authorization", f"Bearer {self.plan.token}"),)), self.plan.address)
        self._channels += 1
        await stream.write(chat_pb2.SessionRequest(hello=hello).SerializeToString())
        return stream

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._leave()

    async def _leave(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None
        if self._channels:
            self._channels -= 1
            await self._transport.release(self.plan.address)

    def ended(self) -> list[asyncio.Task[None]]:
        return self._tasks

    def wake(self) -> None:
        self._wake.set()

    # ------------------------------------------------------------ out

    async def _write_all(self, stream: Stream) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._pause_s:
                await asyncio.sleep(self._pause_s)
                self._pause_s = 0.0
            most = 1 if self.shared.plan.frames == "single" else self.shared.plan.window
            while frame := self._frame(most):
                self._count("out", frame)
                await stream.write(frame)

    def _frame(self, most: int) -> bytes:
        """The next frame; empty if there is nothing to say or no room."""
        frame = chat_pb2.SessionRequest()
        events: list[bytes] = []
        first = self._seq + 1
        while len(events) < most and (self._again or (self.queue and self.room > 0)):
            due, raw = self._again.popleft() if self._again else self._made(self.queue.popleft())
            self._seq += 1
            self._pending[self._seq] = (due, raw)
            events.append(raw)
        if events:
            frame.sends.CopyFrom(chat_pb2.Sends(epoch=self._epoch, first_seq=first, events=events))
        if self._beat:
            frame.heartbeat.SetInParent()
            self._beat = False
        return frame.SerializeToString()

    def _made(self, due: Due) -> tuple[Due, bytes]:
        shard = self._shards[due.talk]
        self._hlc = max(pack(now_us() // 1000 + self._ahead_ms), self._hlc + 1)
        event = event_pb2.Event(
            id=uuid_utils.uuid7().bytes, scope=due.scope, sender=self.account, session=self._session, hlc=self._hlc,
            need=[event_pb2.Need(origin=o, position=p) for (o, s), p in self._seen.items() if s == shard],
            message=event_pb2.Message(text=self.text(due)),
        )  # fmt: skip
        self.left(due)
        return due, event.SerializeToString()

    # ------------------------------------------------------------ in

    def _parsed(self, raw: bytes) -> Any:
        self._count("in", raw)
        return chat_pb2.SessionResponse.FromString(raw)

    def _count(self, way: str, raw: bytes) -> None:
        if self.shared.span.holds(now_us()):
            counts = self.shared.tally.counts
            counts[f"frames_{way}"] += 1
            counts[f"bytes_{way}"] += len(raw)

    async def _read_all(self, stream: Stream) -> None:
        while (frame := await stream.read()) is not None:
            acks = frame.acks
            for seq, shard, position in zip(acks.seqs, acks.shards, acks.positions, strict=True):
                self._see(acks.origin, shard, position)
                self.acked(self._pending.pop(seq)[0])
            for delivery in frame.deliveries:
                self.heard(delivery.event)
            self._mark(frame.marker)
            if frame.HasField("heartbeat"):
                self._beat = True
                self._wake.set()
            if frame.HasField("refusal"):
                self._refused(frame.refusal)
            if acks.seqs:
                self.fill()
                self._wake.set()
        raise ConnectionError(f"{self.plan.address} ended a session")

    def _mark(self, marker: vector_pb2.Vector) -> None:
        for origin in marker.origins:
            for shard, position in enumerate(origin.positions):
                if position > self._have.get((origin.origin, shard), 0):
                    self._have[origin.origin, shard] = position
                self._see(origin.origin, shard, position)

    def _see(self, origin: str, shard: int, position: int) -> None:
        if position > self._seen.get((origin, shard), 0):
            self._seen[origin, shard] = position

    def _refused(self, refusal: chat_pb2.Refusal) -> None:
        """Everything unanswered goes again, in order, under the next epoch (R10)."""
        if not refusal.retry_after_ms:
            raise Refused(Code(refusal.code), refusal.sentence)
        self.shared.tally.counts["refused"] += 1
        self._epoch += 1
        self._again.extendleft(reversed(list(self._pending.values())))
        self._pending.clear()
        self._pause_s = refusal.retry_after_ms / 1000
        self._wake.set()
