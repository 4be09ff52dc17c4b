"""Connections to a Redis: a raw link that never reconnects, and a few of them for commands side by side.

redis-py's clients retry and reconnect on their own, which runs an XADD twice and hides a restart (R3); its
raw connection does neither once `send_packed_command` is kept from a closed one. RESP2 is set here, for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
)

from evertalk.core.errors import LogError, LogFull, LoginRefused, LogUnavailable

RESP = 2
CONNECT_S = 2.0
COMMAND_S = 5.0
IDLE_LINKS = 4

Command = Sequence[str | bytes | int]


class LinkBroken(LogUnavailable):
    """A link broke with commands under way; `replies` are those that came before."""

    def __init__(self, sentence: str, replies: list[Any]) -> None:
        super().__init__(sentence)
        self.replies = replies


class Link:
    """One connection. Once broken or closed it stays so; a cancelled or late exchange breaks it."""

    def __init__(self, url: str) -> None:
        options: dict[str, Any] = dict(parse_url(url))
        make = options.pop("connection_class", Connection)
        # No timeouts of its own: every exchange has one deadline around it.
        options |= {"protocol": RESP, "socket_timeout": None, "driver_info": None}
        self._connection = make(**options, retry=Retry(NoBackoff(), 0))
        self._transport: asyncio.WriteTransport | None = None
        self._turn = asyncio.Lock()
        self.address = address_of(url)

    @classmethod
    async def open(cls, url: str, connect_s: float = CONNECT_S) -> Link:
        """A connected link.

        Raises:
            LogUnavailable: no connection, or the login was refused, within `connect_s` seconds.
        """
        link = cls(url)
        try:
            async with asyncio.timeout(connect_s):
                await link._connection.connect()
            # abort() also works where the peer no longer reads; disconnect() would wait for it.
            link._transport = link._connection._writer.transport
        except (RedisError, OSError, TimeoutError) as error:
            named = LoginRefused if isinstance(error, AuthenticationError) else LogUnavailable
            raise named(link._sentence(error)) from error
        finally:
            if link._transport is None:
                await link._connection.disconnect(nowait=True)
        return link

    @property
    def is_open(self) -> bool:
        """False once it was closed from this side."""
        return self._transport is not None

    async def is_idle(self) -> bool:
        """True if it can take a command: open, and the server has neither hung up nor spoken unasked."""
        alive = self._transport is not None and not self._transport.is_closing()
        return alive and not await self._connection.can_read()

    async def run(self, commands: Sequence[Command], deadline_s: float = COMMAND_S) -> list[Any]:
        """Send all commands at once and read a reply for each; error replies come as ResponseError in place.

        Raises:
            LinkBroken: with the replies that came; of the others nothing is known.
            LogUnavailable: it was closed already, nothing was sent.
        """
        replies: list[Any] = []
        async with self._turn:
            if not self.is_open:
                raise LogUnavailable(f"the connection to Redis at {self.address} is closed")
            try:
                async with asyncio.timeout(deadline_s):
                    await self.send(commands)
                    for _ in commands:
                        replies.append(await self.receive())  # noqa: PERF401 those before a break count
            except (RedisError, OSError, TimeoutError) as error:
                raise LinkBroken(self._sentence(error), replies) from error
            finally:
                if len(replies) < len(commands):
                    await self.close()
        return replies

    async def send(self, commands: Iterable[Command]) -> None:
        """Send without reading replies; for subscriptions."""
        packed = self._connection.pack_commands(commands)
        if not self._connection.is_connected:  # or redis-py would connect again, silently
            raise ConnectionResetError("closed")
        await self._connection.send_packed_command(packed, check_health=False)

    async def receive(self, timeout_s: float | None = None) -> Any:
        """The next reply, an error reply as ResponseError; None if `timeout_s` seconds pass without one."""
        try:
            return await self._connection.read_response(timeout=timeout_s, disconnect_on_error=False)
        except ResponseError as error:
            return error

    async def close(self) -> None:
        """Drop the connection and what it has not sent yet."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        await self._connection.disconnect(nowait=True)

    def _sentence(self, error: Exception) -> str:
        where = f"Redis at {self.address}"
        if isinstance(error, AuthenticationError):
            return f"{where} refuses the login: check user and password in its URL ({error})"
        if isinstance(error, BusyLoadingError):
            return f"{where} is still loading its data"
        if isinstance(error, TimeoutError):
            return f"{where} does not answer"
        return f"{where} cannot be reached: {error}"


class Links:
    """A few links to one Redis, opened as commands run side by side.

    Args:
        url: redis://user:password@host:port.
        prepare: commands that every new link runs first.
        connect_s: seconds a connect may take.
    """

    def __init__(self, url: str, prepare: Sequence[Command] = (), connect_s: float = CONNECT_S) -> None:
        self._url = url
        self._prepare = prepare
        self._connect_s = connect_s
        self._idle: list[Link] = []
        self._closed = False
        self.address = address_of(url)

    async def run(self, commands: Sequence[Command], again: bool = True) -> list[Any]:
        """Run a pipeline; `again`: once more if the link breaks, for commands that may run twice.

        Raises:
            LogUnavailable.
        """
        try:
            return await self._run(commands)
        except LinkBroken:
            if not again:
                raise
        return await self._run(commands)

    async def _run(self, commands: Sequence[Command]) -> list[Any]:
        link = await self._take()
        try:
            return await link.run(commands)
        except LinkBroken:
            await self._drop_idle()  # what broke one has most likely broken all
            raise
        finally:
            if link.is_open and len(self._idle) < IDLE_LINKS and not self._closed:
                self._idle.append(link)
            else:
                await link.close()

    async def _take(self) -> Link:
        if self._closed:
            raise LogUnavailable(f"the connection to Redis at {self.address} is closed")
        while self._idle:
            link = self._idle.pop()
            if await link.is_idle():
                return link
            await link.close()
        link = await Link.open(self._url, self._connect_s)
        if self._prepare:
            for reply in await link.run(self._prepare):
                if isinstance(reply, ResponseError):
                    await link.close()
                    raise refusal(reply, link.address)
        return link

    async def _drop_idle(self) -> None:
        while self._idle:
            await self._idle.pop().close()

    async def close(self) -> None:
        """Close every link; those in use when they are done."""
        self._closed = True
        await self._drop_idle()


def refusal(reply: ResponseError, address: str) -> LogError:
    """What an error reply to a write means: LogFull or LogUnavailable; nothing was written."""
    text = str(reply)
    if isinstance(reply, OutOfMemoryError):
        return LogFull(f"Redis at {address} is out of memory: trim, or raise maxmemory")
    if text.startswith("MISCONF"):
        return LogFull(f"Redis at {address} cannot write to its disk: {text}")
    return LogUnavailable(f"Redis at {address} refuses: {text}")


def address_of(url: str) -> str:
    """host:port of a URL, for sentences: without the password."""
    options: dict[str, Any] = dict(parse_url(url))
    return str(options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}")


def pairs(flat: Sequence[Any]) -> dict[bytes, Any]:
    """A RESP2 map, which comes as a flat list."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
