"""A region to test against: a real server on a free port, which can be killed, restarted, emptied and filled."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from evertalk.adapters import redis_keys as keys
from evertalk.adapters.clock import SystemIds
from evertalk.adapters.redis_board import RedisBoard, RedisBoardReader
from evertalk.adapters.redis_common import Link
from evertalk.adapters.redis_log import RedisLog
from evertalk.adapters.redis_pushed import PushedTail
from evertalk.adapters.redis_server import find_server, server_config
from evertalk.adapters.redis_tail import RedisTail
from evertalk.core.model import Stream
from evertalk.ports import Board, BoardReader, Log, Tail
from evertalk.sim import redis_boards
from tests.adapters.sim_world import SimWorld

REGION = "seoul"
SHARDS = 4
#: Long enough for a busy machine; what waits for it fails the test.
PATIENCE_S = 20.0


class Wire(Protocol):
    """A faulty connection between an adapter and its region."""

    def hold_replies(self) -> None:
        """From now on what is sent arrives, and nothing comes back."""
        ...

    async def replied(self) -> None:
        """Until a reply has been held back: what was sent has been done."""
        ...

    def cut(self) -> None:
        """Break every connection."""
        ...


class World(Protocol):
    """One region's Redis or its twin, and adapters to it; the contract suites know nothing else."""

    def log(self, region: str = REGION, shards: int = SHARDS, wire: Wire | None = None) -> Log: ...

    def tail(self, peer: bool = False, wire: Wire | None = None) -> Tail: ...

    def board(self, region: str = REGION, wire: Wire | None = None) -> Board: ...

    def reader(self, peer: bool = True, wire: Wire | None = None) -> BoardReader: ...

    def intruder(self) -> Board:
        """A board with the rights of a peer, who only reads."""
        ...

    async def wire(self) -> Wire: ...

    async def kill(self) -> None:
        """kill -9."""
        ...

    async def restart(self) -> None:
        """Kill, and start again on what is on the disk."""
        ...

    def freeze(self) -> None:
        """SIGSTOP, until it is killed."""
        ...

    async def empty(self) -> None:
        """Remove everything; the process goes on."""
        ...

    async def remove(self, stream: Stream) -> None: ...

    async def fill(self) -> None:
        """Leave no memory for anything more."""
        ...

    async def drain(self) -> None:
        """As much memory as before."""
        ...

    async def misconfigure(self, name: str, value: str) -> None: ...

    async def age_stores(self, seconds: float) -> None:
        """As if `seconds` had passed since every store entry was published."""
        ...

    async def forget_scripts(self) -> None: ...


