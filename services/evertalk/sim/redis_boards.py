"""Board and BoardReader over a simulated Redis, with the failures of the real connections."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

from evertalk.core.errors import LogError, LogUnavailable
from evertalk.core.ids import region_of
from evertalk.core.model import Stream
from evertalk.ports import MirrorBatch, OriginInfo, StoreEntry, StreamState, Watermark
from evertalk.sim.redis_ports import Broken, Link, Station

PING_S = 2.0


class SimBoardReader:
    """The BoardReader port; see RedisBoardReader."""

    def __init__(self, station: Station) -> None:
        self._station = station
        self._idle: list[Link] = []
        self._closed = False

    async def _run(self, command: Callable[[], Any], again: bool = True) -> Any:
        try:
            return await self._once(command)
        except Broken:
            if not again:
                raise
        return await self._once(command)

    async def _once(self, command: Callable[[], Any]) -> Any:
        link = self._idle.pop() if self._idle and self._idle[-1].is_open else await self._take()
        try:
            [reply] = await link.run([command])
        finally:
            if link.is_open and not self._closed:
                self._idle.append(link)
            else:
                link.close()
        if isinstance(reply, LogError):
            raise reply
        return reply

    async def _take(self) -> Link:
        if self._closed:
            raise LogUnavailable("this board is closed")
        while self._idle:
            link = self._idle.pop()
            if link.is_open:
                return link
        return await self._station.link()

    async def origins(self) -> dict[str, OriginInfo]:
        redis = self._station.redis
        found: dict[str, OriginInfo] = await self._run(lambda: dict(redis.data.origins))
        return found

    async def streams(self, wanted: Iterable[Stream]) -> dict[Stream, StreamState]:
        asked = list(wanted)
        if not asked:
            return {}
        found: dict[Stream, StreamState] = await self._run(lambda: self._station.redis.stream_states(asked))
        return found

    async def stores(self) -> list[StoreEntry]:
        found: list[StoreEntry] = await self._run(self._station.redis.store_entries)
        return found

    async def watermarks(self, relayed: bool = False) -> AsyncIterator[list[Watermark]]:
        link = await self._station.link()
        heard: deque[list[Watermark]] = deque()
        came = asyncio.Event()
        redis = self._station.redis

        def take(marks: list[Watermark]) -> None:
            heard.append(marks)
            came.set()

        def subscriber(is_relayed: bool, marks: list[Watermark]) -> None:
            if relayed == is_relayed:
                link.connection.down.send(lambda: take(marks))

        def leave() -> None:
            redis.subscribers.pop(subscriber, None)

        link.connection.server_ended = leave
        link.on_end = came.set
        try:
            await link.run([lambda: redis.subscribers.setdefault(subscriber)])
            yield []
            while True:
                await self._hear(came)
                if not heard and link.is_open:
                    await link.run([lambda: None], PING_S)
                while heard:
                    yield heard.popleft()
                if not link.is_open:
                    raise LogUnavailable(f"the subscription in {redis.place} broke")
        finally:
            leave()
            link.close()

    async def _hear(self, came: asyncio.Event) -> None:
        """Until something came, or it is time to see whether the link lives."""
        due = asyncio.get_running_loop().call_later(PING_S, came.set)
        try:
            await came.wait()
        finally:
            due.cancel()
        came.clear()

    async def close(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().close()


class SimBoard(SimBoardReader):
    """The Board port; see RedisBoard."""

    def __init__(self, station: Station, region: str) -> None:
        super().__init__(station)
        self._region = region

    async def _write(self, command: Callable[[], Any], again: bool = True) -> Any:
        def allowed() -> Any:
            if not self._station.writes:
                raise LogUnavailable("Redis refuses: NOPERM")
            return command()

        return await self._run(allowed, again)

    async def append_mirror(self, batches: Sequence[MirrorBatch], announce: Sequence[Watermark]) -> list[bool]:
        for batch in batches:
            end = batch.predecessor + len(batch.entries)
            if [position for position, _ in batch.entries] != list(range(batch.predecessor + 1, end + 1)):
                raise ValueError(f"entries of a mirror batch must follow {batch.predecessor} without a gap")
        if not batches:
            return []
        redis = self._station.redis
        pairs = list(zip(batches, announce, strict=True))
        found: list[bool] = await self._write(lambda: [redis.append_mirror(b, m) for b, m in pairs], again=False)
        return found

    async def jump_mirror(self, origin: str, shard: int, floor: int) -> int:
        last: int = await self._write(lambda: self._station.redis.jump_mirror(origin, shard, floor))
        return last

    async def trim(self, stream: Stream, position: int) -> None:
        await self._write(lambda: self._station.redis.trim(stream, position))

    async def publish_store(self, entry: StoreEntry) -> None:
        await self._write(lambda: self._station.redis.publish_store(entry))

    async def carry_origins(self, origins: Iterable[OriginInfo]) -> None:
        told = list(origins)
        await self._write(lambda: self._station.redis.carry_origins(self._region, told))

    async def fold(self, origin: str) -> None:
        await self._write(lambda: self._station.redis.fold(origin, region_of(origin)))

    async def forget_folded(self, origin: str) -> None:
        await self._write(lambda: self._station.redis.forget_folded(origin))

    async def announce(self, watermarks: Sequence[Watermark], relayed: bool) -> None:
        told = list(watermarks)
        if told:
            await self._write(lambda: self._station.redis.publish(told, relayed))

    async def rewrite_aof(self) -> None:
        def rewrite() -> None:
            self._station.redis.rewrites += 1

        await self._write(rewrite)

    async def memory(self) -> tuple[int, int]:
        redis = self._station.redis
        found: tuple[int, int] = await self._run(lambda: (redis.used(), redis.maxmemory))
        return found
