"""The SDK over real grpc.aio: errors by name, and moving on when a server dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from evertalk.adapters import wire
from evertalk.adapters.grpc_transport import CODE_KEY, RETRY_KEY, GrpcTransport
from evertalk.client import Client, Endpoint
from evertalk.cluster.ports import HOST, free_ports
from evertalk.core import limits
from evertalk.core.errors import Code, PeerUnavailable, Refused
from evertalk.core.ids import shard_of
from evertalk.core.model import Message
from evertalk.core.vector import Vector
from evertalk.v1 import chat_pb2, chat_pb2_grpc
from evertalk.wan.lane import Quality
from evertalk.wan.proxy import LinkConfig, Proxy

ALICE, ROOM = b"a" * 16, b"r" * 16


class Servicer(chat_pb2_grpc.ChatServiceServicer):
    """Accepts everything; unary calls are refused by name."""

    def __init__(self, region: str) -> None:
        self.region = region
        self.texts: list[str] = []
        self.authorization = ""

    async def Session(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        self.authorization = dict(context.invocation_metadata())["authorization"]
        async for frame in request_iterator:
            if frame.HasField("hello"):
                yield chat_pb2.SessionResponse(
                    hello=chat_pb2.HelloReply(
                        node=self.region, region=self.region, origin=f"{self.region}-1", shards=4,
                        region_time_ms=1_800_000_000_000, account=ALICE, marker=wire.encode_vector(Vector()),
                    )
                )  # fmt: skip
            for seq, raw in enumerate(frame.sends.events, frame.sends.first_seq):
                event = wire.decode_event(raw)
                assert isinstance(event.body, Message)
                self.texts.append(event.body.text)
                yield chat_pb2.SessionResponse(
                    acks=chat_pb2.Acks(
                        origin=f"{self.region}-1", seqs=[seq], shards=[shard_of(event.scope, 4)],
                        positions=[len(self.texts)],
                    )
                )  # fmt: skip

    async def History(self, request: Any, context: Any) -> Any:
        context.set_trailing_metadata(((CODE_KEY, str(int(Code.OVERLOADED))), (RETRY_KEY, "700")))
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too busy")

    async def ListConversations(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "said by something in between")


@asynccontextmanager
async def serving(region: str) -> AsyncIterator[tuple[Servicer, grpc.aio.Server, str]]:
    """A server on a free port."""
    server = grpc.aio.server()
    servicer = Servicer(region)
    chat_pb2_grpc.add_ChatServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield servicer, server, f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_a_killed_server_is_left_for_another_region() -> None:
    async with serving("seoul") as (seoul, server, here), serving("busan") as (busan, _, there):
        endpoints = [Endpoint("seoul", here), Endpoint("busan", there)]
        async with Client(endpoints, access_token="a token", receipts=False) as chat:
            await chat.send(ROOM, "one")
            assert chat.region == "seoul"
            await server.stop(None)
            await chat.send(ROOM, "two")
            assert chat.region == "busan"
            await chat.send(ROOM, "three")
    assert seoul.texts == ["one"]
    assert busan.texts == ["one", "two", "three"]
    assert busan.authorization == "Bearer a token"


async def test_refusals_have_names_and_everything_else_is_unavailable() -> None:
    async with serving("seoul") as (_, _, address):
        peer = GrpcTransport().peer(address)
        with pytest.raises(Refused) as refused:
            await peer.call("evertalk.v1.ChatService/History", chat_pb2.HistoryRequest(), 5)
        with pytest.raises(PeerUnavailable):
            await peer.call("evertalk.v1.ChatService/ListConversations", chat_pb2.ListConversationsRequest(), 5)
        await peer.close()
    assert (refused.value.code, refused.value.sentence, refused.value.retry_after_ms) == (
        Code.OVERLOADED, "too busy", 700,
    )  # fmt: skip


async def test_a_cancelled_stream_is_unavailable_not_a_cancelled_task() -> None:
    async with serving("seoul") as (_, _, address):
        peer = GrpcTransport().peer(address)
        stream = peer.session("t")
        await stream.write(chat_pb2.SessionRequest(hello=chat_pb2.Hello(session=b"s" * limits.SESSION_BYTES)))
        assert (await stream.read()).HasField("hello")  # type: ignore[union-attr]
        reading = asyncio.create_task(stream.read())
        await asyncio.sleep(0)
        stream.cancel()
        with pytest.raises(PeerUnavailable):
            await reading
        with pytest.raises(PeerUnavailable):
            await stream.write(chat_pb2.SessionRequest())
        await peer.close()


async def test_peers_of_one_address_share_a_channel_until_the_last_leaves() -> None:
    async with serving("seoul") as (_, _, address):
        transport = GrpcTransport()
        one, two = transport.peer(address), transport.peer(address)
        for peer in (one, two):
            with pytest.raises(Refused):
                await peer.call("evertalk.v1.ChatService/History", chat_pb2.HistoryRequest(), 5)
        await one.close()
        with pytest.raises(Refused):
            await two.call("evertalk.v1.ChatService/History", chat_pb2.HistoryRequest(), 5)
        await two.close()
        with pytest.raises(PeerUnavailable):
            await two.call("evertalk.v1.ChatService/History", chat_pb2.HistoryRequest(), 5)


async def test_nobody_at_the_address_is_unavailable() -> None:
    peer = GrpcTransport().peer("127.0.0.1:1")
    stream = peer.session("t")
    with pytest.raises(PeerUnavailable):
        await stream.read()
    await peer.close()


async def test_a_server_behind_a_slow_link_is_not_a_dead_one() -> None:
    (port,) = free_ports(1)
    async with serving("seoul") as (_, _, address):
        link = LinkConfig("slow", "busan", "seoul", f"{HOST}:{port}", address)
        async with Proxy([link], Quality(delay_ms=150)):
            peer = GrpcTransport().peer(f"{HOST}:{port}")
            try:
                with pytest.raises(Refused) as caught:  # it answered
                    await peer.call("evertalk.v1.ChatService/History", chat_pb2.HistoryRequest(), 10.0, "t")
            finally:
                await peer.close()
    assert caught.value.code is Code.OVERLOADED
