"""PushedTail: entries of logs and mirrors as Redis pushes them, and blocking reads for everything else."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from redis.exceptions import RedisError, ResponseError

from evertalk.adapters import redis_keys as keys
from evertalk.adapters.redis_common import COMMAND_S, CONNECT_S, Link
from evertalk.adapters.redis_tail import LOOK_S, PATIENT_S, RedisTail
from evertalk.core.errors import LogUnavailable
from evertalk.core.model import Stream
from evertalk.ports import RawEntry, Read

#: Who comes so soon after another waits for more to come: a batch costs little more than one entry.
GATHER_S = 0.003
_MOST = 100  # messages of one read
_UNPUSHED = 3


class PushedTail:
    """The Tail port over a region's Redis, own or a peer's. One task reads at a time.

    A blocking read is asked for again only when its answer has come: an entry that is appended meanwhile waits for
    that round trip, and each names every stream. APPEND and APPEND_MIRROR publish each entry too, behind its fsync as
    any reply, and a subscription brings it in one way's time. A push counts only where it follows the cursor;
    publishing promises nothing (https://redis.io/docs/latest/develop/pubsub/), so whatever does not fit, or was not
    pushed, is read as RedisTail reads it.

    Args:
        url, connect_s, answer_s: as for RedisTail. A user who may not subscribe only reads.
        mirrors: of mirrors, too: for nodes. Peers need those seldom, and their bytes would cross the WAN for nothing.
    """

    def __init__(
        self, url: str, connect_s: float = CONNECT_S, answer_s: float = COMMAND_S, mirrors: bool = False
    ) -> None:
        self._url = url
        self._channels = (keys.APPENDED, keys.MIRRORED) if mirrors else (keys.APPENDED,)
        self._connect_s = connect_s
        self._tail = RedisTail(url, connect_s, answer_s)
        self._link: Link | None = None
        self._refused = False
        self._look_s = 0.0  # when the next one is due
        self._reached: dict[Stream, int] = {}  # handed out up to here
        self._wanted: frozenset[Stream] = frozenset()  # what is read now
        self._streams: dict[bytes, Stream] = {}  # the same by key
        self._gathered_s = 0.0  # until then what comes is gathered
        self._unpushed = 0  # looks in a row that found what should have been pushed

    async def read(self, cursors: Mapping[Stream, int], block_s: float, count: int = 100) -> Read:
        if block_s < PATIENT_S or self._refused or not self._are_pushed(cursors):
            return await self._ask(cursors, block_s, count)
        last_s = time.monotonic() + block_s
        if self._link is None:
            await self._subscribe()
        if self._is_look_due(cursors):
            before, read = self._tail.seen, await self._look(cursors, count)
            if read.entries or self._tail.seen != before:
                return read
        try:
            pushed = await self._pushed(cursors, min(last_s, self._look_s))
        except (RedisError, OSError):
            await self._unsubscribe()
            return await self._ask(cursors, max(0.0, last_s - time.monotonic()), count)
        if not pushed:
            return await self._look(cursors, count)
        seen = self._tail.seen
        missing = {s for s in seen.missing if s in cursors} - {entry.stream for entry in pushed}
        return Read(pushed, missing=missing, origins=dict(seen.origins))

    # ------------------------------------------------------------ looking

    def _are_pushed(self, cursors: Mapping[Stream, int]) -> bool:
        return keys.MIRRORED in self._channels or not any(stream.mirror for stream in cursors)

    def _is_look_due(self, cursors: Mapping[Stream, int]) -> bool:
        if cursors.keys() != self._wanted:
            before, self._wanted = self._wanted, frozenset(cursors)
            self._streams = {keys.stream_key(stream).encode(): stream for stream in cursors}
            if self._wanted - before:
                self._look_s = 0.0  # what was pushed of it was passed over
        if time.monotonic() >= self._look_s:
            return True
        return any(cursor < self._reached.get(stream, 0) for stream, cursor in cursors.items())  # a mirror was emptied

    async def _look(self, cursors: Mapping[Stream, int], count: int) -> Read:
        page = self._tail.page(count)
        read = await self._ask(cursors, 0.0, count)
        self._reached = dict(cursors) | {entry.stream: entry.position for entry in read.entries}
        if max(Counter(entry.stream for entry in read.entries).values(), default=0) >= page:
            self._look_s = 0.0  # there may be more, and what was appended before the subscription is never pushed
            return read
        self._look_s = time.monotonic() + LOOK_S
        self._unpushed += bool(read.entries)
        if self._unpushed > _UNPUSHED:
            await self._unsubscribe()  # it is dead, and nobody told us
        return read

    async def _ask(self, cursors: Mapping[Stream, int], block_s: float, count: int) -> Read:
        try:
            return await self._tail.read(cursors, block_s, count)
        except LogUnavailable:
            await self._unsubscribe()  # what broke one has most likely broken both, and a subscription is never told
            raise

    # ------------------------------------------------------------ being pushed

    async def _subscribe(self) -> None:
        try:
            link = await Link.open(self._url, self._connect_s)
        except LogUnavailable:
            await self._tail.close()  # its connection has gone the same way
            raise
        replies = await link.run([("SUBSCRIBE", channel) for channel in self._channels])
        if any(isinstance(reply, ResponseError) for reply in replies):
            self._refused = True
            await link.close()
        else:
            self._link, self._unpushed = link, 0
        self._look_s = 0.0  # what was appended before was not pushed

    async def _unsubscribe(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def _pushed(self, cursors: Mapping[Stream, int], last_s: float) -> list[RawEntry]:
        """What follows the cursors of all that has been pushed; waits for the first until then."""
        found: list[RawEntry] = []
        for _ in range(_MOST):
            message = await self._next((self._gathered_s if found else last_s) - time.monotonic())
            if message is None:
                break
            key, _, rest = message.partition(b" ")
            stream = self._streams.get(key)
            if not key:
                self._look_s = 0.0  # origins have changed
            if stream is None:
                continue  # an origin that is not wanted
            id_, _, payload = rest.partition(b" ")
            position, reached = keys.position_of(id_), max(cursors[stream], self._reached.get(stream, 0))
            if position == reached + 1:
                found.append(RawEntry(stream, position, payload))
                self._reached[stream] = position
            elif position > reached:
                self._look_s = 0.0  # one did not come
        self._gathered_s = time.monotonic() + GATHER_S
        return found

    async def _next(self, wait_s: float) -> bytes | None:
        """The next message; None if none comes in so many seconds, or there is something to look for."""
        while self._link is not None and self._look_s:
            reply: Any = await self._link.receive(max(wait_s, 0.0))
            if isinstance(reply, ResponseError):
                raise reply
            if reply is None:
                return None
            if reply[0] == b"message":
                self._unpushed = 0
                return bytes(reply[2])
        return None

    async def close(self) -> None:
        await self._unsubscribe()
        await self._tail.close()
