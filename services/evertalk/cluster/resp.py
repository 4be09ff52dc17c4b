"""Says one thing to a Redis on this machine and reads the answer; enough for drills, and no client library."""

from __future__ import annotations

import asyncio

from evertalk.cluster.verbs import ClusterError


async def ask(host: str, port: int, user: str, password: str, *words: str, timeout_s: float = 10.0) -> str:
    """The answer to a command, as text; lists are joined by blanks.

    Raises:
        ClusterError: Redis refuses it. OSError, TimeoutError: no answer.
    """
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(_encoded("AUTH", user, password) + _encoded(*words))
            await _read(reader)
            return await _read(reader)
        finally:
            writer.close()


def _encoded(*words: str) -> bytes:
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


async def _read(reader: asyncio.StreamReader) -> str:
    """RESP2: https://redis.io/docs/latest/develop/reference/protocol-spec/"""
    line = (await reader.readline()).rstrip(b"\r\n").decode(errors="replace")
    if not line:
        raise ConnectionResetError("Redis closed the connection")
    kind, rest = line[0], line[1:]
    match kind:
        case "-":
            raise ClusterError(f"Redis says: {rest}")
        case "$" if int(rest) >= 0:
            return (await reader.readexactly(int(rest) + 2))[:-2].decode(errors="replace")
        case "*" if int(rest) >= 0:
            return " ".join([await _read(reader) for _ in range(int(rest))])
        case "$" | "*":
            return ""
    return rest
