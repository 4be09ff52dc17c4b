"""The least of a gRPC client: one live session on one connection, straight on HTTP/2 (RFC 9113), for crowds.

A channel of the gRPC library costs milliseconds of a core to open. Where one process plays thousands of clients, that
would be what a drill measures.
"""

from __future__ import annotations

import asyncio
import re
import struct
from collections import deque

from evertalk.adapters.grpc_transport import CODE_KEY, RETRY_KEY, SESSION_METHOD
from evertalk.core.errors import Code, PeerUnavailable, Refused
from evertalk.v1 import chat_pb2

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GO_AWAY, _WIDEN = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 0x1
_END_HEADERS = 0x4
_STREAM = 1
_WINDOW = 2**31 - 1  # no session of a drill comes near it, so no window is ever raised
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_POST, _HTTP = b"\x83", b"\x86"  # of the static table of HPACK
_FRAME = struct.Struct(">HBBBI")  # length (16 + 8 bits), type, flags, stream
_PREFIX = struct.Struct(">BI")  # of a gRPC message: compressed or not, length


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _FRAME.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def _text(value: str) -> bytes:
    """A string of HPACK, without Huffman: its length in seven bits and more, then its bytes."""
    raw, more = value.encode(), len(value) - 0x7F
    if more < 0:
        return bytes([len(raw)]) + raw
    size = bytearray([0x7F])
    while more >= 0x80:
        size.append(more & 0x7F | 0x80)
        more >>= 7
    return bytes([*size, more]) + raw


def _field(name: str, value: str) -> bytes:
    """A header that nobody need remember."""
    return b"\x00" + _text(name) + _text(value)


def _opening(address: str, token: str) -> bytes:
    """Everything before the first message. The table of size 0 makes the server spell its headers out."""
    settings = struct.pack(">HIHI", 1, 0, 4, _WINDOW)
    headers = _POST + _HTTP + b"".join(
        _field(name, value)
        for name, value in (
            (":path", SESSION_METHOD),
            (":authority", address),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("authorization", f"Bearer {token}"),
        )
    )  # fmt: skip
    return (
        _PREFACE
        + _frame(_SETTINGS, 0, 0, settings)
        + _frame(_WIDEN, 0, 0, struct.pack(">I", _WINDOW - 65_535))
        + _frame(_HEADERS, _END_HEADERS, _STREAM, headers)
    )


def _number(trailers: bytes, name: str) -> int:
    found = re.search(re.escape(name.encode()) + rb"[\x01-\x0a](\d+)", trailers)
    return int(found[1]) if found else 0


class BareStream:
    """A live session (`ports.SessionStream`, and `close`)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._messages: deque[chat_pb2.SessionResponse] = deque()
        self._rest = b""  # of a message that is not complete yet

    @classmethod
    async def open(cls, address: str, token: str, hello: chat_pb2.Hello) -> BareStream:
        """Connect and say hello.

        Raises:
            PeerUnavailable: nobody listens there.
        """
        host, _, port = address.rpartition(":")
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except OSError as error:
            raise PeerUnavailable(f"{address} does not answer: {error}") from error
        stream = cls(reader, writer)
        writer.write(_opening(address, token))
        await stream.write(chat_pb2.SessionRequest(hello=hello))
        return stream

    async def write(self, frame: chat_pb2.SessionRequest) -> None:
        """Send one frame, a small one: nobody minds the server's window.

        Raises:
            PeerUnavailable: the connection is broken.
        """
        raw = frame.SerializeToString()
        try:
            self._writer.write(_frame(_DATA, 0, _STREAM, _PREFIX.pack(0, len(raw)) + raw))
            await self._writer.drain()
        except OSError as error:
            raise PeerUnavailable(f"the stream is broken: {error}") from error

    async def read(self) -> chat_pb2.SessionResponse | None:
        """The next frame; None when the node ended the stream.

        Raises:
            Refused: ended by name. PeerUnavailable: broken.
        """
        while not self._messages:
            try:
                kind, flags, payload = await self._next()
            except (OSError, asyncio.IncompleteReadError) as error:
                raise PeerUnavailable(f"the stream is broken: {error}") from error
            if kind == _DATA:
                self._take(payload)
            elif kind == _HEADERS and flags & _END_STREAM:
                if not (code := _number(payload, CODE_KEY)):
                    return None
                known = Code(code) if code in Code.__members__.values() else Code.UNSPECIFIED
                raise Refused(known, "refused", _number(payload, RETRY_KEY))
            elif kind in (_RESET, _GO_AWAY):
                raise PeerUnavailable("the node ended the connection")
        return self._messages.popleft()

    def _take(self, data: bytes) -> None:
        self._rest += data
        while len(self._rest) >= _PREFIX.size:
            end = _PREFIX.size + _PREFIX.unpack_from(self._rest)[1]
            if len(self._rest) < end:
                return
            self._messages.append(chat_pb2.SessionResponse.FromString(self._rest[_PREFIX.size : end]))
            self._rest = self._rest[end:]

    async def _next(self) -> tuple[int, int, bytes]:
        """(type, flags, payload) of whatever concerns the stream; what keeps the connection going is answered here."""
        while True:
            high, low, kind, flags, _ = _FRAME.unpack(await self._reader.readexactly(_FRAME.size))
            payload = await self._reader.readexactly(high << 8 | low)
            if kind in (_SETTINGS, _PING):
                if not flags & _ACK:
                    self._writer.write(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
            else:
                return kind, flags, payload

    def cancel(self) -> None:
        """End it; reads and writes raise PeerUnavailable."""
        self._writer.close()
