"""The bare client against the real gRPC server: the same frames, the same names of errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from evertalk.adapters.grpc_server import Server, WriteFrame
from evertalk.cluster.ports import HOST, free_ports
from evertalk.core.errors import Code, PeerUnavailable, Refused
from evertalk.drill.bare import BareStream
from evertalk.v1 import chat_pb2

Answer = Callable[[AsyncIterator[chat_pb2.SessionRequest], WriteFrame], Awaitable[None]]
TOKEN = "t" * 700  # longer than a length of one byte says
HELLO = chat_pb2.Hello(session=b"12345678", fresh=True)


class Node:
    """What of a node a session sees."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.token = ""

    async def session(self, token: str, requests: AsyncIterator[chat_pb2.SessionRequest], write: WriteFrame) -> None:
        self.token = token
        await self._answer(requests, write)

    def __getattr__(self, name: str) -> None:
        """Calls that nobody makes here."""


@asynccontextmanager
async def calling(answer: Answer) -> AsyncIterator[tuple[Node, str]]:
    """A node that answers sessions so, and where it listens."""
    node, address = Node(answer), f"{HOST}:{free_ports(1)[0]}"
    server = Server(address, node)
    await server.start()
    try:
        yield node, address
    finally:
        await server.stop()


async def test_frames_go_both_ways_whatever_their_size() -> None:
    async def echo(requests: AsyncIterator[chat_pb2.SessionRequest], write: WriteFrame) -> None:
        async for frame in requests:
            size = frame.heartbeat.region_time_ms
            reply = chat_pb2.HelloReply(node="n" * size, account=frame.hello.session)
            await write(chat_pb2.SessionResponse(hello=reply))

    async with calling(echo) as (node, address):
        stream = await BareStream.open(address, TOKEN, HELLO)
        first = await stream.read()
        assert first is not None
        assert first.hello.account == HELLO.session
        for size in (1, 300_000, 5):
            await stream.write(chat_pb2.SessionRequest(heartbeat=chat_pb2.Heartbeat(region_time_ms=size)))
            frame = await stream.read()
            assert frame is not None
            assert len(frame.hello.node) == size
        assert node.token == TOKEN
        stream.cancel()


async def test_a_refusal_has_its_name_and_says_when_to_come_again() -> None:
    async def refuse(requests: AsyncIterator[chat_pb2.SessionRequest], write: WriteFrame) -> None:
        await anext(requests)
        raise Refused(Code.OVERLOADED, "too many at once", 1250)

    async with calling(refuse) as (_, address):
        stream = await BareStream.open(address, TOKEN, HELLO)
        with pytest.raises(Refused) as refused:
            await stream.read()
        assert (refused.value.code, refused.value.retry_after_ms) == (Code.OVERLOADED, 1250)
        stream.cancel()


async def test_a_stream_that_ends_in_order_and_a_node_that_dies_are_told_apart() -> None:
    async def leave(requests: AsyncIterator[chat_pb2.SessionRequest], write: WriteFrame) -> None:
        await anext(requests)

    async def stay(requests: AsyncIterator[chat_pb2.SessionRequest], write: WriteFrame) -> None:
        async for _ in requests:
            await write(chat_pb2.SessionResponse())

    async with calling(leave) as (_, address):
        stream = await BareStream.open(address, TOKEN, HELLO)
        assert await stream.read() is None
        stream.cancel()
    async with calling(stay) as (_, address):
        stream = await BareStream.open(address, TOKEN, HELLO)
        assert await stream.read() is not None
    with pytest.raises(PeerUnavailable):
        await stream.read()
    with pytest.raises(PeerUnavailable):
        await BareStream.open(address, TOKEN, HELLO)
