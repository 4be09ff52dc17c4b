"""Transport over grpc.aio: one channel per address, bearer tokens, errors by name."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
from google.protobuf import message_factory

from evertalk.core import limits
from evertalk.core.errors import Code, PeerUnavailable, Refused
from evertalk.v1 import accounts_pb2, chat_pb2, cluster_pb2

CODE_KEY = "evertalk-code"
RETRY_KEY = "evertalk-retry-after-ms"
SESSION_METHOD = "/evertalk.v1.ChatService/Session"

#: A ping later than a heartbeat is due (10 s): whoever hears those need not ping, and each ping wakes the node.
#: Servers permit one every 5 s; pinging more often would be answered by "too many pings".
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),  # else channels of one address share a connection
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", limits.MAX_GRPC_BYTES),
    ("grpc.max_send_message_length", limits.MAX_GRPC_BYTES),
    # The SDK has its own backoff: a node that is back must not wait for the channel's.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # In spite of its name: how long connecting may take. A slow link or a busy node is not a dead one.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),  # nothing is sent twice behind the outbox's back
    ("grpc.enable_http_proxy", 0),
]


def _responses() -> dict[str, Any]:
    """Method, as in "evertalk.v1.ChatService/History", -> class of its response."""
    found: dict[str, Any] = {}
    for module in (accounts_pb2, chat_pb2, cluster_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                found[f"{service.full_name}/{method.name}"] = message_factory.GetMessageClass(method.output_type)
    return found


RESPONSES = _responses()


def error_of(error: grpc.aio.AioRpcError, address: str) -> Refused | PeerUnavailable:
    """What a node said by name, or PeerUnavailable if it was not a node of ours that spoke."""
    trailers = dict(error.trailing_metadata() or ())
    code = trailers.get(CODE_KEY)
    if not isinstance(code, str) or not code.isdecimal():
        return PeerUnavailable(f"{address} does not answer: {error.code().name}, {error.details()}")
    known = int(code) in Code.__members__.values()
    retry = trailers.get(RETRY_KEY, "0")
    retry_after_ms = int(retry) if isinstance(retry, str) and retry.isdecimal() else 0
    return Refused(Code(int(code)) if known else Code.UNSPECIFIED, error.details() or "refused", retry_after_ms)


def _metadata(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")] if token else []


class GrpcStream:
    """One live session."""

    def __init__(self, call: Any, address: str) -> None:
        self._call = call
        self._address = address

    async def write(self, frame: Any) -> None:
        """Send one frame; one writer at a time.

        Raises:
            Refused: ended by name. PeerUnavailable: the stream is broken.
        """
        try:
            await self._call.write(frame)
        except grpc.aio.AioRpcError as error:
            raise error_of(error, self._address) from error
        except asyncio.InvalidStateError as error:
            raise PeerUnavailable(f"the stream to {self._address} has ended") from error
        except asyncio.CancelledError:
            self._raise_if_stream_cancelled()
            raise

    async def read(self) -> Any | None:
        """The next frame; None when the node ended the stream.

        Raises:
            Refused: ended by name. PeerUnavailable: broken.
        """
        try:
            frame = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise error_of(error, self._address) from error
        except asyncio.CancelledError:
            self._raise_if_stream_cancelled()
            raise
        return None if frame is grpc.aio.EOF else frame

    def _raise_if_stream_cancelled(self) -> None:
        """grpc raises CancelledError for a call cancelled here; only a cancelled task may see that."""
        task = asyncio.current_task()
        if self._call.cancelled() and task is not None and not task.cancelling():
            raise PeerUnavailable(f"the stream to {self._address} was given up") from None

    def cancel(self) -> None:
        """End it; reads and writes raise PeerUnavailable."""
        self._call.cancel()


class GrpcPeer:
    """A share of the channel to one node."""

    def __init__(self, transport: GrpcTransport, address: str) -> None:
        self._transport = transport
        self._address = address
        self._channel: grpc.aio.Channel | None = None
        self._closed = False

    def _open(self) -> grpc.aio.Channel:
        if self._closed:
            raise PeerUnavailable(f"the connection to {self._address} is closed")
        if self._channel is None:
            self._channel = self._transport.acquire(self._address)
        return self._channel

    async def call(self, method: str, request: Any, timeout_s: float, token: str = "") -> Any:
        """A unary call, `method` as in "evertalk.v1.ChatService/History".

        Raises:
            Refused, PeerUnavailable (also on deadline).
        """
        stub = self._open().unary_unary(
            f"/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=RESPONSES[method].FromString,
        )
        try:
            return await stub(request, timeout=timeout_s, metadata=_metadata(token))
        except grpc.aio.AioRpcError as error:
            raise error_of(error, self._address) from error

    def session(self, token: str) -> GrpcStream:
        """A new live session."""
        stub = self._open().stream_stream(
            SESSION_METHOD,
            request_serializer=chat_pb2.SessionRequest.SerializeToString,
            response_deserializer=chat_pb2.SessionResponse.FromString,
        )
        return GrpcStream(stub(metadata=_metadata(token)), self._address)

    async def close(self) -> None:
        """Give the share back; the last one closes the channel."""
        if not self._closed and self._channel is not None:
            self._closed, self._channel = True, None
            await self._transport.release(self._address)
        self._closed = True


class GrpcTransport:
    """Channels by address, shared by all peers made here; one transport may serve many clients.

    Args:
        options: further channel options; they win.
    """

    def __init__(self, options: list[tuple[str, Any]] | None = None) -> None:
        self._options = list({**dict(_OPTIONS), **dict(options or [])}.items())  # of two alike gRPC takes the first
        self._channels: dict[str, tuple[grpc.aio.Channel, int]] = {}

    def peer(self, address: str) -> GrpcPeer:
        """A connection to `address`; it does no I/O before its first use."""
        return GrpcPeer(self, address)

    def acquire(self, address: str) -> grpc.aio.Channel:
        """For peers: the channel, opened by the first to ask."""
        channel, users = self._channels.get(address) or (grpc.aio.insecure_channel(address, options=self._options), 0)
        self._channels[address] = (channel, users + 1)
        return channel

    async def release(self, address: str) -> None:
        """For peers: the last to leave closes the channel."""
        channel, users = self._channels[address]
        if users > 1:
            self._channels[address] = (channel, users - 1)
            return
        del self._channels[address]
        await channel.close()
