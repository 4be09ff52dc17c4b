"""The proxy's control port: one JSON object per line in, one out. And the client that speaks it.

python -m evertalk.wan.control HOST:PORT '{"do": "stats"}'
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import fields
from typing import Any, cast

from evertalk.core.errors import EvertalkError
from evertalk.wan.lane import Quality
from evertalk.wan.proxy import Proxy, split

_MAX_LINE = 1024 * 1024
_QUALITY = frozenset(f.name for f in fields(Quality))
_SELECT = {"link": "link", "way": "way", "from": "source", "to": "sink"}


class WanError(EvertalkError):
    """The WAN proxy refused a command, or cannot be reached."""


def answer(proxy: Proxy, line: bytes) -> dict[str, Any]:
    """Do what a line asks: {"do": "set" | "heal" | "stats", "from", "to", "link", "way", a Quality}."""
    try:
        request = json.loads(line)
        if not isinstance(request, dict):
            raise ValueError("a request is a JSON object")
        verb = request.pop("do", None)
        select = {ours: request.pop(key, None) for key, ours in _SELECT.items()}
        changes = {key: request.pop(key) for key in _QUALITY & request.keys()}
        if request:
            raise ValueError(f"unknown: {', '.join(sorted(request))}")
        match verb:
            case "set":
                return {"ok": True, "changed": proxy.change(changes, **select)}
            case "heal":
                return {"ok": True, "changed": proxy.heal(select["source"], select["sink"])}
            case "stats":
                return {"ok": True, "links": proxy.stats()}
        raise ValueError(f'"do" must be set, heal or stats, not {verb!r}')
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors too
        return {"ok": False, "error": str(error)}


class ControlProtocol(asyncio.Protocol):
    """Answers each line at once, in order: what was set is in force when its answer comes."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        assert self._transport is not None
        for line in lines:
            self._transport.write(json.dumps(answer(self._proxy, line)).encode() + b"\n")
        if len(self._rest) > _MAX_LINE:
            self._transport.abort()


async def serve_control(proxy: Proxy, address: str) -> asyncio.Server:
    """Listen for commands on "host:port".

    Raises:
        OSError: it cannot.
    """
    host, port = split(address)
    return await asyncio.get_running_loop().create_server(lambda: ControlProtocol(proxy), host, port)


async def ask(address: str, request: Any, timeout_s: float = 5.0) -> dict[str, Any]:
    """Send one command to the proxy whose control port is "host:port"; its answer.

    Raises:
        WanError: refused, or no answer in time.
    """
    host, port = split(address)
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port, limit=16 * _MAX_LINE)
            try:
                writer.write(json.dumps(request).encode() + b"\n")
                line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        raise WanError(f"the WAN proxy at {address} does not answer: {error!r}") from error
    if not line:
        raise WanError(f"the WAN proxy at {address} closed the connection without an answer")
    found: dict[str, Any] = json.loads(line)
    if not found.get("ok"):
        raise WanError(f"the WAN proxy refused {request!r}: {found.get('error')}")
    return found


def main(arguments: list[str]) -> int:
    """One command from a shell (a container's health check, a drill): prints the answer; 1 if there is none."""
    address, request = arguments
    try:
        print(json.dumps(asyncio.run(ask(address, json.loads(request)))))
    except (WanError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
