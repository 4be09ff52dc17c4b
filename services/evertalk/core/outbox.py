"""The sending side of a session, decided purely: what is pending, what each stream sends next, what an answer means.

One outbox feeds any number of lanes (streams): one normally, two during a hedge or a move. Rules R7, R10, P2.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from evertalk.core import limits
from evertalk.core.errors import UNKNOWN, Code, Refused
from evertalk.core.model import Event
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
    Send,
)
from evertalk.core.vector import Key, Vector

RETRY_FIRST_S = 0.05
RETRY_MAX_S = 2.0
_MAX_COPIES = 16
_STALE_MAX = 1024
#: Said where an entry is written, not where events are checked: what follows in the epoch may have been written.
_AT_APPEND = frozenset({Code.LOG_FULL, Code.OVERLOADED, Code.NEW_ORIGIN, Code.DRAINING}) | UNKNOWN
#: After these a slow node must not be given more work elsewhere.
_OVERLOAD = frozenset({Code.OVERLOADED, Code.LOG_FULL})
#: The stream backs off, the event is kept.
_BACK_OFF = _OVERLOAD | {
    Code.CATCHING_UP, Code.DRAINING, Code.UNKNOWN_OUTCOME, Code.SLOW_READER, Code.NEW_ORIGIN
}  # fmt: skip


# ---------------------------------------------------------------- lanes


@dataclass(slots=True)
class _Deferral:
    until_s: float
    numbers: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Lane:
    """One stream: what it has still to send, and what it has sent and not heard of."""

    epoch: int = 1
    next_seq: int = 1
    todo: deque[int] = field(default_factory=deque)  # numbers, ascending
    flight: dict[int, tuple[int, float]] = field(default_factory=dict)  # seq -> (number, written at)
    before: dict[int, int] = field(default_factory=dict)  # the last epoch's seq -> number: acks may be under way
    done: set[int] = field(default_factory=set)  # acknowledged here, while also in todo
    deferred: dict[bytes, _Deferral] = field(default_factory=dict)
    patience: dict[bytes, int] = field(default_factory=dict)  # conversation -> NOT_YETs in a row
    paused_until_s: float = 0.0
    pauses: int = 0
    overloaded: bool = False
    full: bool = False

    def open_attempts(self) -> set[int]:
        return {number for number, _ in self.flight.values()} | set(self.before.values())


class Outbox:
    """Pending events in order, and the lanes that carry them. Times are monotonic seconds.

    Args:
        cap: events it holds at most.
        window: unanswered events of one lane.
    """

    def __init__(self, cap: int = limits.OUTBOX_CAP, window: int = limits.SESSION_UNACKED) -> None:
        self._cap = cap
        self._window = window
        self._pending: dict[int, Pending] = {}  # by number, ascending
        self._lanes: dict[int, _Lane] = {}
        self._next = 1
        self._durable = 0
        self._awaiting: dict[Key, list[tuple[int, int]]] = {}  # heaps of (position, number)
        self._stale = 0
        self._replicated = Vector()

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def pending(self) -> list[Pending]:
        """Everything held, in order."""
        return list(self._pending.values())

    @property
    def unaccepted(self) -> int:
        """How many are not acknowledged, receipts aside."""
        return sum(1 for p in self._pending.values() if not p.copies and not p.lane)

    def awaiting(self) -> Vector:
        """The highest acknowledged position per (origin, shard) that is not known to be replicated."""
        vector = Vector()
        for pending in self._pending.values():
            for copy in pending.copies:
                vector.advance(copy.origin, copy.shard, copy.position)
        return vector

    # ------------------------------------------------------------ filling

    def restore(self, saved: Iterable[tuple[int, Event, Sequence[Copy]]]) -> None:
        """Take in what an earlier process left, in order; every attempt of it is unknown."""
        for number, event, copies in saved:
            pending = Pending(number, event, list(copies), maybe=True)
            self._pending[number] = pending
            for copy in copies:
                self._await(copy, number)
            self._next = max(self._next, number + 1)
        self._durable = self._next - 1

    def add(self, event: Event, lane: int = 0) -> tuple[Pending, list[Decision]]:
        """Queue an event behind all others; it is not sent before `durable()` reaches it.

        Args:
            lane: for a receipt, the one lane that carries it (0: all do).

        Raises:
            Refused: OVERLOADED, the outbox is full and nothing in it is accepted.
        """
        released: list[Decision] = []
        if len(self._pending) >= self._cap:
            oldest = next((p for p in self._pending.values() if p.copies), None)
            if oldest is None:
                raise Refused(
                    Code.OVERLOADED,
                    f"the outbox holds {self._cap} events that no node has accepted: wait for a connection",
                    1000,
                )
            self._leave(oldest)
            released.append(Released(oldest))
        pending = Pending(self._next, event, lane=lane)
        self._next += 1
        self._pending[pending.number] = pending
        for id_, one in self._lanes.items():
            if lane in (0, id_):
                one.todo.append(pending.number)
        return pending, released

    def durable(self, number: int) -> None:
        """Everything up to this number is stored and may be sent (R1: stamped and stored, then sent)."""
        self._durable = max(self._durable, number)

    # ------------------------------------------------------------ lanes

    def open(self, lane: int, vector: Vector) -> None:
        """A new stream: it starts with what the outbox holds and its node's vector does not cover (R10)."""
        todo = (
            p.number
            for p in self._pending.values()
            if not p.lane and not any(vector.holds(c.origin, c.shard, c.position) for c in p.copies)
        )
        self._lanes[lane] = _Lane(todo=deque(todo))
        awaited = {origin for origin, _ in self._awaiting}
        self._replicated.drop(self._replicated.origins() - vector.origins() - awaited)  # folded by now

    def close(self, lane: int) -> list[Decision]:
        """A stream has ended: its attempts without answer are unknown."""
        closed = self._lanes.pop(lane, None)
        if closed is None:
            return []
        decisions: list[Decision] = []
        for number in sorted(closed.open_attempts()):
            if pending := self._pending.get(number):
                pending.maybe = True
        for pending in list(self._pending.values()):
            if pending.lane == lane:
                self._leave(pending)
                decisions.append(Dropped(pending, refused=False))
            elif pending.verdict:
                decisions += self._judge(pending)
        return decisions

    def take(self, lane: int, now_s: float, max_bytes: int = limits.MAX_FRAME_BYTES) -> Send | None:
        """What to write next on a lane, or None. What is returned counts as attempted."""
        one = self._lanes[lane]
        self._undefer(one, now_s)
        if now_s < one.paused_until_s:
            return None
        events: list[Event] = []
        size, first_seq = 0, one.next_seq
        while one.todo and len(one.flight) < self._window and one.todo[0] <= self._durable:
            number = one.todo[0]
            pending = self._pending.get(number)
            if pending is None or number in one.done:
                one.todo.popleft()
                one.done.discard(number)
                continue
            if pending.verdict:  # refused, and another lane's attempt may yet be written: what follows waits (R10)
                one.deferred.setdefault(pending.event.scope, _Deferral(now_s + RETRY_FIRST_S))
            if deferral := one.deferred.get(pending.event.scope):
                deferral.numbers.append(one.todo.popleft())
                continue
            size += len(pending.event.raw) + 8
            if events and size > max_bytes:
                break
            one.todo.popleft()
            one.flight[one.next_seq] = (number, now_s)
            one.next_seq += 1
            events.append(pending.event)
        return Send(one.epoch, first_seq, events) if events else None

    def idle(self, lane: int) -> bool:
        """True if a lane has nothing to send and nothing unanswered."""
        one = self._lanes[lane]
        return not one.todo and not one.flight and not one.deferred

    def wake_at(self, lane: int, now_s: float) -> float | None:
        """When `take` may have more although nothing happens before; None if only an event or answer helps."""
        one = self._lanes[lane]
        if one.paused_until_s > now_s and (one.todo or one.deferred):
            return one.paused_until_s
        return min((d.until_s for d in one.deferred.values()), default=None)

    def overloaded(self, lane: int) -> bool:
        """True after an overload refusal, until the lane acknowledges again: no hedging then."""
        return lane in self._lanes and self._lanes[lane].overloaded

    def full(self, lane: int) -> bool:
        """True after a refusal because the region's log is full, until the lane acknowledges again: go elsewhere."""
        return lane in self._lanes and self._lanes[lane].full

    def waiting_since(self, lane: int) -> float | None:
        """When the oldest event of a lane that nobody has acknowledged was written there; None if there is none."""
        one = self._lanes.get(lane)
        if one is None:
            return None
        for number, written_at in one.flight.values():
            pending = self._pending.get(number)
            if pending is not None and not pending.copies and not pending.lane:
                return written_at
        return None

    # ------------------------------------------------------------ answers

    def acked(
        self, lane: int, origin: str, seqs: Sequence[int], shards: Sequence[int], positions: Sequence[int]
    ) -> list[Decision]:
        """Events seqs[i] of a lane are entry positions[i] of (origin, shards[i])."""
        one = self._lanes.get(lane)
        if one is None:
            return []
        decisions: list[Decision] = []
        for seq, shard, position in zip(seqs, shards, positions, strict=True):
            now_in_flight = one.flight.pop(seq, None)
            number = now_in_flight[0] if now_in_flight else one.before.pop(seq, None)
            pending = self._pending.get(number) if number is not None else None
            if pending is None:
                continue
            if not now_in_flight:
                one.done.add(pending.number)
            one.overloaded, one.full, one.pauses = False, False, 0
            one.patience.pop(pending.event.scope, None)
            decisions += self._accept(pending, Copy(origin, shard, position))
        return decisions

    def _accept(self, pending: Pending, copy: Copy) -> list[Decision]:
        first = not pending.copies
        pending.verdict = None
        if copy not in pending.copies and len(pending.copies) < _MAX_COPIES:
            pending.copies.append(copy)
        if pending.lane:
            self._leave(pending)
            return [Accepted(pending, copy)]
        decisions: list[Decision] = [Accepted(pending, copy) if first else AlsoAccepted(pending)]
        pending.lost = False
        if self._replicated.holds(copy.origin, copy.shard, copy.position):
            self._leave(pending)
            return [*decisions, Replicated(pending)]
        self._await(copy, pending.number)
        return decisions

    def refused(
        self,
        lane: int,
        epoch: int,
        seq: int,
        code: Code,
        sentence: str,
        retry_after_ms: int,
        now_s: float,
        chance: float = 0.5,
    ) -> list[Decision]:
        """A node refused seq and dropped the rest of its epoch: judge that event, send the others again (R10).

        Args:
            chance: 0 ≤ chance < 1, spreads retries.
        """
        one = self._lanes.get(lane)
        if one is None or epoch != one.epoch:
            return []  # an earlier epoch's: all of it has been sent again already
        found = one.flight.get(seq)
        pending = self._pending.get(found[0]) if found else None
        for other, (number, _) in one.flight.items():
            held = self._pending.get(number)
            # Events before it are in the node's hands; those behind it only if checks had let them pass.
            if held and other != seq and (other < seq or code in _AT_APPEND):
                held.maybe = True
        one.before = {s: n for s, (n, _) in one.flight.items() if s != seq}
        numbers = sorted({n for n, _ in one.flight.values()})
        one.todo = deque(heapq.merge(numbers, one.todo))
        one.done.intersection_update(one.todo)
        one.flight.clear()
        one.epoch += 1
        if code in UNKNOWN and pending:
            pending.maybe = True
        decisions = self._after_refusal(one, pending, code, sentence, retry_after_ms, now_s, chance)
        for number in numbers:
            if held := self._pending.get(number):
                decisions += self._judge(held)
        return decisions

    def _after_refusal(
        self,
        one: _Lane,
        pending: Pending | None,
        code: Code,
        sentence: str,
        retry_after_ms: int,
        now_s: float,
        chance: float,
    ) -> list[Decision]:
        if code in _BACK_OFF:
            one.overloaded |= code in _OVERLOAD
            one.full |= code == Code.LOG_FULL
            one.pauses += 1
            one.paused_until_s = now_s + _patience(one.pauses, retry_after_ms, chance)
            return [Kept(pending, code, sentence, one.paused_until_s, whole_lane=True)]
        if pending is None:
            return []
        if pending.lane:  # a receipt is not worth another try
            self._leave(pending)
            return [Dropped(pending, refused=True)]
        if code == Code.NOT_YET:
            scope = pending.event.scope
            one.patience[scope] = one.patience.get(scope, 0) + 1
            until = now_s + _patience(one.patience[scope], retry_after_ms, chance)
            one.deferred.setdefault(scope, _Deferral(until)).until_s = until
            return [Kept(pending, code, sentence, until, whole_lane=False)]
        if pending.copies:
            # No node takes it any more, and who accepted it is folded and forgotten, or has lost it.
            if code == Code.STAMP_TOO_OLD or self._is_lost(pending):
                self._leave(pending)
                return [Released(pending)]
            one.done.add(pending.number)  # accepted elsewhere: this lane just does not carry it
            return []
        pending.verdict = (code, sentence)
        return []

    def _judge(self, pending: Pending) -> list[Decision]:
        """Give an event up that was refused, unless another attempt of it still waits for its answer."""
        if pending.verdict is None or any(
            pending.number in {n for n, _ in lane.flight.values()} for lane in self._lanes.values()
        ):
            return []
        code, sentence = pending.verdict
        self._leave(pending)
        return [Failed(pending, code, sentence, unknown=pending.maybe or code in UNKNOWN)]

    def replicated(self, vector: Vector) -> list[Decision]:
        """A watermark: everything up to these positions is durable in enough regions."""
        self._replicated.absorb(vector)
        decisions: list[Decision] = []
        for key, _ in vector:
            heap = self._awaiting.get(key)
            in_hole: list[tuple[int, int]] = []
            while heap and heap[0][0] <= self._replicated[key]:
                position, number = heapq.heappop(heap)
                pending = self._pending.get(number)
                if pending is None:
                    self._stale -= 1
                elif self._replicated.holds(*key, position):
                    self._leave(pending)
                    self._stale -= 1
                    decisions.append(Replicated(pending))
                else:
                    in_hole.append((position, number))
            for item in in_hole:
                heapq.heappush(self._awaiting[key], item)
                if held := self._pending.get(item[1]):  # else it has left by another copy of this log
                    self._send_again(held)
            if heap is not None and not heap:
                del self._awaiting[key]
        return decisions

    # ------------------------------------------------------------ inside

    def _await(self, copy: Copy, number: int) -> None:
        if self._stale > _STALE_MAX + len(self._pending):
            self._awaiting.clear()
            self._stale = 0
            for held in self._pending.values():
                for one in held.copies:
                    self._await(one, held.number)
        heapq.heappush(self._awaiting.setdefault((copy.origin, copy.shard), []), (copy.position, number))

    def _is_lost(self, pending: Pending) -> bool:
        """True if every copy lay where something burned: what is replicated around it has a hole there."""
        known = self._replicated
        return all(
            known[c.origin, c.shard] >= c.position and not known.holds(c.origin, c.shard, c.position)
            for c in pending.copies
        )

    def _send_again(self, pending: Pending) -> None:
        """It was accepted, and is nowhere any more: every lane carries it, as if it were new."""
        if pending.lost or not self._is_lost(pending):
            return
        pending.lost = True
        for one in self._lanes.values():
            one.done.discard(pending.number)
            deferred = (number for deferral in one.deferred.values() for number in deferral.numbers)
            if pending.number not in {*one.todo, *deferred, *(number for number, _ in one.flight.values())}:
                one.todo = deque(heapq.merge(one.todo, [pending.number]))

    def _leave(self, pending: Pending) -> None:
        """Take out; heaps and lanes drop what is gone when they come to it, heaps also when too much has gathered."""
        del self._pending[pending.number]
        self._stale += len(pending.copies)

    def _undefer(self, one: _Lane, now_s: float) -> None:
        due = [scope for scope, d in one.deferred.items() if d.until_s <= now_s]
        for scope in due:
            one.todo = deque(heapq.merge(sorted(one.deferred.pop(scope).numbers), one.todo))


def _patience(tries: int, retry_after_ms: int, chance: float) -> float:
    """Seconds to wait before try number `tries` + 1: doubling, spread over the upper half; a node's word counts."""
    backoff: float = min(RETRY_MAX_S, RETRY_FIRST_S * 2 ** min(tries - 1, 16))
    return max(backoff * (0.5 + 0.5 * chance), retry_after_ms / 1000)
