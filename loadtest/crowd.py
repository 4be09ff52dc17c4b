"""A client that only listens, of a crowd: straight on HTTP/2, or opening thousands of channels would be what is
measured. To the node it is like any other."""

from __future__ import annotations

from evertalk.drill.bare import BareStream
from evertalk.v1 import chat_pb2
from loadtest.bare import BareClient, Stream


class CrowdClient(BareClient):
    """One session on a connection of its own. It must not send: nothing here minds the node's window."""

    async def _open(self, hello: chat_pb2.Hello) -> Stream:
        return _Frames(await BareStream.open(self.plan.address, self.plan.token, hello))


class _Frames:
    """A `Stream` of bytes over one of messages; what goes out are heartbeats."""

    def __init__(self, stream: BareStream) -> None:
        self._stream = stream

    async def write(self, frame: bytes) -> None:
        await self._stream.write(chat_pb2.SessionRequest.FromString(frame))

    async def read(self) -> chat_pb2.SessionResponse | None:
        return await self._stream.read()

    def cancel(self) -> None:
        self._stream.cancel()
