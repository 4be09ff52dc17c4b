"""Group commit: while one pipeline is in flight the next batch gathers; one log entry per shard and batch."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from evertalk.adapters.wire import encode_batch
from evertalk.chatnode.node import Node
from evertalk.core import limits
from evertalk.core.errors import (
    Code,
    LogError,
    LogFull,
    LoginRefused,
    LogUnavailable,
    OriginLost,
    Refused,
    ShardsMismatch,
    UnsafeRedis,
)
from evertalk.core.model import Record
from evertalk.ports import Log

#: Own events appended and not read by the tail, beyond which commits wait: else acknowledgements outrun deliveries.
_LAG_EVENTS = 256
_CLAIM_RETRY_S = 0.2
_RECHECK_S = 0.5


def _always(_: Pending) -> bool:
    return True


@dataclass(slots=True)
class Pending:
    """One event on its way into the log.

    `done` is called once, with this and a position, or with what happened instead; `wanted` is asked before the
    append, so that what a refusal has cut off is not written. `epoch` and `seq` are for them.
    """

    record: Record
    shard: int
    done: Callable[[Pending, int | LogError], None]
    wanted: Callable[[Pending], bool] = _always
    epoch: int = 0
    seq: int = 0


class Batcher:
    """Owns the log connection: claims the origin, appends, and says when the origin is another one."""

    #: (origin, shard) -> position up to which the tail has read; set by the composition root.
    read_to: Callable[[str, int], float]
    #: Until this store has what its reachable peers had: who was without a log may have missed much (P9, R8).
    catch_up: Callable[[], Awaitable[None]]

    def __init__(self, node: Node, log: Log, on_lost: Callable[[Refused], None]) -> None:
        self._node = node
        self._log = log
        self._on_lost = on_lost
        self._queue: deque[Pending] = deque()
        self._wake = asyncio.Event()
        self._in_flight = False
        self._idle = asyncio.Event()
        self._suspected = False
        self._claimed_once = False
        #: By shard: (position, events) that the tail has yet to read.
        self._unread: dict[int, deque[tuple[int, int]]] = {}

    def submit(self, pending: Pending) -> None:
        """Queue an event for the next batch.

        Raises:
            Refused: OVERLOADED when the queue is full, CATCHING_UP while no log is claimed.
        """
        if not self._node.origin:
            raise Refused(Code.CATCHING_UP, "this node has no log right now: use another node", 200)
        if len(self._queue) >= limits.NODE_QUEUE_EVENTS:
            raise Refused(Code.OVERLOADED, "this node has more sends than it can write: slow down", 500)
        self._queue.append(pending)
        self._wake.set()

    async def finish(self) -> None:
        """Until nothing is queued and nothing in flight."""
        while self._queue or self._in_flight:
            self._idle.clear()
            await self._idle.wait()

    async def claim(self) -> None:
        """Claim until it succeeds; a Redis that is unsafe or of another cluster ends the node.

        Raises:
            UnsafeRedis, ShardsMismatch; LoginRefused at the first claim.
        """
        first = not self._claimed_once
        complained = False
        while True:
            try:
                origin = await self._log.claim()
            except (LogUnavailable, LogFull) as error:
                if isinstance(error, LoginRefused) and first:
                    raise  # a wrong setting, not a Redis that is away
                if not complained:
                    self._node.log.warning("log unavailable", reason=str(error))
                    complained = True
                await asyncio.sleep(_CLAIM_RETRY_S * (0.5 + self._node.ids.random()))
                continue
            self._node.origin, self._claimed_once = origin, True
            self._node.log.info("claimed", origin=origin)
            return

    async def run(self) -> None:
        """Commit batches until cancelled."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._suspected:
                    await self._recheck()
                while self._queue:
                    await self._push_back()
                    await self._commit()
                self._idle.set()
        finally:
            await self._log.close()

    def suspect(self) -> None:
        """Somebody saw the log gone or another origin open: look before the next send does."""
        self._suspected = True
        self._wake.set()

    async def _recheck(self) -> None:
        self._suspected = False
        if not self._node.origin:
            return
        try:
            async with asyncio.timeout(_RECHECK_S):
                origin = await self._log.claim()
        except (LogUnavailable, LogFull, TimeoutError) as error:
            await self._reclaim(LogUnavailable(str(error) or "no answer"))
            return
        if origin != self._node.origin:
            await self._reclaim(OriginLost(f"{self._node.origin} is closed, {origin} is open"))

    async def _push_back(self) -> None:
        """Let apply keep up with commit, but never wait for a parent (R11 must not hold back commits)."""
        node = self._node
        try:
            async with asyncio.timeout(limits.NEED_WAIT_S):
                while self._lag() > _LAG_EVENTS:
                    await node.progress.wait()
        except TimeoutError:
            pass

    def _lag(self) -> int:
        """Own events that the tail has yet to read."""
        origin, lag = self._node.origin, 0
        for shard, entries in self._unread.items():
            read_to = self.read_to(origin, shard)
            while entries and entries[0][0] <= read_to:
                entries.popleft()
            lag += sum(events for _, events in entries)
        return lag

    def _gather(self) -> dict[int, list[Pending]]:
        batches: dict[int, list[Pending]] = {}
        sizes: dict[int, int] = {}
        while self._queue:
            pending = self._queue[0]
            size = sizes.get(pending.shard, 0) + len(pending.record.event.raw) + 16
            if size > limits.MAX_ENTRY_BYTES and pending.shard in batches:
                break
            self._queue.popleft()
            if pending.wanted(pending):
                sizes[pending.shard] = size
                batches.setdefault(pending.shard, []).append(pending)
        return batches

    async def _commit(self) -> None:
        batches = self._gather()
        if not batches:
            return
        entries = [(shard, encode_batch(p.record for p in batch)) for shard, batch in batches.items()]
        self._in_flight = True
        try:
            outcomes = await self._log.append(entries)
        except LogUnavailable as error:
            outcomes = [error] * len(entries)
        finally:
            self._in_flight = False
        lost: LogError | None = None
        for (shard, batch), outcome in zip(batches.items(), outcomes, strict=True):
            if isinstance(outcome, int):
                self._node.counters.accepted += len(batch)
                self._unread.setdefault(shard, deque()).append((outcome, len(batch)))
            elif not isinstance(outcome, LogFull):
                lost = outcome
            for pending in batch:
                pending.done(pending, outcome)
        if lost is not None:
            await self._reclaim(lost)

    async def _reclaim(self, lost: LogError) -> None:
        """The connection or the origin is gone: drop the queue, cut the streams, claim again (R3)."""
        self._node.origin = ""
        self._node.log.warning("log lost", reason=str(lost))
        dropped, self._queue = self._queue, deque()
        gone = LogUnavailable("the log was lost before this was written")
        for pending in dropped:
            pending.done(pending, gone)
        self._unread.clear()
        self._node.caught_up = False
        self._on_lost(Refused(Code.NEW_ORIGIN, "this node lost its log: reconnect, here or elsewhere", 100))
        await self.claim()
        await self.catch_up()
        self._node.caught_up = True


def refusal_of(outcome: LogError) -> Refused:
    """How a client hears of a log error."""
    match outcome:
        case LogFull():
            return Refused(Code.LOG_FULL, f"nothing was written: {outcome}", 1000)
        case LogUnavailable() | UnsafeRedis() | ShardsMismatch():
            return Refused(Code.CATCHING_UP, f"nothing was written: {outcome}", 200)
        case _:
            return Refused(Code.UNKNOWN_OUTCOME, f"it may have been written: {outcome}", 100)
