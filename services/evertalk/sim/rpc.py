"""The Transport port and the server behind it over a simulated network: unary calls and live sessions."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from evertalk.adapters.grpc_server import UNARY
from evertalk.adapters.grpc_transport import RESPONSES
from evertalk.core.errors import PeerUnavailable, Refused
from evertalk.sim.loop import SimLoop
from evertalk.sim.network import Connection, Network
from evertalk.sim.process import Process
from evertalk.v1 import chat_pb2

#: Bytes of a stream under way and not taken yet, beyond which its writer waits (HTTP/2 flow control).
WINDOW = 64 * 1024

_METHODS = {
    f"{service}/{method}": (attribute, request)
    for service, methods in UNARY.items()
    for method, attribute, request in methods
}


class Switchboard:
    """Who listens where.

    Args:
        places: address -> region, also of those that do not listen now.
    """

    def __init__(self, network: Network, places: Mapping[str, str]) -> None:
        self.network = network
        self.places = dict(places)
        self._servers: dict[str, SimServer] = {}

    def listen(self, address: str, server: SimServer) -> None:
        self._servers[address] = server

    def at(self, address: str) -> SimServer | None:
        """Whoever listens there and lives."""
        server = self._servers.get(address)
        return server if server is not None and server.process.alive else None


class Cpu:
    """A processor that does one thing after the other, where a simulation is to show what that does to those who wait.

    Args:
        hello_s: what the first frame of a session costs, in seconds.
        frame_s: what any other one does.
    """

    def __init__(self, loop: SimLoop, hello_s: float, frame_s: float) -> None:
        self._loop, self._hello_s, self._frame_s = loop, hello_s, frame_s
        self._free_at = 0.0

    async def spend(self, first: bool) -> None:
        """Until it has come to this frame, and is through with it."""
        now = self._loop.time()
        self._free_at = max(self._free_at, now) + (self._hello_s if first else self._frame_s)
        await asyncio.sleep(self._free_at - now)


class SimServer:
    """Serves a service object as `grpc_server.Server` does; also the Health of its node.

    Args:
        cpu: what its node works with; None: nothing takes time.
    """

    def __init__(self, process: Process, network: Network, service: Any, cpu: Cpu | None = None) -> None:
        self.process, self._network, self._service, self._cpu = process, network, service, cpu
        self.serving = False

    async def health(self, serving: bool) -> None:
        self.serving = serving

    def unary(self, connection: Connection, method: str, token: str, raw: bytes, reply: Callable[[Any], None]) -> None:
        """A call has arrived; `reply` is called at the far end with bytes or Refused."""
        task = self.process.start(self._unary(connection, method, token, raw, reply))
        connection.server_ended = lambda: _cancel(task)

    async def _unary(
        self, connection: Connection, method: str, token: str, raw: bytes, reply: Callable[[Any], None]
    ) -> None:
        attribute, kind = _METHODS[method]
        self.process.step()
        answer: bytes | Refused
        try:
            answer = (await getattr(self._service, attribute)(token, kind.FromString(raw))).SerializeToString()
        except Refused as refused:
            answer = refused
        self.process.step()
        connection.down.send(lambda: reply(answer))

    def session(self, connection: Connection, token: str, stream: SimStream) -> None:
        """A stream has arrived."""
        task = self.process.start(self._session(connection, token, stream))
        connection.server_ended = lambda: _cancel(task)

    async def _session(self, connection: Connection, token: str, stream: SimStream) -> None:
        ended: Refused | None = None
        first = True

        async def write(frame: Any) -> None:
            nonlocal first
            if self._cpu is not None:
                await self._cpu.spend(first)
                first = False
            await stream.down.room()
            self.process.step()
            raw = frame if isinstance(frame, bytes) else frame.SerializeToString()
            stream.down.sent(len(raw))
            connection.down.send(lambda: stream.down.arrived(raw))

        async def requests() -> AsyncIterator[chat_pb2.SessionRequest]:
            while True:
                raw = await stream.up.take()
                if self._cpu is not None:
                    await self._cpu.spend(False)
                self.process.step()
                yield chat_pb2.SessionRequest.FromString(raw)

        try:
            await self._service.session(token, requests(), write)
        except Refused as refused:
            ended = refused
            self._network.counts[f"refused: {refused.code.name}"] += 1
        self.process.step()
        connection.down.send(lambda: stream.end(ended))


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


class _Flow:
    """One direction of a stream: what has arrived, and how much is under way."""

    def __init__(self) -> None:
        self._arrived: deque[bytes] = deque()
        self._unread = 0
        self._moved = asyncio.Event()
        self._broken = False
        self._over: BaseException | None = None

    async def room(self) -> None:
        """Until more may be sent, or it makes no difference."""
        while self._unread > WINDOW and not self._broken:
            await self._wait()

    def broken(self) -> None:
        """Whoever waits to write is let go; the reader, at the other end, hears of it another way."""
        self._broken = True
        self._moved.set()

    def sent(self, size: int) -> None:
        self._unread += size

    def arrived(self, raw: bytes) -> None:
        self._arrived.append(raw)
        self._moved.set()

    def finish(self, why: BaseException) -> None:
        """The reader is told, behind what has arrived."""
        if self._over is None:
            self._over = why
            self._moved.set()

    async def _wait(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    async def take(self) -> bytes:
        """The next frame; raises what ended it."""
        while not self._arrived:
            if self._over is not None:
                raise self._over
            await self._wait()
        raw = self._arrived.popleft()
        self._unread -= len(raw)
        self._moved.set()
        return raw


class _Ended(Exception):
    """The node ended the stream without a word."""


class SimStream:
    """The SessionStream port."""

    def __init__(self, process: Process, board: Switchboard, address: str, token: str) -> None:
        self.up, self.down = _Flow(), _Flow()
        self._process, self._address = process, address
        self._connection: Connection | None = None
        self._lost: PeerUnavailable | None = None
        self._ended: BaseException | None = None
        server = board.at(address)
        network, loop = board.network, process.loop
        path = (process.place, board.places[address])
        if server is None:
            if not network.is_cut(path) and not network.is_cut(path[::-1]):
                loop.call_later(2 * network.delay_s(path), self._lose, "connection refused")
            return
        self._connection = connection = Connection(network, process, server.process)
        connection.client_ended = lambda: self._lose("connection lost")
        connection.up.send(lambda: server.session(connection, token, self))

    def _lose(self, why: str) -> None:
        self.end(PeerUnavailable(f"the stream to {self._address} has ended: {why}"))

    def end(self, why: BaseException | None) -> None:
        """The node ended it, by name or not; or it broke."""
        self._ended = self._ended or why or _Ended()
        self.up.broken()
        self.down.finish(self._ended)

    async def write(self, frame: Any) -> None:
        self._process.step()
        await self.up.room()
        self._check()
        raw = frame.SerializeToString()
        self.up.sent(len(raw))
        if self._connection is not None:
            self._connection.up.send(lambda: self.up.arrived(raw))

    def _check(self) -> None:
        if isinstance(self._ended, _Ended):
            raise PeerUnavailable(f"the stream to {self._address} has ended")
        if self._ended is not None:
            raise self._ended

    async def read(self) -> Any | None:
        try:
            raw = await self.down.take()
        except _Ended:
            return None
        self._process.step()
        return chat_pb2.SessionResponse.FromString(raw)

    def cancel(self) -> None:
        self._lose("given up")
        if self._connection is not None and self._connection.open:
            self._connection.died(self._process)


class SimPeer:
    """The Peer port: a connection for each call, for a simulation need not save them."""

    def __init__(self, process: Process, board: Switchboard, address: str) -> None:
        self._process, self._board, self._address = process, board, address
        self._closed = False

    async def call(self, method: str, request: Any, timeout_s: float, token: str = "") -> Any:
        self._process.step()
        if self._closed:
            raise PeerUnavailable(f"the connection to {self._address} is closed")
        loop, network = self._process.loop, self._board.network
        done: asyncio.Future[bytes | Refused] = loop.create_future()

        def lose(why: str) -> None:
            if not done.done():
                done.set_exception(PeerUnavailable(f"{self._address} does not answer: {why}"))

        def reply(answer: bytes | Refused) -> None:
            if not done.done():
                done.set_result(answer)

        connection: Connection | None = None
        server = self._board.at(self._address)
        late = loop.call_later(timeout_s, lose, "deadline")
        if server is not None:
            connection = Connection(network, self._process, server.process)
            connection.client_ended = lambda: lose("connection lost")
            raw = request.SerializeToString()
            opened = connection
            connection.up.send(lambda: server.unary(opened, method, token, raw, reply))
        else:
            path = (self._process.place, self._board.places[self._address])
            if not network.is_cut(path) and not network.is_cut(path[::-1]):
                loop.call_later(2 * network.delay_s(path), lose, "connection refused")
        try:
            answer = await done
        finally:
            late.cancel()
            if connection is not None and connection.open:
                connection.died(self._process)
        self._process.step()
        if isinstance(answer, Refused):
            raise answer
        return RESPONSES[method].FromString(answer)

    def session(self, token: str) -> SimStream:
        return SimStream(self._process, self._board, self._address, token)

    async def close(self) -> None:
        self._closed = True


class SimTransport:
    """The Transport port of one process."""

    def __init__(self, process: Process, board: Switchboard) -> None:
        self._process, self._board = process, board

    def peer(self, address: str) -> SimPeer:
        return SimPeer(self._process, self._board, address)
