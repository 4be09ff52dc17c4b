"""A session on the wire without the SDK: frames, or bytes, as a test writes them; and events to send."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from evertalk.adapters.clock import SystemIds
from evertalk.adapters.grpc_transport import SESSION_METHOD, GrpcStream, GrpcTransport
from evertalk.adapters.wire import decode_delivery, decode_vector, encode_event, encode_vector
from evertalk.core.clock import pack
from evertalk.core.errors import Code, PeerUnavailable, Refused
from evertalk.core.model import Applied, Body, Event, Kind, Message
from evertalk.core.vector import Vector
from evertalk.v1 import chat_pb2

PATIENCE_S = 20.0
_ids = SystemIds()


def now_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


class RawSession:
    """One stream to one node. Reads on its own account only: nothing is read before a method asks."""

    def __init__(self, stream: GrpcStream, account: bytes, session: bytes) -> None:
        self._stream = stream
        self.account, self.session = account, session
        self.shards = 0
        self.have = Vector()
        self.shown: list[Applied] = []
        self._epoch, self._seq, self._last_hlc = 1, 0, 0

    def event(self, scope: bytes, body: Body, kind: Kind = Kind.MESSAGE, **fields: Any) -> Event:
        """An event of this session, stamped now unless `hlc` says otherwise."""
        self._last_hlc = max(pack(now_ms()), self._last_hlc + 1)
        event = Event(_ids.uuid7(), scope, self.account, self.session, self._last_hlc, kind, body)
        return encode_event(event._replace(**fields))

    def message(self, scope: bytes, text: str, **fields: Any) -> Event:
        return self.event(scope, Message(text), **fields)

    async def write(self, frame: chat_pb2.SessionRequest | bytes) -> None:
        """Send a frame. If the node has ended the stream meanwhile, reading says how."""
        with suppress(PeerUnavailable, Refused):
            await self._stream.write(frame)

    async def say(self, *events: Event | bytes) -> list[int]:
        """Send in this stream's order, in one frame; returns the sequence numbers."""
        first = self._seq + 1
        self._seq += len(events)
        raw = [e if isinstance(e, bytes) else e.raw for e in events]
        sends = chat_pb2.Sends(epoch=self._epoch, first_seq=first, events=raw)
        await self.write(chat_pb2.SessionRequest(sends=sends))
        return list(range(first, self._seq + 1))

    async def read(self) -> chat_pb2.SessionResponse:
        """The next frame; deliveries and markers are noted.

        Raises:
            Refused: the node ended the stream by name. PeerUnavailable: it ended otherwise.
        """
        async with asyncio.timeout(PATIENCE_S):
            frame = await self._stream.read()
        if frame is None:
            raise PeerUnavailable("the node ended the stream without a word")
        found: chat_pb2.SessionResponse = frame
        if found.HasField("hello"):
            self.shards = found.hello.shards
            self.have.merge(decode_vector(found.hello.marker))
        self.shown += [decode_delivery(d, self.shards) for d in found.deliveries]
        self.have.merge(decode_vector(found.marker))
        return found

    async def until(self, condition: Callable[[chat_pb2.SessionResponse], bool]) -> chat_pb2.SessionResponse:
        """The first frame of which it holds."""
        while True:
            frame = await self.read()
            if condition(frame):
                return frame

    async def accepted(self, *events: Event | bytes) -> None:
        """Send, and wait until the last is acknowledged."""
        last = (await self.say(*events))[-1]
        frame = await self.until(lambda f: last in f.acks.seqs or f.HasField("refusal"))
        assert last in frame.acks.seqs, frame.refusal

    async def refused(self, *events: Event | bytes) -> Refused:
        """Send; how the node refuses one of them. What is sent then belongs to the next epoch."""
        await self.say(*events)
        refusal = (await self.until(lambda f: f.HasField("refusal"))).refusal
        assert refusal.epoch == self._epoch
        self._epoch += 1
        return Refused(Code(refusal.code), refusal.sentence, refusal.retry_after_ms)

    async def ended(self) -> Refused:
        """Read to the end; how the node ended it by name."""
        try:
            while True:
                await self.read()
        except Refused as refused:
            return refused

    def texts(self) -> list[str]:
        """Texts of the messages that came, in order, each once."""
        found = {(a.event.sender, a.event.id): a.event.body for a in self.shown}
        return [body.text for body in found.values() if isinstance(body, Message)]

    def close(self) -> None:
        self._stream.cancel()


class Door:
    """Opens raw sessions at one node."""

    def __init__(self, transport: GrpcTransport, address: str) -> None:
        self._transport = transport
        self.address = address

    @asynccontextmanager
    async def stream(self, token: str, account: bytes = b"", session: bytes = b"") -> AsyncIterator[RawSession]:
        """A stream on which nothing was said yet."""
        channel = self._transport.acquire(self.address)
        call = channel.stream_stream(
            SESSION_METHOD, request_serializer=_bytes, response_deserializer=chat_pb2.SessionResponse.FromString
        )
        metadata = [("authorization", f"Bearer {token}")] if token else []
        raw = RawSession(GrpcStream(call(metadata=metadata), self.address), account, session or _ids.token(8))
        try:
            yield raw
        finally:
            raw.close()
            await self._transport.release(self.address)

    @asynccontextmanager
    async def session(
        self, token: str, account: bytes, session: bytes = b"", have: Vector | None = None
    ) -> AsyncIterator[RawSession]:
        """A session that was greeted: a fresh one, or with `have` one that resumes."""
        async with self.stream(token, account, session) as raw:
            hello = chat_pb2.Hello(session=raw.session, fresh=have is None, have=encode_vector(have or Vector()))
            await raw.write(chat_pb2.SessionRequest(hello=hello))
            await raw.read()
            yield raw


def _bytes(frame: Any) -> bytes:
    return frame if isinstance(frame, bytes) else bytes(frame.SerializeToString())


async def refusal_of(call: Callable[[], Awaitable[object]]) -> Refused:
    """How a call is definitely refused: NOT_YET is asked again, as a client does.

    Raises:
        AssertionError: it is not.
    """
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await call()
            except Refused as refused:
                if refused.code is not Code.NOT_YET:
                    return refused
            else:
                raise AssertionError("it was not refused")
