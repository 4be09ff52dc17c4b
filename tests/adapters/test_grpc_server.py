"""What grpc.aio makes of a stream that ends while its first frame is still on its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from evertalk.adapters.grpc_server import Server, WriteFrame
from evertalk.adapters.grpc_transport import GrpcTransport
from evertalk.cluster.ports import free_ports
from evertalk.core.errors import Code, Refused
from evertalk.v1 import chat_pb2


class Hasty:
    """Greets, and ends before the greeting is known to have gone out."""

    def __init__(self, refused: Refused | None, again: bool) -> None:
        self._refused = refused
        self._again = again

    def __getattr__(self, name: str) -> Any:
        return None  # no other method is called

    async def session(self, token: str, requests: AsyncIterator[Any], write: WriteFrame) -> None:
        await anext(requests)
        greeting = asyncio.ensure_future(write(chat_pb2.SessionResponse(hello=chat_pb2.HelloReply(node="hasty"))))
        await asyncio.sleep(0)  # it has begun
        await asyncio.sleep(0)
        greeting.cancel()
        await asyncio.gather(greeting, return_exceptions=True)
        if self._again:
            await write(chat_pb2.SessionResponse(gap=chat_pb2.Gap(refetch=True)))
        if self._refused is not None:
            raise self._refused


@pytest.mark.parametrize("again", [False, True], ids=["at once", "after another write"])
@pytest.mark.parametrize("refused", [Refused(Code.MALFORMED, "this is no frame"), None], ids=["by name", "quietly"])
async def test_a_stream_that_ends_amid_its_first_write_is_ended_for_the_client_too(
    refused: Refused | None, again: bool
) -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    server, transport = Server(address, Hasty(refused, again)), GrpcTransport()
    await server.start()
    peer = transport.peer(address)
    try:
        async with asyncio.timeout(20):
            stream = peer.session("")
            await stream.write(chat_pb2.SessionRequest(hello=chat_pb2.Hello()))
            first = await stream.read()
            assert first is not None
            assert first.hello.node == "hasty"
            if again:
                second = await stream.read()
                assert second is not None
                assert second.gap.refetch
            if refused is None:
                assert await stream.read() is None
            else:
                with pytest.raises(Refused) as heard:
                    await stream.read()
                assert heard.value.code is refused.code
    finally:
        await peer.close()
        await server.stop()
