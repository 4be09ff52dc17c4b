"""The gRPC server: one table of methods, refusals as statuses with a named code, health and reflection on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from evertalk.core import limits
from evertalk.core.errors import Code, Refused
from evertalk.v1 import accounts_pb2, chat_pb2, cluster_pb2

WriteFrame = Callable[[bytes | chat_pb2.SessionResponse], Awaitable[None]]

_FIRST_FRAME_S = 1.0
_SENTENCE_CHARS = 500  # metadata must stay small
CODE_KEY = "evertalk-code"
RETRY_KEY = "evertalk-retry-after-ms"

_STATUS = {
    Code.MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
    Code.TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    Code.STAMP_AHEAD: grpc.StatusCode.INVALID_ARGUMENT,
    Code.STAMP_TOO_OLD: grpc.StatusCode.INVALID_ARGUMENT,
    Code.UNKNOWN_CONVERSATION: grpc.StatusCode.NOT_FOUND,
    Code.UNKNOWN_ACCOUNT: grpc.StatusCode.NOT_FOUND,
    Code.NOT_A_MEMBER: grpc.StatusCode.PERMISSION_DENIED,
    Code.NOT_ALLOWED: grpc.StatusCode.PERMISSION_DENIED,
    Code.BAD_TOKEN: grpc.StatusCode.UNAUTHENTICATED,
    Code.BAD_PASSWORD: grpc.StatusCode.UNAUTHENTICATED,
    Code.HANDLE_TAKEN: grpc.StatusCode.ALREADY_EXISTS,
    Code.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.LOG_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.SLOW_READER: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Code.CATCHING_UP: grpc.StatusCode.UNAVAILABLE,
    Code.DRAINING: grpc.StatusCode.UNAVAILABLE,
    Code.NEW_ORIGIN: grpc.StatusCode.UNAVAILABLE,
    Code.NOT_YET: grpc.StatusCode.UNAVAILABLE,
    Code.UNKNOWN_OUTCOME: grpc.StatusCode.UNKNOWN,
}

#: service -> [(method, attribute of the service object, request class)]
UNARY: dict[str, list[tuple[str, str, Any]]] = {
    "evertalk.v1.ChatService": [
        ("History", "history", chat_pb2.HistoryRequest),
        ("ListConversations", "list_conversations", chat_pb2.ListConversationsRequest),
    ],
    "evertalk.v1.AccountService": [
        ("Register", "register", accounts_pb2.RegisterRequest),
        ("SignIn", "sign_in", accounts_pb2.SignInRequest),
        ("Refresh", "refresh", accounts_pb2.RefreshRequest),
        ("LookUp", "look_up", accounts_pb2.LookUpRequest),
    ],
    "evertalk.v1.ClusterService": [
        ("Status", "status", cluster_pb2.StatusRequest),
        ("Export", "export", cluster_pb2.ExportRequest),
        ("Digests", "digests", cluster_pb2.DigestsRequest),
    ],
}

# Clients ping when nothing was heard for 15 s (P6 needs dead links found), and nodes later than that: a heartbeat every
# 10 s says as much, and nobody waits for them to notice. Both sides must agree or pings end connections:
# https://github.com/grpc/grpc/blob/master/doc/keepalive.md
_OPTIONS = [
    ("grpc.max_receive_message_length", limits.MAX_GRPC_BYTES),
    ("grpc.max_send_message_length", limits.MAX_GRPC_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 3),
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a second owner
]

Context = grpc.aio.ServicerContext[Any, Any]


def _token(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str) and value.startswith("Bearer "):
            return value[len("Bearer ") :]
    return ""


async def _abort(context: Context, refused: Refused) -> None:
    trailer = [(CODE_KEY, str(int(refused.code)))]
    if refused.retry_after_ms:
        trailer.append((RETRY_KEY, str(refused.retry_after_ms)))
    status = _STATUS.get(refused.code, grpc.StatusCode.UNKNOWN)
    await context.abort(status, refused.sentence[:_SENTENCE_CHARS], tuple(trailer))


def _parsed(kind: Any, raw: bytes) -> Any:
    """Parsed here and not by gRPC, which would not say what is wrong."""
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise Refused(Code.MALFORMED, f"this does not parse as {kind.DESCRIPTOR.full_name}") from error


def _unary(call: Callable[[str, Any], Awaitable[Any]], kind: Any) -> Callable[[bytes, Context], Awaitable[Any]]:
    async def handle(raw: bytes, context: Context) -> Any:
        try:
            return await call(_token(context), _parsed(kind, raw))
        except Refused as refused:
            await _abort(context, refused)

    return handle


def _serialize(frame: Any) -> bytes:
    return frame if isinstance(frame, bytes) else frame.SerializeToString()


class HealthServer:
    """Answers grpc.health.v1 and reflection on host:port; what a replicator serves, and what a node builds on."""

    def __init__(self, listen: str) -> None:
        self._listen = listen
        self._server = grpc.aio.server(options=_OPTIONS)
        self._health = health.aio.HealthServicer()

    async def start(self, names: tuple[str, ...] = ()) -> None:
        """Listen, NOT_SERVING at first. `names`: services that reflection tells of besides health.

        Raises:
            OSError: the address cannot be had, e.g. the port is in use.
        """
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        await self.health(False)
        try:
            port = self._server.add_insecure_port(self._listen)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._listen}: the port is in use or not ours") from error
        if port == 0:
            raise OSError(f"cannot listen on {self._listen}: the port is in use or not ours")
        await self._server.start()

    async def health(self, serving: bool) -> None:
        """What grpc.health.v1 says of the whole server."""
        state = health_pb2.HealthCheckResponse
        await self._health.set("", state.SERVING if serving else state.NOT_SERVING)

    async def stop(self) -> None:
        """Close; calls still open are ended."""
        await self._server.stop(grace=0.5)


class Server(HealthServer):
    """Serves a service object (see `chatnode.service.Service`) on host:port."""

    def __init__(self, listen: str, service: Any) -> None:
        super().__init__(listen)
        for name, methods in UNARY.items():
            handlers: dict[str, Any] = {
                method: grpc.unary_unary_rpc_method_handler(
                    _unary(getattr(service, attribute), request), None, _serialize
                )
                for method, attribute, request in methods
            }
            if name == "evertalk.v1.ChatService":
                handlers["Session"] = grpc.stream_stream_rpc_method_handler(_session(service.session), None, _serialize)
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))

    async def start(self, names: tuple[str, ...] = tuple(UNARY)) -> None:
        """Listen; raises OSError as HealthServer does."""
        await super().start(names)


class _Out:
    """What is written to one stream.

    The first write opens it. Cancelled, it counts for grpc.aio as never made, so whatever ends the stream would open it
    a second time; Core refuses that, and the client would wait for the end forever.
    """

    __slots__ = ("_context", "_first", "_is_open")  # one for each of thousands of streams

    def __init__(self, context: Context) -> None:
        self._context = context
        self._first: asyncio.Task[None] | None = None  # while it is under way
        self._is_open = False

    async def write(self, frame: bytes | chat_pb2.SessionResponse) -> None:
        """One frame, after the one before."""
        if not self._is_open:
            is_first = self._first is None
            self._first = self._first or asyncio.get_running_loop().create_task(self._context.write(frame))
            await asyncio.shield(self._first)
            self._first, self._is_open = None, True
            if is_first:
                return
        await self._context.write(frame)

    async def opened(self) -> None:
        """Until the first write is over, however it ended."""
        if self._first is not None:
            await asyncio.gather(self._first, return_exceptions=True)


def _session(call: Callable[[str, AsyncIterator[Any], WriteFrame], Awaitable[None]]) -> Any:
    async def handle(requests: AsyncIterator[bytes], context: Context) -> None:
        begun = False
        out = _Out(context)

        async def frames() -> AsyncIterator[Any]:
            nonlocal begun
            async for one in requests:
                begun = True
                yield _parsed(chat_pb2.SessionRequest, one)

        try:
            try:
                await call(_token(context), frames(), out.write)
            finally:
                await out.opened()
        except Refused as refused:
            if not begun:
                await _first(requests)
            await _abort(context, refused)

    async def _first(requests: AsyncIterator[bytes]) -> None:
        """grpc.aio clients whose first write meets an ended stream hear INTERNAL, and not why it ended."""
        try:
            async with asyncio.timeout(_FIRST_FRAME_S):
                await anext(requests, None)
        except TimeoutError:
            return

    return handle
