"""Relays TCP connections over links whose two directions can be delayed, narrowed, cut and black-holed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any, cast

from evertalk.wan.lane import Lane, Quality, State, Way, reset

_WRITE_BUFFER = 256 * 1024  # what a socket that does not take it may leave in its transport


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """`from_region` dials `listen` and reaches `target` ("host:port") in `to_region`.

    quality: what both directions are like at the start; None: as the proxy's others.
    """

    name: str
    from_region: str
    to_region: str
    listen: str
    target: str
    quality: Quality | None = None


class _Side(asyncio.Protocol):
    """One socket of a connection: what it says goes out on one lane, what it hears comes in on the other."""

    def __init__(self, pipe: _Pipe, out: Lane, into: Lane) -> None:
        self._pipe, self.out, self.into = pipe, out, into
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        self.out.source = self.into.sink = self.transport
        self._pipe.made(self)

    def data_received(self, data: bytes) -> None:
        self.out.push(data)

    def eof_received(self) -> bool:
        return self.out.end(reset=False)  # half-closed: answers may still come

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = self.out.source = self.into.sink = None
        self.into.close()
        self.out.end(reset=exc is not None)
        self._pipe.lost()

    def pause_writing(self) -> None:
        self.into.stall(True)

    def resume_writing(self) -> None:
        self.into.stall(False)


class _Pipe:
    """One connection over a link: the dialler's side, and ours to the target."""

    def __init__(self, link: _Link, dials: asyncio.TaskGroup, chance: random.Random) -> None:
        self._link, self._dials = link, dials
        self.there = Lane(link.there, chance, self._done)
        self.back = Lane(link.back, chance, self._done)
        self.near = _Side(self, out=self.there, into=self.back)
        self.far = _Side(self, out=self.back, into=self.there)
        self._dial: asyncio.Task[None] | None = None

    def made(self, side: _Side) -> None:
        """A socket is there: the dialler's comes first, then the target is dialled."""
        if side is self.far:
            self.there.pump()  # what waited for the connection
        elif self._link.cut:
            self.reset()
        else:
            self._link.pipes.add(self)
            if self._link.there.quality.state is State.BLACK_HOLE:
                self.there.lossy = True  # the target never hears of it
            else:
                self._dial = self._dials.create_task(self._connect())

    def lost(self) -> None:
        """A socket is gone."""
        for side, other in ((self.near, self.far), (self.far, self.near)):
            if side.transport is not None and other.transport is None and side.out.ended and side.into.lossy:
                side.transport.close()  # both ends are gone, and the black hole keeps that from each other
        if self.near.transport is None and self._dial is not None and not self._dial.done():
            self._dial.cancel()
        if self.near.transport is None and self.far.transport is None:
            self._link.pipes.discard(self)

    def _done(self) -> None:
        """One direction has ended in order; a connection may live on half-closed until both have."""
        if self.there.done and self.back.done:
            for side in (self.near, self.far):
                if side.transport is not None:
                    side.transport.close()

    def reset(self) -> None:
        """Break both sides at once."""
        if self._dial is not None:
            self._dial.cancel()
        for lane in (self.there, self.back):
            lane.close()
        for side in (self.near, self.far):
            if side.transport is not None:
                reset(side.transport)

    async def _connect(self) -> None:
        host, port = split(self._link.config.target)
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.far, host, port)
        except OSError:  # nobody there: the dialler is told at once
            self.reset()


class _Link:
    """A listening port, its two ways and its connections."""

    def __init__(self, config: LinkConfig, quality: Quality) -> None:
        self.config = config
        self.first = quality = config.quality or quality
        self.there = Way(config.from_region, config.to_region, replace(quality))
        self.back = Way(config.to_region, config.from_region, replace(quality))
        self.pipes: set[_Pipe] = set()

    @property
    def cut(self) -> bool:
        return State.CUT in (self.there.quality.state, self.back.quality.state)

    def changed(self) -> None:
        """Let the connections feel a change."""
        for pipe in list(self.pipes):
            lanes = (pipe.there, pipe.back)
            healed = any(lane.lossy and lane.way.quality.state is State.OPEN for lane in lanes)
            if self.cut or healed:
                pipe.reset()
            else:
                for lane in lanes:
                    lane.retime()

    def stats(self) -> dict[str, Any]:
        """Bytes and state of both directions, as plain data."""
        ways = {}
        for name, way in (("there", self.there), ("back", self.back)):
            quality = way.quality
            ways[name] = {
                "from": way.source,
                "to": way.sink,
                "bytes": way.delivered,
                "swallowed": way.swallowed,
                "pending": sum(getattr(pipe, name).pending for pipe in self.pipes),
                "delay_ms": quality.delay_ms,
                "jitter_ms": quality.jitter_ms,
                "bytes_per_s": quality.bytes_per_s,
                "state": quality.state.value,
            }
        return {"name": self.config.name, "connections": len(self.pipes), **ways}