class TcpWire:
    """A user-space proxy in front of the server."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._held = False
        self._most = -1
        self._replied = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self.cut()
        if self._server is not None:
            self._server.close()

    def hold_replies(self) -> None:
        self._held = True

    def pass_bytes(self, most: int) -> None:
        """Let no more than `most` bytes of replies through on each connection."""
        self._most = most

    async def replied(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self._replied.wait()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pump(reader, far_writer, holds=False))
            group.create_task(self._pump(far_reader, writer, holds=True))
        self._writers -= {writer, far_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, holds: bool) -> None:
        passed = 0
        try:
            while data := await reader.read(65536):
                passed += len(data)
                if holds and (self._held or 0 <= self._most < passed):
                    self._replied.set()
                else:
                    writer.write(data)
                    await writer.drain()
        except OSError:
            pass  # cut
        finally:
            writer.close()


def free_port() -> int:
    """A port that nobody listens on, below those that outgoing connections get: it stays free over a restart."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class RedisWorld:
    """A real server in its own directory."""

    def __init__(self, directory: Path, stack: AsyncExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._process: asyncio.subprocess.Process | None = None
        self.program, _ = find_server()
        self.port = free_port()
        self.pushed = False

    def url(self, user: str = "node", wire: Wire | None = None) -> str:
        port = wire.port if isinstance(wire, TcpWire) else self.port
        return f"redis://{user}:{user}-secret@127.0.0.1:{port}"

    async def start(self) -> None:
        config = self._directory / "server.conf"
        config.write_text(
            server_config(self._directory, self.port, "node-secret", "peer-secret", admin_password="admin-secret")
        )
        self._process = await asyncio.create_subprocess_exec(
            self.program, config, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        await self.said("Ready to accept connections")

    async def said(self, text: str) -> None:
        """Until the server has logged `text`."""
        assert self._process is not None
        assert self._process.stdout is not None
        told: list[str] = []
        async with asyncio.timeout(PATIENCE_S):
            while line := (await self._process.stdout.readline()).decode():
                told.append(line)
                if text in line:
                    return
        raise AssertionError(f"the server ended without saying {text!r}: {''.join(told)}")

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.communicate()

    async def restart(self) -> None:
        await self.kill()
        await self.start()

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    async def admin(self, *commands: tuple[str | bytes | int, ...]) -> list[Any]:
        """Replies to commands that no node may send."""
        link = await Link.open(self.url("admin"))
        try:
            replies = await link.run(commands)
        finally:
            await link.close()
        errors = [reply for reply in replies if isinstance(reply, Exception)]
        assert not errors, errors
        return replies

    async def empty(self) -> None:
        await self.admin(("FLUSHALL",))

    async def remove(self, stream: Stream) -> None:
        await self.admin(("DEL", keys.stream_key(stream)))

    async def fill(self) -> None:
        await self.admin(("CONFIG", "SET", "maxmemory", "1"))

    async def drain(self) -> None:
        await self.admin(("CONFIG", "SET", "maxmemory", "0"))

    async def misconfigure(self, name: str, value: str) -> None:
        await self.admin(("CONFIG", "SET", name, value))

    async def age_stores(self, seconds: float) -> None:
        [names] = await self.admin(("KEYS", keys.STORE + "*"))
        lives = await self.admin(*(("PTTL", name) for name in names))
        await self.admin(*(("PEXPIRE", n, int(left - seconds * 1000)) for n, left in zip(names, lives, strict=True)))

    async def forget_scripts(self) -> None:
        await self.admin(("SCRIPT", "FLUSH"))

    async def wire(self) -> TcpWire:
        wire = TcpWire(self.port)
        await wire.open()
        self._stack.push_async_callback(wire.close)
        return wire

    def log(self, region: str = REGION, shards: int = SHARDS, wire: Wire | None = None) -> RedisLog:
        log = RedisLog(self.url(wire=wire), region, shards, SystemIds())
        self._stack.push_async_callback(log.close)
        return log

    def tail(self, peer: bool = False, wire: Wire | None = None) -> RedisTail | PushedTail:
        url = self.url("peer" if peer else "node", wire)
        tail = PushedTail(url, mirrors=not peer) if self.pushed else RedisTail(url)
        self._stack.push_async_callback(tail.close)
        return tail

    def board(self, region: str = REGION, wire: Wire | None = None) -> RedisBoard:
        return self._kept(RedisBoard(self.url(wire=wire), region))

    def intruder(self) -> RedisBoard:
        return self._kept(RedisBoard(self.url("peer"), REGION))

    def _kept(self, board: RedisBoard) -> RedisBoard:
        self._stack.push_async_callback(board.close)
        return board

    def reader(self, peer: bool = True, wire: Wire | None = None) -> RedisBoardReader:
        # A short ping: a dead subscription is noticed at once.
        reader = RedisBoardReader(self.url("peer" if peer else "node", wire), ping_s=0.1)
        self._stack.push_async_callback(reader.close)
        return reader


@pytest.fixture
async def redis_world(tmp_path: Path) -> AsyncIterator[RedisWorld]:
    """A fresh server, killed at the end."""
    async with AsyncExitStack() as stack:
        world = RedisWorld(tmp_path, stack)
        stack.push_async_callback(world.kill)
        await world.start()
        yield world


@pytest.fixture
async def pushed_world(redis_world: RedisWorld) -> RedisWorld:
    """The same, read as nodes and other regions read it."""
    redis_world.pushed = True
    return redis_world


@pytest.fixture
async def sim_world(monkeypatch: pytest.MonkeyPatch) -> SimWorld:
    """A simulated one. A short ping: a dead subscription is noticed at once."""
    monkeypatch.setattr(redis_boards, "PING_S", 0.1)
    return SimWorld(REGION, SHARDS)


@pytest.fixture(params=["redis", "pushed", "sim"])
def world(request: pytest.FixtureRequest) -> World:
    """A region of every backend: the contract suites run against each."""
    found: World = request.getfixturevalue(f"{request.param}_world")
    return found


def streams_of(origin: str, mirror: bool = False, shards: Iterable[int] = range(SHARDS)) -> list[Stream]:
    """Streams of an origin."""
    return [Stream(origin, shard, mirror) for shard in shards]
