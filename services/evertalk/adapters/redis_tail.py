"""RedisTail: blocking reads of logs and mirrors, with floors and origins read behind them (R6)."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from redis.exceptions import ResponseError

from evertalk.adapters import redis_keys as keys
from evertalk.adapters.redis_common import COMMAND_S, CONNECT_S, Command, Link, LinkBroken, pairs, refusal
from evertalk.core.model import Stream
from evertalk.ports import OriginInfo, RawEntry, Read

LOOK_S = 1.0
#: Whoever waits no longer than that is catching up, or wants to know all there is now.
PATIENT_S = 0.1


class RedisTail:
    """The Tail port over one region's Redis, own or a peer's. One task reads at a time.

    One blocking XREAD per call, no polling. Floors, missing streams and origins are read behind it once in LOOK_S,
    and wherever what comes does not just follow the cursors: between, older ones are told, which is safe, for an
    origin that was seen closed has nothing more. A reply that does not get through a narrow link in time is asked for
    again in smaller pieces.

    Args:
        url: redis://user:password@host:port; a read-only user will do.
        connect_s: seconds a connect may take.
        answer_s: seconds a reply may take beyond block_s.
    """

    def __init__(self, url: str, connect_s: float = CONNECT_S, answer_s: float = COMMAND_S) -> None:
        self._url = url
        self._connect_s = connect_s
        self._answer_s = answer_s
        self._link: Link | None = None
        self._wake = b"0-0"
        self._most = 0  # entries per stream that a narrow link lets through; 0: no limit known
        self._missing: frozenset[str] = frozenset()
        self._raw_origins: list[bytes] = []
        self._origins: dict[str, OriginInfo] = {}
        self.seen = Read()  # the last look: floors, missing and origins
        self._look_s = 0.0  # when the next one is due

    async def read(self, cursors: Mapping[Stream, int], block_s: float, count: int = 100) -> Read:
        streams = {keys.stream_key(stream): stream for stream in cursors}
        count = self.page(count)
        due = block_s < PATIENT_S or time.monotonic() >= self._look_s
        commands = [_xread(cursors, self._wake, block_s, count), *(self._look(streams) if due else ())]
        try:
            entries, *looked = await self._run(commands, block_s)
        except LinkBroken:
            self._most = max(1, count // 2)
            raise
        self._most = self._most and self._most + 1
        read, woken = Read(), self._wake
        self._take_entries(read, entries, streams)
        if not looked and (self._wake != woken or not _follows(read, cursors)):
            looked = await self._run(self._look(streams))
        if looked:
            await self._take_look(streams, looked)
        read.floors = self.seen.floors if looked else {}
        read.missing = {s for s in self.seen.missing if s in cursors} - {entry.stream for entry in read.entries}
        read.origins = dict(self.seen.origins)
        return read

    def _look(self, streams: Mapping[str, Stream]) -> list[Command]:
        floors: list[Command] = [("HMGET", keys.FLOOR, *streams)] if streams else []
        return [*floors, *self._existence(streams), ("HGETALL", keys.ORIGINS)]

    async def _take_look(self, streams: Mapping[str, Stream], replies: list[Any]) -> None:
        seen = Read(origins=self._parse_origins(replies[-1]))
        if streams:
            seen.floors = {s: int(f) for s, f in zip(streams.values(), replies[0], strict=True) if f is not None}
            seen.missing = await self._missing_of(streams, replies[1:-1])
        self.seen, self._look_s = seen, time.monotonic() + LOOK_S

    def page(self, count: int) -> int:
        """Entries per stream that the next read brings at most, if it is asked for `count`."""
        return min(count, self._most or count)

    async def _run(self, commands: list[Command], block_s: float = 0.0) -> list[Any]:
        if self._link is None or not self._link.is_open:
            self._link = await Link.open(self._url, self._connect_s)
            self._wake = b"0-0"  # an emptied Redis starts over; and whoever reconnects wants the origins at once
        replies = await self._link.run(commands, max(block_s, 0.0) + self._answer_s)
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise refusal(reply, self._link.address)
        return replies

    def _take_entries(self, read: Read, reply: Any, streams: Mapping[str, Stream]) -> None:
        for key, found in reply or ():
            stream = streams.get(key.decode())
            if stream is None:
                self._wake = found[-1][0]
            else:
                read.entries += [RawEntry(stream, keys.position_of(id), fields[1]) for id, fields in found]

    def _parse_origins(self, raw: list[bytes]) -> dict[str, OriginInfo]:
        if raw != self._raw_origins:
            self._origins = parse_origins(raw)
            self._raw_origins = raw
        return dict(self._origins)

    def _existence(self, streams: Mapping[str, Stream]) -> list[Command]:
        """EXISTS counts: one for what was there last time, one for what was not, instead of one for each."""
        absent = [key for key in streams if key in self._missing]
        present = [key for key in streams if key not in self._missing]
        return [("EXISTS", *group) for group in (present, absent) if group]

    async def _missing_of(self, streams: Mapping[str, Stream], counts: list[int]) -> set[Stream]:
        absent = [key for key in streams if key in self._missing]
        present = len(streams) - len(absent)
        if counts != [n for n, group in ((present, present), (0, len(absent))) if group]:
            found = await self._run([("EXISTS", key) for key in streams])
            absent = [key for key, there in zip(streams, found, strict=True) if not there]
        self._missing = frozenset(absent)
        return {streams[key] for key in absent}

    async def close(self) -> None:
        if self._link is not None:
            await self._link.close()


def _follows(read: Read, cursors: Mapping[Stream, int]) -> bool:
    """True if something came, and nothing that does not follow its cursor."""
    first: dict[Stream, int] = {}
    for entry in read.entries:
        first.setdefault(entry.stream, entry.position)
    return bool(first) and all(position == cursors[stream] + 1 for stream, position in first.items())


def _xread(cursors: Mapping[Stream, int], wake: bytes, block_s: float, count: int) -> Command:
    block = ("BLOCK", max(1, int(block_s * 1000))) if block_s > 0 else ()  # BLOCK 0 would be for ever
    names = (keys.stream_key(stream) for stream in cursors)
    ids = (keys.entry_id(position) for position in cursors.values())
    return ("XREAD", "COUNT", count, *block, "STREAMS", *names, keys.WAKE, *ids, wake)


def parse_origins(flat: list[bytes]) -> dict[str, OriginInfo]:
    """Origins by name from the reply to HGETALL."""
    origins: dict[str, OriginInfo] = {}
    for name, raw in pairs(flat).items():
        value = json.loads(raw)
        origin = name.decode()
        origins[origin] = OriginInfo(origin, value["region"], value["state"], tuple(value["last"]))
    return origins
