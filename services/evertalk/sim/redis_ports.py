"""Log and Tail over a simulated Redis, with the failures of the real connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evertalk.core.errors import (
    LogError,
    LogOutcomeUnknown,
    LogUnavailable,
    OriginLost,
    ShardsMismatch,
    UnsafeRedis,
)
from evertalk.core.ids import origin_name
from evertalk.core.model import Stream
from evertalk.ports import Ids, Read
from evertalk.sim.network import Connection, Network
from evertalk.sim.process import Process
from evertalk.sim.redis import Pipeline, SimRedis

CONNECT_S = 2.0
COMMAND_S = 5.0
_BEHIND_S = 0.002  # how much later than the entries floors may be read


class Broken(LogUnavailable):
    """The link broke with commands under way: nothing is known of them."""


class Link:
    """One connection that never comes back. Use `open`."""

    def __init__(self, process: Process, redis: SimRedis, network: Network) -> None:
        self._process, self.redis = process, redis
        self.connection = Connection(network, process, redis)
        self.connection.client_ended = self._broke
        self._pending: asyncio.Future[Any] | None = None
        self._due = 0.0  # when what is pending is late
        self._watched_at = 0.0  # when it is looked at next; 0: never
        self.on_end: Callable[[], None] = lambda: None

    @classmethod
    async def open(cls, process: Process, redis: SimRedis, network: Network) -> Link:
        """A connected link.

        Raises:
            LogUnavailable: refused at once, or no answer within CONNECT_S.
        """
        process.step()
        link = cls(process, redis, network)
        if not redis.alive:
            link.connection.died(redis)
        try:
            await link._exchange(lambda answer: lambda: answer(None), CONNECT_S, connecting=True)
        except Broken as error:
            raise LogUnavailable(str(error)) from None
        return link

    @property
    def is_open(self) -> bool:
        return self.connection.open

    def _broke(self) -> None:
        if self._pending is not None and not self._pending.done():
            self._pending.set_exception(Broken(f"Redis in {self.redis.place} cannot be reached: connection lost"))
        self.on_end()

    async def _exchange(
        self,
        message: Callable[[Callable[[Any], None]], Callable[[], None]],
        deadline_s: float,
        connecting: bool = False,
    ) -> Any:
        """Send what `message` makes of a way to answer; the answer. Late or cancelled, it ends the link."""
        self._process.step()
        connection = self.connection
        if not (connection.open or connecting):
            raise LogUnavailable(f"the connection to Redis in {self.redis.place} is closed")
        loop = self._process.loop
        done: asyncio.Future[Any] = loop.create_future()
        self._pending = done

        def answer(reply: Any) -> None:
            connection.down.send(lambda: None if done.done() else done.set_result(reply))

        connection.up.send(message(answer))
        self._watch(loop.time() + deadline_s)
        answered = False
        try:
            reply = await done
            answered = True
        finally:
            if not answered:
                self.close()
        self._process.step()
        return reply

    def _watch(self, due: float) -> None:
        """Be late at `due`. Looks outlive what they were for: most answers come in time, and timers cost."""
        self._due = due
        if not 0 < self._watched_at <= due:
            self._watched_at = due
            self._process.loop.call_at(due, self._look, due)

    def _look(self, when: float) -> None:
        if self._watched_at != when:
            return  # an earlier look took over
        self._watched_at = 0.0
        pending = self._pending
        if pending is None or pending.done():
            return
        if self._due > self._process.loop.time():
            self._watch(self._due)
        else:
            pending.set_exception(Broken(f"Redis in {self.redis.place} does not answer"))

    async def ask(self, serve: Callable[[Callable[[Any], None]], None], deadline_s: float) -> Any:
        """Have `serve` called over there with a way to answer, now or later; returns the answer.

        Raises:
            Broken: nothing is known of it. LogUnavailable: it was closed already, nothing was sent.
        """
        return await self._exchange(lambda answer: lambda: serve(answer), deadline_s)

    async def run(self, commands: Sequence[Callable[[], Any]], deadline_s: float = COMMAND_S) -> list[Any]:
        """Run a pipeline; a LogError that a command raises or returns is its reply.

        Raises:
            Broken: nothing is known of any. LogUnavailable: it was closed already, nothing was sent.
        """
        replies: list[Any] = await self._exchange(lambda answer: Pipeline(commands, answer), deadline_s)
        return replies

    def close(self) -> None:
        if self.connection.open:
            self.connection.died(self._process)


class Station:
    """Where adapters are made: a process, a network, and the Redis they lead to.

    Args:
        writes: False for a peer, who only reads.
    """

    def __init__(self, process: Process, network: Network, redis: SimRedis, writes: bool = True) -> None:
        self.process, self.network, self.redis, self.writes = process, network, redis, writes

    async def link(self) -> Link:
        return await Link.open(self.process, self.redis, self.network)


class SimLog:
    """The Log port; see RedisLog."""

    def __init__(self, station: Station, region: str, shards: int, ids: Ids) -> None:
        self._station, self._region, self._shards, self._ids = station, region, shards, ids
        self._link: Link | None = None
        self._streams: list[Stream] = []

    async def claim(self) -> str:
        await self.close()
        link = await self._station.link()
        claimed = False
        try:
            redis = link.redis
            [safe] = await link.run([redis.check_safe])
            if isinstance(safe, LogError):
                raise safe
            fresh = origin_name(self._region, self._ids.ulid())
            [reply] = await link.run([lambda: redis.claim(self._region, self._shards, fresh)])
            outcome, value = reply
            if outcome == "shards":
                raise ShardsMismatch(
                    f"the cluster was created with {value} shards, this process is set to {self._shards}"
                )
            if outcome == "region":
                raise UnsafeRedis(f"this Redis belongs to region '{value}', not to '{self._region}'")
            origin: str = value
            self._streams = [Stream(origin, shard) for shard in range(self._shards)]
            self._link, claimed = link, True
            return origin
        finally:
            if not claimed:
                link.close()

    async def append(self, entries: Sequence[tuple[int, bytes]]) -> list[int | LogError]:
        link = self._link
        if link is None or not link.is_open:
            await self.close()
            raise LogUnavailable("the log is not claimed, or its Redis has closed the connection: claim again")
        redis, streams = link.redis, self._streams
        commands = [lambda s=shard, p=payload: redis.xadd(streams[s], p) for shard, payload in entries]
        try:
            results: list[int | LogError] = await link.run(commands)
        except Broken as broken:
            results = [LogOutcomeUnknown(f"{broken}; this entry may have been written")] * len(entries)
        if any(isinstance(result, OriginLost | LogOutcomeUnknown) for result in results):
            await self.close()
        return results

    async def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()


class _Blocked:
    """One XREAD at the server: answers when something comes, or time is up; floors are read behind the entries."""

    def __init__(
        self, redis: SimRedis, cursors: Mapping[Stream, int], wake: int, block_s: float, count: int,
        answer: Callable[[tuple[Read, int]], None], network: Network,
    ) -> None:  # fmt: skip
        self._redis, self._cursors, self._wake, self._count = redis, dict(cursors), wake, count
        self._answer, self._network = answer, network
        self._over = block_s <= 0
        redis.waiters[self.look] = None
        if not self._over:
            network.loop.at(network.loop.time() + block_s, self._time_up)
        self.look()

    def _time_up(self) -> None:
        self._over = True
        self.look()

    def look(self) -> None:
        """See whether there is an answer now."""
        redis = self._redis
        if self.look not in redis.waiters or redis.frozen:
            return  # killed meanwhile; or it stands still
        entries = redis.xread(self._cursors, self._count)
        woken = redis.data.wake != self._wake and redis.data.wake > 0
        if not (entries or woken or self._over):
            return
        del redis.waiters[self.look]
        read = Read(entries)
        wake = redis.data.wake
        loop = self._network.loop
        loop.at(loop.time() + self._network.rng.random() * _BEHIND_S, self._rest, read, wake)

    def _rest(self, read: Read, wake: int) -> None:
        data = self._redis.data
        read.floors = {s: data.floors[s] for s in self._cursors if s in data.floors}
        read.missing = {s for s in self._cursors if s not in data.streams}
        read.origins = dict(data.origins)
        self._answer((read, wake))


class SimTail:
    """The Tail port; see RedisTail."""

    def __init__(self, station: Station) -> None:
        self._station = station
        self._link: Link | None = None
        self._wake = 0

    async def read(self, cursors: Mapping[Stream, int], block_s: float, count: int = 100) -> Read:
        if self._link is None or not self._link.is_open:
            self._link = await self._station.link()
            self._wake = 0
        redis, network = self._station.redis, self._station.network
        wake = self._wake

        def serve(answer: Callable[[Any], None]) -> None:
            _Blocked(redis, cursors, wake, block_s, count, answer, network)

        read: Read
        read, self._wake = await self._link.ask(serve, max(block_s, 0.0) + COMMAND_S)
        return read

    async def close(self) -> None:
        if self._link is not None:
            self._link.close()