@dataclass(slots=True)
class Proxy:
    """Relays while entered.

    Args:
        links: any number; names and listening addresses are unique.
        quality: what every direction is like at the start, and again after `heal`.
        seed: of the jitter.

    Raises (on entering):
        OSError: a port cannot be listened on; the message names the link.
    """

    links: Sequence[LinkConfig]
    quality: Quality = field(default_factory=Quality)
    seed: int = 0
    _links: dict[str, _Link] = field(init=False, default_factory=dict)
    _stack: AsyncExitStack = field(init=False, default_factory=AsyncExitStack)

    def __post_init__(self) -> None:
        self._links = {config.name: _Link(config, self.quality) for config in self.links}

    async def __aenter__(self) -> Proxy:
        try:
            dials = await self._stack.enter_async_context(asyncio.TaskGroup())
            self._stack.callback(self._reset_all)
            chance = random.Random(self.seed)
            for link in self._links.values():
                server = await _listen(link, dials, chance)
                self._stack.callback(server.close)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()  # not told of exc: the task group would wrap it

    def change(
        self,
        changes: dict[str, Any],
        *,
        link: str | None = None,
        way: str | None = None,
        source: str | None = None,
        sink: str | None = None,
    ) -> int:
        """Set fields of Quality on the directions of a link, or on all from one region to another.

        A cut between regions is a matter of who dials: `source` no longer reaches `sink`, while connections
        that `sink` dialled live on, answers included. Everything else is a matter of where bytes flow.

        Args:
            changes: fields of Quality.
            link: a link's name, or None for all; way: "there", "back" or None for both.
            source, sink: regions, or None for any.

        Returns: how many directions changed.

        Raises:
            ValueError: an unknown field or value, or nothing matches.
        """
        unknown = changes.keys() - Quality.__slots__
        if unknown:
            raise ValueError(f"unknown setting {', '.join(sorted(unknown))}: there are {Quality.__slots__}")
        found = list(self._select(link, way, source, sink))
        if changes.get("state") == State.CUT and link is None:
            found = [(each, name) for each, name in found if name == "there"]
        return _put([(each, name, replace(getattr(each, name).quality, **changes)) for each, name in found])

    def heal(self, source: str | None = None, sink: str | None = None) -> int:
        """Everything as it was at the start, on the directions from `source` to `sink` (None = any)."""
        found = self._select(None, None, source, sink)
        return _put([(each, name, replace(each.first)) for each, name in found])

    def stats(self) -> list[dict[str, Any]]:
        """Per link: its connections and, for "there" and "back", bytes and settings."""
        return [link.stats() for link in self._links.values()]

    def _select(
        self, link: str | None, way: str | None, source: str | None, sink: str | None
    ) -> Iterable[tuple[_Link, str]]:
        if way not in (None, "there", "back"):
            raise ValueError(f"way must be there or back, not {way!r}")
        for each in self._links.values():
            for name in ("there", "back"):
                found: Way = getattr(each, name)
                if (
                    link in (None, each.config.name)
                    and way in (None, name)
                    and source in (None, found.source)
                    and sink in (None, found.sink)
                ):
                    yield each, name

    def _reset_all(self) -> None:
        for link in self._links.values():
            for pipe in list(link.pipes):
                pipe.reset()


def _put(wanted: Sequence[tuple[_Link, str, Quality]]) -> int:
    """Give directions of links a quality, then let the connections feel it; returns how many."""
    if not wanted:
        raise ValueError("no link matches; see stats for the links there are")
    for link, name, quality in wanted:
        way: Way = getattr(link, name)
        way.quality, way.free_at = quality, 0.0
    for link in {id(link): link for link, _, _ in wanted}.values():
        link.changed()
    return len(wanted)


async def _listen(link: _Link, dials: asyncio.TaskGroup, chance: random.Random) -> asyncio.Server:
    host, port = split(link.config.listen)
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_server(lambda: _Pipe(link, dials, chance).near, host, port, backlog=512)
    except OSError as error:
        raise OSError(
            error.errno, f"link {link.config.name} cannot listen on {link.config.listen}: {error.strerror}"
        ) from error


def split(address: str) -> tuple[str, int]:
    """("host", port) of "host:port".

    Raises:
        ValueError: it is not one.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise ValueError(f"{address!r} is not host:port")
    return host.strip("[]"), int(port)
