"""One live stream to one node: connect, hello, read, write, heartbeat."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Protocol

from evertalk.adapters import wire
from evertalk.client.endpoints import Endpoint
from evertalk.client.groups import leaves
from evertalk.client.session import Session
from evertalk.core import limits
from evertalk.core.errors import PeerUnavailable, Refused
from evertalk.ports import Clock, Peer, SessionStream
from evertalk.v1 import chat_pb2

STALL_S = 0.2  # how long a full queue holds a stream back before its deliveries are let go
#: The node's heartbeats are answered: it says many in a row, and reading as many costs it less than one at a time. Only
#: where they stay away does a client speak on its own account.
_OWN_BEAT_S = 1.5 * limits.HEARTBEAT_S
_BEATS_APART_S = limits.HEARTBEAT_S / 2  # a node says one out of turn when a region comes or goes


class Chooser(Protocol):
    """Who chooses streams."""

    def poke(self) -> None:
        """The choice may change."""
        ...

    def written(self) -> None:
        """A send was written."""
        ...


class Link:
    """A stream whose node has said hello.

    Args:
        lane: its number in the outbox.
        chooser: told when something was written and when the node asks to leave.
    """

    def __init__(
        self,
        lane: int,
        endpoint: Endpoint,
        stream: SessionStream,
        first: chat_pb2.SessionResponse,
        session: Session,
        clock: Clock,
        chooser: Chooser,
    ) -> None:
        self.lane = lane
        self.endpoint = endpoint
        self.reply = first.hello
        self.heard_s = self.since_s = clock.monotonic()
        self.dropping = False  # the application fell behind: a later stream delivers from `have`
        self.leave: chat_pb2.GoAway | None = None
        self.ended: Refused | PeerUnavailable | None = None
        self._first = first
        self._stream = stream
        self._session = session
        self._clock = clock
        self._chooser = chooser
        self._wake = asyncio.Event()
        self._beat = False
        self._beaten_s = self.since_s - _BEATS_APART_S  # the first of the node's is answered, however soon

    def start(self) -> None:
        """Take part: what the node lacks is queued for it."""
        self._session.opened(self.lane, self.reply, self._wake)

    async def run(self) -> None:
        """Read and write until the stream ends or `stop`; then `ended` says why."""
        try:
            self._take(self._first)
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(self._write_all())
                await self._read_all()
                writer.cancel()
            self.ended = self.ended or PeerUnavailable("the node ended the stream")
        except* (Refused, PeerUnavailable) as broken:
            causes = [e for e in leaves(broken) if isinstance(e, Refused | PeerUnavailable)]
            by_name = [e for e in causes if isinstance(e, Refused)]
            self.ended = self.ended or (by_name or causes)[0]
        finally:
            self._stream.cancel()

    def beat(self) -> None:
        """A heartbeat now: it takes over what another stream was to be told."""
        self._beat = True
        self._wake.set()

    def stop(self, reason: str) -> None:
        """End the stream; `run` returns soon after."""
        self.ended = self.ended or PeerUnavailable(reason)
        self._stream.cancel()

    async def _read_all(self) -> None:
        while (frame := await self._stream.read()) is not None:
            self._take(frame)
            if self._session.inbox.full and not self.dropping:
                self.dropping = not await self._session.inbox.room(STALL_S)

    def _take(self, frame: chat_pb2.SessionResponse) -> None:
        self.heard_s = self._clock.monotonic()
        self._session.received(self.lane, frame, self.dropping)
        if frame.HasField("heartbeat") and self.heard_s - self._beaten_s >= _BEATS_APART_S:
            self.beat()
        if frame.HasField("go_away"):
            self.leave = frame.go_away
            self._chooser.poke()

    async def _write_all(self) -> None:
        outbox = self._session.outbox
        while True:
            now = self._clock.monotonic()
            beat_s = self._beaten_s + _OWN_BEAT_S
            if send := outbox.take(self.lane, now):
                self._chooser.written()  # the wait for its answer begins, even if this write blocks
                sends = chat_pb2.Sends(epoch=send.epoch, first_seq=send.first_seq, events=[e.raw for e in send.events])
                await self._stream.write(chat_pb2.SessionRequest(sends=sends))
            elif now >= beat_s or self._beat:
                self._beaten_s, self._beat = now, False
                await self._stream.write(chat_pb2.SessionRequest(heartbeat=self._heartbeat()))
            else:
                due = outbox.wake_at(self.lane, now)
                await self._sleep(min(beat_s, due if due is not None else beat_s) - now)

    def _heartbeat(self) -> chat_pb2.Heartbeat:
        session = self._session
        return chat_pb2.Heartbeat(
            region_time_ms=session.now_ms(),
            peers_live=session.peers_live,
            awaiting=wire.encode_vector(session.outbox.awaiting()),
        )

    async def _sleep(self, seconds: float) -> None:
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()


async def greet(
    peer: Peer, token: str, session: Session, timeout_s: float
) -> tuple[SessionStream, chat_pb2.SessionResponse]:
    """Open a stream and say hello; returns it with the node's first frame.

    Raises:
        Refused, PeerUnavailable (also after timeout_s).
    """
    stream = peer.session(token)
    greeted = False
    try:
        async with asyncio.timeout(timeout_s):
            await stream.write(chat_pb2.SessionRequest(hello=session.hello()))
            first = await stream.read()
        if first is None or not first.HasField("hello"):
            raise PeerUnavailable("the node said no hello")
        greeted = True
        return stream, first
    except TimeoutError as error:
        raise PeerUnavailable(f"no hello within {timeout_s} s") from error
    finally:
        if not greeted:
            stream.cancel()
