"""One live session: what it sends in, what waits to go out, and when it is cut loose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from evertalk.adapters.wire import decode_event, decode_vector, delivery_field, encode_vector, marker_field
from evertalk.chatnode.batcher import Pending, refusal_of
from evertalk.chatnode.door import Turn
from evertalk.chatnode.flag import Flag
from evertalk.chatnode.had import Had
from evertalk.core import accept, limits
from evertalk.core.clock import ms_of
from evertalk.core.errors import Code, LogError, Refused
from evertalk.core.ids import shard_of
from evertalk.core.model import Applied, Conversation, Event, Kind, Record
from evertalk.core.vector import Key, Vector
from evertalk.v1 import chat_pb2

if TYPE_CHECKING:
    from evertalk.chatnode.hub import Hub

Write = Callable[[bytes | chat_pb2.SessionResponse], Awaitable[None]]
_FRAME_BYTES = 256 * 1024
_AWAITING_MAX = 1024
_RESUME_PAGE = 200


class Session:
    """State of one stream. The reader fills it, the writer empties it, both bounded."""

    __slots__ = (  # there are thousands: a dictionary of so many names takes 2 KB
        "_acks_origin", "_again", "_dead_epoch", "_deliveries", "_go_away", "_heartbeat", "_hello", "_hub", "_moved",
        "_node", "_opened", "_overflowed", "_queued_bytes", "_refusal", "_resuming", "_room", "_room_for_page",
        "_sent", "_seqs", "_turn", "_unacked", "_unmarked", "_wake", "_wanted", "_write", "_writing", "account",
        "awaiting", "ended", "fresh", "had", "heard_s", "id", "marked", "outlived",
    )  # fmt: skip

    def __init__(self, hub: Hub, account: bytes, hello: chat_pb2.Hello, write: Write, turn: Turn) -> None:
        self._hub = hub
        self._node = hub.node
        self._write = write
        self._turn = turn
        self.account = account
        self.id = hello.session
        self._hello: chat_pb2.Hello | None = hello  # until it has been resumed from
        self._wake = Flag()
        self._writing = asyncio.Lock()
        self._room = Flag()
        self._opened = Flag()
        self._again = Flag()
        self._sent = Flag()
        self._overflowed = False
        self._acks_origin = ""
        # With the position behind which each may be marked. No deque: an empty one takes 600 bytes.
        self._deliveries: list[tuple[Key, int, bytes]] = []
        self._unmarked: dict[Key, int] = {}  # highest position of each that was sent and is in no marker
        self._queued_bytes = 0
        self._room_for_page = 0  # the largest page in the queue
        self._seqs: list[tuple[int, int, int]] = []  # (seq, shard, position), acks to go out
        self._refusal: chat_pb2.Refusal | None = None
        self._heartbeat = False
        self._go_away: chat_pb2.GoAway | None = None
        self._dead_epoch = -1  # no refusal yet
        self._unacked = 0
        #: Tombstones and folded origins that old may be forgotten (R12, R16): it starts anew.
        self.outlived = not hello.fresh and 0 < ms_of(hello.hlc) < hub.node.region_time_ms() - limits.MAX_AGE_MS
        self.fresh = hello.fresh or self.outlived
        self._resuming = not self.fresh
        have = Vector() if self.fresh else decode_vector(hello.have)
        self.had = Had(have, hub.node.fanned, hub.node.store.folded, hub.node.clock.monotonic())
        self.marked = (hub.node.fanned if self.fresh else have).copy()
        #: (origin, shard) -> highest acked position not yet told to be replicated
        self.awaiting: dict[Key, int] = dict(list(decode_vector(hello.awaiting))[:_AWAITING_MAX])
        self._wanted: dict[Key, int] = {}  # lowest of these: what moves below that concerns others
        self._moved = set(self.awaiting)  # watermarks of these may have something to tell
        self.heard_s = hub.node.clock.monotonic()
        self.ended: asyncio.Future[Refused | None] = asyncio.get_running_loop().create_future()

    # ------------------------------------------------------------ life

    async def run(self, requests: AsyncIterator[chat_pb2.SessionRequest]) -> None:
        """Serve until the client leaves, breaks, or is cut loose.

        Raises:
            Refused: cut loose by name.
        """
        loop = asyncio.get_running_loop()
        reader = loop.create_task(self._read_all(requests))
        writer = loop.create_task(self._write_all())
        resume = loop.create_task(self._resume())
        ends: set[asyncio.Future[Any]] = {reader, writer, resume, self.ended}
        try:
            while True:
                done, ends = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                for one in done:
                    if isinstance(outcome := one.result(), Refused):
                        raise outcome
                if done != {resume}:
                    return
        finally:
            for task in (reader, writer, resume):
                task.cancel()
            await asyncio.gather(reader, writer, resume, return_exceptions=True)
            if not self.ended.done():
                self.ended.set_result(None)

    def cut(self, refused: Refused) -> None:
        """End the stream by name."""
        if not self.ended.done():
            self.ended.set_result(refused)

    def go_away(self, message: chat_pb2.GoAway) -> None:
        """Tell the client to move on; the stream ends when it leaves."""
        self._go_away = message
        self._wake.set()

    def heartbeat(self) -> None:
        """Send a heartbeat, and markers of idle shards with it."""
        self._heartbeat = True
        self._moved |= self.awaiting.keys()
        self._wake.set()

    # ------------------------------------------------------------ in

    async def _read_all(self, requests: AsyncIterator[chat_pb2.SessionRequest]) -> None:
        async for frame in requests:
            self.heard_s = self._node.clock.monotonic()
            if frame.HasField("heartbeat"):
                self._await_replication(decode_vector(frame.heartbeat.awaiting))
            if frame.HasField("sends"):
                await self._take(frame.sends)

    def _await_replication(self, awaiting: Vector) -> None:
        """Acknowledged on another stream of this session, which has ended since: tell it here."""
        for key, position in awaiting:
            if key in self.awaiting or len(self.awaiting) < _AWAITING_MAX:
                self.awaiting[key] = max(self.awaiting.get(key, 0), position)
                self._wanted.pop(key, None)
                self._moved.add(key)
                self._hub.await_replication(key, self)
        self._wake.set()

    async def _take(self, sends: chat_pb2.Sends) -> None:
        for i, raw in enumerate(sends.events):
            if sends.epoch <= self._dead_epoch:
                return
            while self._unacked + len(self._seqs) >= limits.SESSION_UNACKED:
                self._room.clear()
                await self._room.wait()
            seq = sends.first_seq + i
            made_ms = 0
            try:
                event = decode_event(raw)
                made_ms = ms_of(event.hlc)
                await self._check(event)
                self._submit(event, sends.epoch, seq)
            except Refused as refused:
                self._refuse(sends.epoch, seq, self._node.not_found(refused, made_ms))
                return

    async def _check(self, event: Event) -> None:
        node = self._node
        accept.check_form(event)
        accept.check_stamp(event, node.clock.wall_ms(), node.highest_accepted)
        rights = node.cached_rights(event.scope) or await node.rights(event.scope)
        accept.check_right(event, self.account, rights)
        if event.kind == Kind.CONVERSATION and rights is None:
            body = event.body
            assert isinstance(body, Conversation)
            known = {a.account for a in await node.store.accounts(body.members)}
            strangers = [m for m in body.members if m not in known]
            if strangers:
                raise Refused(Code.UNKNOWN_ACCOUNT, f"there is no account {strangers[0].hex()}")

    def _submit(self, event: Event, epoch: int, seq: int) -> None:
        node = self._node
        shard = shard_of(event.scope, node.settings.shards)
        record = Record(event, node.hlc.tick(node.clock.wall_ms()))
        self._hub.batcher.submit(Pending(record, shard, self._done, self._is_wanted, epoch, seq))
        self._unacked += 1
        node.pending(event)

    def _done(self, sent: Pending, outcome: int | LogError) -> None:
        self._unacked -= 1
        self._room.set()
        if not isinstance(outcome, int):
            self._node.not_pending(sent.record.event)
            self._refuse(sent.epoch, sent.seq, refusal_of(outcome))
            return
        self._seqs.append((sent.seq, sent.shard, outcome))
        self._wake.set()
        self._acks_origin = origin = self._node.origin
        key = (origin, sent.shard)
        before = self.awaiting.get(key)
        if before == outcome:
            return  # it lies in the same entry as the one before, which did the rest
        if before is None:
            self._wanted[key] = outcome
        self.awaiting[key] = max(before or 0, outcome)
        self._moved.add(key)  # it can have been told by now
        self._hub.await_replication(key, self)

    def _is_wanted(self, sent: Pending) -> bool:
        if sent.epoch > self._dead_epoch:
            return True
        self._unacked -= 1  # behind a refusal: it leaves the queue unwritten (R10)
        self._room.set()
        self._node.not_pending(sent.record.event)
        return False

    def _refuse(self, epoch: int, seq: int, refused: Refused) -> None:
        if epoch <= self._dead_epoch:
            return  # the first refusal of an epoch speaks for the rest
        self._dead_epoch = epoch
        self._refusal = chat_pb2.Refusal(
            epoch=epoch, seq=seq, code=int(refused.code),  # type: ignore[arg-type]
            sentence=refused.sentence, retry_after_ms=refused.retry_after_ms,
        )  # fmt: skip
        self._wake.set()

    # ------------------------------------------------------------ out

    def deliver(self, with_: Applied, event: Event, delivery: bytes) -> None:
        """Queue one pre-serialized delivery (a frame field of its own), or cut a reader that has stalled.

        Args:
            with_: what it comes with; markers may pass that when it has been sent.
        """
        if not self.had.was_shown(with_):
            self._queue(with_, event, delivery)

    def _queue(self, with_: Applied, event: Event, delivery: bytes) -> None:
        if self.ended.done() or self._own(event):
            return
        self._deliveries.append(((with_.origin, with_.shard), with_.position, delivery))
        self._queued_bytes += len(delivery)
        if self._is_full():
            self._overflow()
        self._wake.set()

    def _overflow(self) -> None:
        if self._resuming:
            self._leave_to_pages()
            self._overflowed = True  # another pass over the store will bring it
        if self._is_full():
            self._empty_queue()
            self.cut(Refused(Code.SLOW_READER, "this session reads too slowly: reconnect to resume", 500))

    def _is_full(self) -> bool:
        return self._queued_bytes > limits.SESSION_QUEUE_BYTES + self._room_for_page

    def caught_up(self) -> None:
        """The node has moved on: if it has reached `have` in some shard, go through the store again."""
        if self._lags(self._node.fanned) != self.had.lagging:
            self._again.set()

    def _lags(self, reached: Vector) -> frozenset[int]:
        return self.had.lags(reached, self._node.store.folded, self._node.clock.monotonic())

    def bring(self, with_: Applied, page: list[tuple[Applied, bytes]]) -> None:
        """Queue a page, be it more than a queue takes otherwise: its bytes are shared by all who join.

        Whoever knew of its joining before this node did is brought what is not below its `have`.
        """
        if self.had.was_shown(with_):
            page = [(one, field) for one, field in page if not self.had.was_shown(one)]
        self._room_for_page = max(self._room_for_page, sum(len(field) for _, field in page))
        for one, field in page:
            self._queue(with_, one.event, field)

    def _own(self, event: Event) -> bool:
        return event.session == self.id and event.sender == self.account

    def _empty_queue(self) -> None:
        self._deliveries.clear()
        self._queued_bytes = 0

    def replicated(self, key: Key) -> None:
        """The watermark of something this session awaits has moved."""
        if self._node.replicated(key, self.awaiting.get(key, 0)) >= self._wanted.get(key, 0):
            self._moved.add(key)
            self._wake.set()

    async def _send(self, frame: bytes | chat_pb2.SessionResponse) -> None:
        async with self._writing:
            await self._write(frame)

    async def _write_all(self) -> None:
        await self._send(chat_pb2.SessionResponse(hello=self._hub.hello(self)))
        if self.fresh:
            self._turn.end()
        if self.outlived:
            await self._send(chat_pb2.SessionResponse(gap=chat_pb2.Gap(refetch=True)))
        self._opened.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (frame := self._frame()) is not None:
                await self._send(frame)

    def _frame(self) -> bytes | None:
        """Everything that waits, in one frame: control first, then deliveries and the marker behind them."""
        if self.ended.done():
            return None  # what was cut loose hears no marker beyond what it was sent
        # Concatenated protobuf messages merge: deliveries are spliced in without being parsed again.
        parts: list[bytes] = []
        if self._seqs or self._moved or self._refusal is not None or self._heartbeat:
            parts.append(self._head().SerializeToString())
        if not self._resuming:
            self._add_deliveries(parts)
            if self._go_away is not None and not self._deliveries:
                last = chat_pb2.SessionResponse(go_away=self._go_away)  # a copy: it is the same for all sessions
                last.go_away.marker.CopyFrom(encode_vector(self._marker(idle_too=True)))
                parts.append(last.SerializeToString())
                self._go_away = None
        self._heartbeat = False
        return b"".join(parts) or None

    def _head(self) -> chat_pb2.SessionResponse:
        """Control: may turn out to be nothing."""
        head = chat_pb2.SessionResponse()
        if self._seqs:
            seqs, shards, positions = zip(*self._seqs, strict=True)
            head.acks.MergeFrom(chat_pb2.Acks(origin=self._acks_origin, seqs=seqs, shards=shards, positions=positions))
            self._seqs.clear()
            self._room.set()
        if self._refusal is not None:
            head.refusal.CopyFrom(self._refusal)
            self._refusal = None
        if self._moved:
            self._add_replicated(head)
        if self._heartbeat:
            head.heartbeat.region_time_ms = self._node.region_time_ms()
            head.heartbeat.peers_live = bool(self._node.live_peers())
        return head

    def _add_replicated(self, head: chat_pb2.SessionResponse) -> None:
        told: dict[Key, int] = {}
        for key in self._moved & self.awaiting.keys():
            position, mark = self.awaiting[key], self._node.replicated(key, self.awaiting[key])
            if mark and mark >= self._wanted.get(key, 0):
                self._wanted[key] = mark + 1
                told[key] = mark
            if mark >= position:
                del self.awaiting[key]
                self._wanted.pop(key, None)
                self._hub.await_no_more(key, self)
            else:
                self._hub.await_replication(key, self)  # it may have gone down again since we were called
        self._moved.clear()
        if told:
            head.replicated.CopyFrom(encode_vector(self._node.replicated_of(told)))

    def _add_deliveries(self, parts: list[bytes]) -> None:
        size = taken = 0
        for key, position, delivery in self._deliveries:
            if size >= _FRAME_BYTES:
                break
            size += len(delivery)
            taken += 1
            self._unmarked[key] = max(position, self._unmarked.get(key, 0))
            parts.append(delivery)
        del self._deliveries[:taken]
        self._queued_bytes -= size
        self._node.counters.delivered += taken
        if self._deliveries:
            return  # no marker before the last of them
        self._sent.set()
        self._room_for_page = 0
        if self._unmarked or self._heartbeat:
            marker = self._marker(idle_too=self._heartbeat)
            if marker:
                parts.append(marker_field(marker))

    def _marker(self, idle_too: bool) -> Vector:
        """What has moved since the last one, all origins of a shard at once (R13).

        `have` beyond what was said in a conversation, and below its creation (an own one is never delivered), would
        look like one who has just joined; beyond a joining and below what its page left to History, a resume would
        bring that, behind what answers it.

        Args:
            idle_too: also of shards in which nothing was sent.
        """
        fanned = self._node.fanned
        shards = {k[1] for k, _ in fanned} if idle_too else {shard for _, shard in self._unmarked}
        shards -= self.had.lagging
        marker = fanned.beyond(self.marked, shards)
        self.marked.absorb(marker)  # with its holes: what fills them has not been sent
        self._unmarked = {k: p for k, p in self._unmarked.items() if p > fanned[k]}  # amid a fan-out or an import
        return marker

    # ------------------------------------------------------------ resume

    def refresh(self) -> None:
        """Something was handed out before this session opened that no marker had named: go through the store again."""
        self._resuming = True
        self._sent.set()  # nothing goes out of the queue until then
        self._again.set()

    async def _resume(self) -> None:
        """What this session missed, page by page; live events wait in the queue meanwhile."""
        await self._opened.wait()
        if self._resuming and not self.fresh:
            await self._catch_up()
        self._hello = None
        while True:
            await self._again.wait()
            self._again.clear()
            while self._deliveries and not self._resuming:  # no pass brings last words before a removal
                self._sent.clear()
                await self._sent.wait()
            self.had.lagging = self._lags(self._node.fanned)
            self._resuming = True  # also where a pass that was under way has just said that it is over
            await self._pass(self.marked.copy())

    async def _catch_up(self) -> None:
        node, hello, self._hello = self._node, self._hello, None
        assert hello is not None
        need = decode_vector(hello.need)
        if not node.store.vector.reaches(need, node.met):
            self._turn.end()  # it waits for others now
        if missing := await node.wait_for(need, limits.NEED_WAIT_S):
            await self._send(chat_pb2.SessionResponse(gap=chat_pb2.Gap(missing=encode_vector(missing))))
        await self._pass(decode_vector(hello.have))
        self._turn.end()

    def _leave_to_pages(self) -> None:
        """What is queued is in the store, which knows all copies of it: the pages bring it once, but for what `have`
        names and was let through all the same."""
        kept = [one for one in self._deliveries if self.had.names(*one[:2])]
        self._empty_queue()
        self._deliveries.extend(kept)
        self._queued_bytes = sum(len(delivery) for *_, delivery in kept)

    async def _pass(self, have: Vector) -> None:
        """Everything beyond `have`, then live again."""
        while True:
            self._leave_to_pages()
            self._overflowed = False
            await self._pages(have)
            have = self.marked.copy()
            if not self._overflowed:
                self._resuming = False
                self._wake.set()
                return

    async def _pages(self, have: Vector) -> None:
        """One pass over what lies beyond `have`, then its marker."""
        start: Vector | None = None
        after: object | None = None
        while start is None or after is not None:
            async with self._hub.door.resumes:
                page = await self._node.store.resume(self.account, have, after, _RESUME_PAGE)
            start, after = start or page.vector, page.next
            fields = [delivery_field(one) for one in page.events if not self._own(one.event)]
            self._node.counters.delivered += len(fields)
            if after is None:
                marker = _part(start, {k for k, _ in start if k[1] not in self._lags(start)})
                self.marked.absorb(marker)
                fields.append(marker_field(marker))
            await self._send_parts(fields)

    async def _send_parts(self, fields: list[bytes]) -> None:
        """In frames of bounded size, however large the events are."""
        parts: list[bytes] = []
        size = 0
        for part in fields:
            if parts and size + len(part) > _FRAME_BYTES:
                await self._send(b"".join(parts))
                parts, size = [], 0
            parts.append(part)
            size += len(part)
        if parts:
            await self._send(b"".join(parts))


def _part(vector: Vector, keys: set[Key]) -> Vector:
    """Some keys of a vector, with their holes: `have` must not claim what was passed (R6)."""
    return Vector({k: vector[k] for k in keys}, (h for h in vector.holes if (h.origin, h.shard) in keys))
