"""What all streams of a session share: stamps, vectors, the outbox, what was seen, and what the application is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial

from evertalk.adapters import wire
from evertalk.client.inbox import Inbox
from evertalk.client.journal import Journal, OutboxStore
from evertalk.client.notices import Connected, Disconnected, Gap, Notice, Sent, Watch, What
from evertalk.client.posted import Posted
from evertalk.client.receipts import Receipts
from evertalk.client.versions import Versions
from evertalk.core import accept, limits
from evertalk.core.clock import HybridClock, RegionTime
from evertalk.core.errors import RETRY, Code, SendFailed, SendUnknown
from evertalk.core.ids import group_scope, shard_of
from evertalk.core.merge import REGISTERS
from evertalk.core.model import Applied, Body, Deletion, Durability, Event, Kind
from evertalk.core.outbox import Outbox
from evertalk.core.sending import (
    Accepted,
    AlsoAccepted,
    Copy,
    Decision,
    Dropped,
    Failed,
    Kept,
    Pending,
    Released,
    Replicated,
)
from evertalk.core.token import Seen, Token, needs_of
from evertalk.core.vector import Vector
from evertalk.ports import Clock, ConversationState, Ids
from evertalk.v1 import chat_pb2

_ACCEPTORS_CAP = 16


def code_of(number: int) -> Code:
    """The error of that number; UNSPECIFIED if this version does not know it."""
    return Code(number) if number in Code.__members__.values() else Code.UNSPECIFIED


class Session:
    """One session over all its streams. Nothing here waits; streams and the application call in.

    Args:
        token: where an earlier process got to, or a fresh one; kept up to date with what the application took.
        poke: called when the choice of streams may change.
    """

    def __init__(
        self,
        token: Token,
        clock: Clock,
        ids: Ids,
        store: OutboxStore | None,
        receipts: bool,
        watch: Watch | None,
        poke: Callable[[], None],
    ) -> None:
        self.id = token.session
        self.account = b""
        self.shards = 0
        self.outbox = Outbox()
        self.journal = Journal(store, self.token_bytes)
        self.inbox = Inbox(self._took, poke)
        self.receipts = Receipts() if receipts else None
        self.watch = watch
        self.peers_live = False
        self.alone = asyncio.Event()  # set while no other region answers
        self.settled = asyncio.Event()  # set while everything posted here is answered
        self.settled.set()
        self._decided = asyncio.Event()  # pulsed by every decision
        self.wakers: dict[int, asyncio.Event] = {}  # by lane
        self.answering: set[int] = set()  # lanes that have acknowledged or refused something
        self._token = token
        self._clock = clock
        self._ids = ids
        self._poke = poke
        self._have = None if token.have is None else token.have.copy()
        self._hybrid = HybridClock(token.hlc)
        self._time = RegionTime()
        self._seen = Seen()
        self._deleted = Seen()  # (conversation, sender and id) of messages
        for key in token.delivered.events():
            self._seen.add(key)
        self._replicated = Vector()
        self._versions = Versions()
        self._acceptors: dict[str, tuple[str, str]] = {}  # origin -> (node, region) that spoke for it last
        self._posted: dict[int, Posted] = {}
        self._unanswered = 0
        self._needs_cache: dict[int, tuple[tuple[str, int], ...]] = {}

    # ------------------------------------------------------------ time and vectors

    @property
    def need(self) -> Vector:
        """Own acks and all that was seen."""
        return self._token.need

    def now_ms(self) -> int:
        """Region time."""
        return self._time.now_ms(self._clock.monotonic())

    def saw(self, hlc: int) -> None:
        """Merge a stamp (R2)."""
        self._hybrid.merge(hlc)

    def shown(self, events: Iterable[Applied], vector: Vector, shard: int | None) -> None:
        """The application was shown a snapshot, of one shard or (None) all: later reads must reach it."""
        for applied in events:
            self._note(applied)
        for (origin, s), position in vector:
            if shard in (None, s):
                self._need(origin, s, position)

    def listed(self, state: ConversationState) -> None:
        """The application was shown a conversation's registers."""
        self.saw(state.last_hlc)
        self._versions.listed(state)

    def gap(self, gap: Gap) -> None:
        """Something that was needed is not there (P5)."""
        self.tell(What.GAP, missing=gap.missing)
        self.inbox.put(gap)

    def _need(self, origin: str, shard: int, position: int) -> None:
        if self._token.need.advance(origin, shard, position):
            self._needs_cache.pop(shard, None)

    def token_bytes(self) -> bytes:
        """The token: exactly what the application has taken, and own acks."""
        token = self._token
        token.hlc = max(token.hlc, self._hybrid.last)
        return token.to_bytes()

    def hello(self) -> chat_pb2.Hello:
        """The first frame of a new stream."""
        return chat_pb2.Hello(
            session=self.id,
            fresh=self._have is None,
            have=wire.encode_vector(self._have or Vector()),
            need=wire.encode_vector(self.need),
            awaiting=wire.encode_vector(self.outbox.awaiting()),
            hlc=self._hybrid.last,
        )

    # ------------------------------------------------------------ sending

    def restore(self, saved: list[tuple[int, bytes, tuple[Copy, ...]]]) -> None:
        """Take in what an earlier process left in the outbox."""
        events = [(number, wire.decode_event(raw), copies) for number, raw, copies in saved]
        for _, event, copies in events:
            self.saw(event.hlc)
            self._versions.note(event)
            for copy in copies:
                self._need(copy.origin, copy.shard, copy.position)
        self.outbox.restore(events)

    def stamp(self, scope: bytes, kind: Kind, body: Body, version: int = 0, expires_at_ms: int = 0) -> Event:
        """Make an event: stamped once, serialized once (R1).

        Args:
            scope: empty for a new group, whose id follows from the event's.

        Raises:
            Refused: MALFORMED or TOO_LARGE.
        """
        id = self._ids.uuid7()
        scope = scope or group_scope(self.account, id)
        shard = shard_of(scope, self.shards)
        if (needs := self._needs_cache.get(shard)) is None:
            needs = self._needs_cache[shard] = needs_of(self.need, shard)
        hlc = self._hybrid.tick(self.now_ms())
        event = Event(id, scope, self.account, self.id, hlc, kind, body, needs, version, expires_at_ms)
        if kind in REGISTERS and not version:
            event = event._replace(version=self._versions.next(event))
        event = wire.encode_event(event)
        accept.check_form(event)
        return event

    def post(self, event: Event) -> Posted:
        """Queue an event: it is sent once the journal has kept it.

        Raises:
            Refused: OVERLOADED, the outbox is full.
        """
        pending, released = self.outbox.add(event)
        posted = self._posted[pending.number] = Posted(event)
        self._unanswered += 1
        self.settled.clear()
        self._versions.note(event)
        self.tell(What.INVOKED, event)
        self.decided(released)
        self.journal.add(pending.number, event.raw)
        self.journal.then(partial(self._kept, pending.number))
        return posted

    def _kept(self, number: int) -> None:
        self.outbox.durable(number)
        self.wake()

    def wake(self) -> None:
        """All streams look at the outbox again."""
        for waker in self.wakers.values():
            waker.set()

    # ------------------------------------------------------------ streams

    def opened(self, lane: int, reply: chat_pb2.HelloReply, waker: asyncio.Event) -> None:
        """A stream stands: what its node does not cover is sent on it."""
        self.account, self.shards = reply.account, reply.shards
        self._time.told(reply.region_time_ms, self._clock.monotonic())
        self.set_peers_live(reply.peers_live)
        if self._have is None or reply.HasField("marker"):  # fresh, or so old that it starts anew
            start = reply.marker if reply.HasField("marker") else reply.vector
            self._mark(wire.decode_vector(start))
        self._acceptors[reply.origin] = (reply.node, reply.region)
        if len(self._acceptors) > _ACCEPTORS_CAP:
            del self._acceptors[next(iter(self._acceptors))]
        self.outbox.open(lane, wire.decode_vector(reply.vector))
        self.wakers[lane] = waker
        self._watermark(wire.decode_vector(reply.replicated))
        waker.set()

    def closed(self, lane: int) -> None:
        """A stream is gone."""
        self.wakers.pop(lane, None)
        self.answering.discard(lane)
        self.decided(self.outbox.close(lane))

    def set_peers_live(self, live: bool) -> None:
        """What the node says of other regions."""
        self.peers_live = live
        if live:
            self.alone.clear()
        else:
            self.alone.set()

    def received(self, lane: int, frame: chat_pb2.SessionResponse, dropping: bool) -> None:
        """One frame of a stream.

        Args:
            dropping: the application is too far behind: take answers only, no deliveries.

        Raises:
            Refused: MALFORMED, a delivery does not parse.
        """
        if frame.HasField("heartbeat"):
            self._time.told(frame.heartbeat.region_time_ms, self._clock.monotonic())
            self.set_peers_live(frame.heartbeat.peers_live)
        if not dropping:
            for delivery in frame.deliveries:
                self._deliver(wire.decode_delivery(delivery, self.shards))
            if frame.HasField("marker"):
                self._mark(wire.decode_vector(frame.marker))
            if frame.HasField("go_away") and frame.go_away.HasField("marker"):
                self._mark(wire.decode_vector(frame.go_away.marker))
            if frame.HasField("gap"):
                self.gap(Gap(wire.decode_vector(frame.gap.missing), frame.gap.refetch))
        if frame.HasField("acks"):
            self._acks(lane, frame.acks)
        if frame.HasField("refusal"):
            self._refusal(lane, frame.refusal)
        if frame.HasField("replicated"):
            self._watermark(wire.decode_vector(frame.replicated))

    def _deliver(self, applied: Applied) -> None:
        event = applied.event
        self._note(applied)
        if event.session == self.id and event.sender == self.account:
            return
        if event.kind == Kind.MESSAGE and (event.scope, event.sender + event.id) in self._deleted:
            return  # a page left it out, and now an older stream, which hung, brings it behind what answers it (R12)
        if self._seen.add((event.sender, event.id)):
            if isinstance(body := event.body, Deletion):
                self._deleted.add((event.scope, body.target.sender + body.target.id))
            self.inbox.put(applied)
            if self.receipts and event.kind == Kind.MESSAGE and event.sender != self.account:
                self.receipts.note(event.scope, applied.origin, applied.position, self._clock.monotonic(), self._poke)

    def _note(self, applied: Applied) -> None:
        self.saw(applied.event.hlc)
        self.saw(applied.accepted_at)
        self._need(applied.origin, applied.shard, applied.position)
        self._versions.note(applied.event)

    def _mark(self, marker: Vector) -> None:
        self._have = self._have or Vector()
        self._have.absorb(marker)
        self.inbox.mark(marker)

    def _took(self, item: Applied | Vector) -> None:
        """The application has got so far."""
        token = self._token
        if isinstance(item, Vector):
            token.have = token.have or Vector()
            token.have.absorb(item)
            # Only here: a page of a joining may lie below `have`, and comes again until a marker behind it was taken.
            token.delivered.prune(self._replicated, token.have, item)
            return
        event = item.event
        token.delivered.add((event.sender, event.id), (item.origin, item.shard), item.position)
        self.tell(What.DELIVERED, event, item.origin, item.shard, item.position)

    def _acks(self, lane: int, acks: chat_pb2.Acks) -> None:
        self.saw(acks.accepted_at)
        for shard, position in zip(acks.shards, acks.positions, strict=True):
            self._need(acks.origin, shard, position)
        self.answering.add(lane)
        self.decided(self.outbox.acked(lane, acks.origin, acks.seqs, acks.shards, acks.positions))
        if len(self.wakers) > 1:
            self._poke()  # a hedge may have been won
        if waker := self.wakers.get(lane):
            waker.set()  # the window has room again

    def _refusal(self, lane: int, refusal: chat_pb2.Refusal) -> None:
        code = code_of(int(refusal.code))
        if code not in RETRY:
            self.answering.add(lane)  # no acknowledgement, but it works
        self.decided(
            self.outbox.refused(
                lane, refusal.epoch, refusal.seq, code, refusal.sentence, refusal.retry_after_ms,
                self._clock.monotonic(), self._ids.random(),
            )
        )  # fmt: skip
        if code == Code.LOG_FULL or len(self.wakers) > 1:
            self._poke()  # another region may have room; or a hedge has an answer, if not the one that was hoped for
        if waker := self.wakers.get(lane):
            waker.set()

    def _watermark(self, vector: Vector) -> None:
        self._replicated.absorb(vector)
        self.decided(self.outbox.replicated(vector))
        if vector.holes:  # what was in them is sent again
            for waker in self.wakers.values():
                waker.set()

    # ------------------------------------------------------------ answers

    def decided(self, decisions: list[Decision]) -> None:
        """Keep what the outbox decided, then show it (R7)."""
        if not decisions:
            return
        for decision in decisions:
            match decision:
                case Accepted(pending) | AlsoAccepted(pending):
                    if not pending.lane:
                        self.journal.ack(pending.number, pending.copies)
                case Replicated(pending) | Failed(pending) | Released(pending):
                    self.journal.remove(pending.number)
                case Kept() | Dropped():
                    pass
        self.journal.then(partial(self._show, decisions))

    def _show(self, decisions: list[Decision]) -> None:
        self._decided.set()
        self._decided = asyncio.Event()
        for decision in decisions:
            match decision:
                case Accepted(pending, copy):
                    if not pending.lane:
                        self._show_sent(pending, copy, Durability.ACCEPTED)
                case Replicated(pending):
                    self._show_sent(pending, pending.copies[0], Durability.REPLICATED)
                case Failed(pending, code, sentence, unknown):
                    error = (SendUnknown if unknown else SendFailed)(code, sentence)
                    what = What.UNKNOWN if unknown else What.REFUSED
                    self.tell(what, pending.event, code=code, sentence=sentence)
                    if posted := self._posted.pop(pending.number, None):
                        self._answered(posted)
                        posted.fail(error)
                case Released(pending):
                    self.tell(What.RELEASED, pending.event)
                    if posted := self._posted.pop(pending.number, None):
                        posted.fail(SendUnknown(Code.OVERLOADED, "released, at the cap or too old: ACCEPTED, no more"))
                case Kept(pending, code, sentence):
                    self.tell(What.KEPT, pending.event if pending else None, code=code, sentence=sentence)
                case Dropped(pending, refused):
                    if self.receipts and not refused:
                        self.receipts.again(pending.event, self._clock.monotonic(), self._poke)
                case AlsoAccepted():
                    pass

    def _show_sent(self, pending: Pending, copy: Copy, durability: Durability) -> None:
        event = pending.event
        what = What.ACCEPTED if durability == Durability.ACCEPTED else What.REPLICATED
        node, region = self._acceptors.get(copy.origin, ("", ""))
        self.tell(what, event, copy.origin, copy.shard, copy.position, node=node, region=region)
        posted = self._posted.get(pending.number)
        if posted is None:
            return
        if posted.outcome is None:
            self._answered(posted)
        posted.settle(Sent(event.id, event.scope, event.hlc, copy.origin, copy.shard, copy.position, durability))
        if durability == Durability.REPLICATED:
            del self._posted[pending.number]

    async def drained(self) -> None:
        """Until the outbox holds nothing but receipts: every event is REPLICATED, failed or released."""
        while any(not pending.lane for pending in self.outbox.pending):
            await self._decided.wait()

    def _answered(self, posted: Posted) -> None:
        if posted.outcome is None:
            self._unanswered -= 1
            if not self._unanswered:
                self.settled.set()

    def abandon(self) -> None:
        """The client is closing: whoever still waits is told so."""
        for posted in self._posted.values():
            if posted.outcome is None:
                self.tell(What.UNKNOWN, posted.event, code=Code.UNKNOWN_OUTCOME, sentence="closed before an answer")
            posted.fail(SendUnknown(Code.UNKNOWN_OUTCOME, "the client was closed before an answer came"))
        self._posted.clear()
        self.inbox.close()

    def tell(
        self,
        what: What,
        event: Event | None = None,
        origin: str = "",
        shard: int = 0,
        position: int = 0,
        *,
        code: Code = Code.UNSPECIFIED,
        sentence: str = "",
        node: str = "",
        region: str = "",
        missing: Vector | None = None,
    ) -> None:
        """Let the watch see a step."""
        if self.watch is None:
            return
        self.watch(
            Notice(
                self._clock.monotonic(), what, event.id if event else b"", event.scope if event else b"",
                event.hlc if event else 0, origin, shard, position, code, sentence, node, region,
                missing or Vector(), event,
            )
        )  # fmt: skip

    def connected(self, region: str, node: str, moved: bool) -> None:
        """Another node serves now."""
        self.tell(What.MOVED if moved else What.CONNECTED, node=node, region=region)
        if not self.inbox.full:
            self.inbox.put(Connected(region, node))

    def disconnected(self, region: str, node: str, reason: str) -> None:
        """No node serves now."""
        self.tell(What.DISCONNECTED, node=node, region=region, sentence=reason)
        if not self.inbox.full:
            self.inbox.put(Disconnected(region, node, reason))

    def send_receipts(self, lane: int) -> list[float]:
        """Put the receipts that are due behind everything else of one lane; returns when the next are."""
        if self.receipts is None:
            return []
        for scope, receipt in self.receipts.take(self._clock.monotonic()):
            if len(self.outbox) > limits.OUTBOX_CAP // 2:
                break  # later positions will say it too
            event = self.stamp(scope, Kind.RECEIPT, receipt, version=receipt.position)
            pending, _ = self.outbox.add(event, lane)
            self.journal.then(partial(self._kept, pending.number))
        return [] if self.receipts.due_s is None else [self.receipts.due_s]
