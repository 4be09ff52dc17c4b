"""The outbox as a state machine: what is sent, in which order, and what becomes of it whatever nodes answer."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from evertalk.core.errors import Code, Refused
from evertalk.core.model import Event, Kind, Message
from evertalk.core.outbox import Outbox
from evertalk.core.sending import (
    Accepted,
    AlsoAccepted,
    Copy,
    Decision,
    Dropped,
    Failed,
    Kept,
    Released,
    Replicated,
)
from evertalk.core.vector import Hole, Vector

ROOM, OTHER = b"room", b"other"
HERE = Copy("here-1", 0, 1)


def event(n: int, scope: bytes = ROOM, size: int = 10) -> Event:
    """The n-th event of the session."""
    return Event(b"%d" % n, scope, b"alice", b"session", n, Kind.MESSAGE, Message(str(n)), raw=b"x" * size)


def filled(*scopes: bytes, lane: int = 1, cap: int = 100, window: int = 50) -> Outbox:
    """An outbox with an open lane and an event per scope, all durable."""
    box = Outbox(cap, window)
    box.open(lane, Vector())
    for n, scope in enumerate(scopes, 1):
        box.add(event(n, scope))
    box.durable(len(scopes))
    return box


def sent(box: Outbox, lane: int = 1, now: float = 0.0) -> list[int]:
    """Stamps of what a lane sends now."""
    send = box.take(lane, now)
    return [e.hlc for e in send.events] if send else []


def ack(box: Outbox, *seqs: int, lane: int = 1, origin: str = "here-1") -> list[Decision]:
    """Acknowledge seqs at positions of the same number."""
    return box.acked(lane, origin, seqs, [0] * len(seqs), seqs)


def refuse(box: Outbox, seq: int, code: Code, epoch: int = 1, lane: int = 1, after_ms: int = 0) -> list[Decision]:
    return box.refused(lane, epoch, seq, code, code.name, after_ms, 0.0)


# ---------------------------------------------------------------- sending


def test_events_go_out_in_order_once() -> None:
    box = filled(ROOM, OTHER, ROOM)
    send = box.take(1, 0)
    assert send is not None
    assert (send.epoch, send.first_seq, [e.hlc for e in send.events]) == (1, 1, [1, 2, 3])
    assert box.take(1, 0) is None


def test_nothing_is_sent_before_it_is_kept() -> None:
    box = Outbox()
    box.open(1, Vector())
    first, _ = box.add(event(1))
    box.add(event(2))
    assert sent(box) == []
    box.durable(first.number)
    assert sent(box) == [1]


def test_frames_and_windows_are_bounded() -> None:
    box = filled(*[ROOM] * 10, window=4)
    send = box.take(1, 0, max_bytes=40)
    assert send is not None
    assert len(send.events) == 2
    assert sent(box) == [3, 4]
    assert sent(box) == []
    ack(box, 1)
    assert sent(box) == [5]


def test_a_new_stream_starts_with_what_its_node_does_not_cover() -> None:
    box = filled(ROOM, ROOM, ROOM)
    sent(box)
    ack(box, 1, 2)
    box.close(1)
    box.open(2, Vector({("here-1", 0): 1}))
    assert sent(box, 2) == [2, 3]


def test_a_hole_is_not_covered() -> None:
    box = filled(ROOM)
    sent(box)
    ack(box, 1)
    box.open(2, Vector({("here-1", 0): 5}, [Hole("here-1", 0, 1, 1)]))
    assert sent(box, 2) == [1]


# ---------------------------------------------------------------- answers


def test_an_ack_is_shown_once_however_many_copies() -> None:
    box = filled(ROOM)
    box.open(2, Vector())
    sent(box, 1)
    sent(box, 2)
    first, second = ack(box, 1), ack(box, 1, lane=2, origin="there-1")
    assert [type(d) for d in first] == [Accepted]
    assert not any(isinstance(d, Accepted) for d in second)
    assert box.awaiting() == Vector({("here-1", 0): 1, ("there-1", 0): 1})


def test_any_copy_replicated_is_enough() -> None:
    box = filled(ROOM)
    box.open(2, Vector())
    sent(box, 1)
    sent(box, 2)
    ack(box, 1)
    ack(box, 1, lane=2, origin="there-1")
    assert [type(d) for d in box.replicated(Vector({("there-1", 0): 1}))] == [Replicated]
    assert len(box) == 0
    assert box.replicated(Vector({("here-1", 0): 1})) == []


def test_a_watermark_that_came_before_the_ack_counts() -> None:
    box = filled(ROOM)
    sent(box)
    box.replicated(Vector({("here-1", 0): 1}))
    assert [type(d) for d in ack(box, 1)] == [Accepted, Replicated]


def test_a_watermark_with_a_hole_says_nothing_of_what_is_in_it() -> None:
    box = filled(ROOM, ROOM)
    sent(box)
    ack(box, 1, 2)
    assert box.replicated(Vector({("here-1", 0): 2}, [Hole("here-1", 0, 1, 2)])) == []
    assert len(box.replicated(Vector({("here-1", 0): 3}))) == 2


def test_what_lies_above_a_hole_is_replicated() -> None:
    box = filled(ROOM, ROOM)
    sent(box)
    ack(box, 1, 2)
    decisions = box.replicated(Vector({("here-1", 0): 2}, [Hole("here-1", 0, 1, 1)]))
    assert [type(d) for d in decisions] == [Replicated]
    assert [p.event.hlc for p in box.pending] == [1]


def test_what_was_accepted_and_burned_is_sent_again() -> None:
    box = filled(ROOM, ROOM)
    sent(box)
    ack(box, 1, 2)
    box.open(2, Vector({("here-1", 0): 2}))
    lost = Vector({("here-1", 0): 2}, [Hole("here-1", 0, 1, 1)])
    box.replicated(lost)
    assert sent(box, 2) == [1]
    box.replicated(lost)
    assert sent(box, 2) == [], "once"
    assert [type(d) for d in ack(box, 1, lane=2, origin="there-1")] == [AlsoAccepted]
    assert [type(d) for d in box.replicated(Vector({("there-1", 0): 1}))] == [Replicated]


def sent_again() -> Outbox:
    """One send, accepted on a stream that broke, and out once more on another."""
    box = filled(ROOM)
    sent(box)
    ack(box, 1)
    box.close(1)
    box.open(2, Vector())
    assert sent(box, 2) == [1]
    return box


def test_what_burned_may_have_come_into_the_same_log_again() -> None:
    box = sent_again()
    box.acked(2, "here-1", [1], [0], [3])
    decisions = box.replicated(Vector({("here-1", 0): 3}, [Hole("here-1", 0, 1, 2)]))
    assert [type(d) for d in decisions] == [Replicated]
    assert box.pending == []


def test_what_was_accepted_and_burned_and_nobody_takes_again_is_released() -> None:
    box = sent_again()
    assert refuse(box, 1, Code.NOT_A_MEMBER, lane=2) == [], "its region may return with it"
    box.replicated(Vector({("here-1", 0): 1}, [Hole("here-1", 0, 1, 1)]))
    assert sent(box, 2) == [1]
    assert [type(d) for d in refuse(box, 2, Code.NOT_A_MEMBER, epoch=2, lane=2)] == [Released]
    assert not box.pending


def test_after_a_definite_refusal_the_rest_goes_out_again_under_the_next_epoch() -> None:
    box = filled(ROOM, ROOM, OTHER)
    sent(box)
    assert [type(d) for d in refuse(box, 2, Code.NOT_ALLOWED)] == [Failed]
    send = box.take(1, 0)
    assert send is not None
    assert (send.epoch, send.first_seq, [e.hlc for e in send.events]) == (2, 4, [1, 3])


def test_a_refusal_of_an_epoch_that_is_over_changes_nothing() -> None:
    box = filled(ROOM, ROOM)
    sent(box)
    refuse(box, 1, Code.NOT_ALLOWED)
    assert sent(box) == [2]
    assert refuse(box, 2, Code.LOG_FULL) == []
    assert sent(box) == []


def test_an_ack_of_the_last_epoch_still_counts() -> None:
    box = filled(ROOM, ROOM)
    sent(box)
    refuse(box, 2, Code.NOT_YET)
    assert [type(d) for d in ack(box, 1)] == [Accepted]
    assert sent(box, now=10) == [2]


@pytest.mark.parametrize(("code", "unknown"), [(Code.NOT_ALLOWED, False), (Code.UNSPECIFIED, True)])
def test_whether_a_failure_is_definite(code: Code, unknown: bool) -> None:
    box = filled(ROOM)
    sent(box)
    (failed,) = refuse(box, 1, code)
    assert isinstance(failed, Failed)
    assert failed.unknown is unknown


def test_a_refusal_after_an_attempt_without_answer_is_unknown() -> None:
    box = filled(ROOM)
    sent(box)
    box.close(1)
    box.open(2, Vector())
    sent(box, 2)
    (failed,) = refuse(box, 1, Code.NOT_ALLOWED, lane=2)
    assert isinstance(failed, Failed)
    assert failed.unknown


def test_a_refusal_waits_for_the_other_streams_answer() -> None:
    box = filled(ROOM)
    box.open(2, Vector())
    sent(box, 1)
    sent(box, 2)
    assert refuse(box, 1, Code.UNKNOWN_CONVERSATION, lane=2) == []
    assert sent(box, 2) == []
    assert [type(d) for d in ack(box, 1)] == [Accepted]


def test_what_follows_a_refusal_waits_until_the_other_streams_answer_has_settled_it() -> None:
    """Else the second could be written in one region while the first may yet be in the other: out of order."""
    box = filled(ROOM, ROOM)
    box.open(2, Vector())
    assert sent(box, 1) == [1, 2]
    assert sent(box, 2) == [1, 2]
    refuse(box, 1, Code.NOT_A_MEMBER, lane=2)
    box.add(event(3, OTHER))
    box.durable(3)
    assert sent(box, 2) == [3], "other conversations go on"
    assert sent(box, 2, now=1.0) == []
    box.close(1)
    assert sent(box, 2, now=2.0) == [2], "the first has failed; nobody knows of the second"


def test_a_refusal_stands_when_the_other_stream_refuses_too() -> None:
    box = filled(ROOM)
    box.open(2, Vector())
    sent(box, 1)
    sent(box, 2)
    refuse(box, 1, Code.NOT_ALLOWED, lane=2)
    (failed,) = refuse(box, 1, Code.NOT_ALLOWED)
    assert isinstance(failed, Failed)
    assert not failed.unknown


def test_a_refusal_is_unknown_when_the_other_stream_breaks() -> None:
    box = filled(ROOM)
    box.open(2, Vector())
    sent(box, 1)
    sent(box, 2)
    refuse(box, 1, Code.NOT_ALLOWED, lane=2)
    (failed,) = box.close(1)
    assert isinstance(failed, Failed)
    assert failed.unknown


@pytest.mark.parametrize("code", [Code.LOG_FULL, Code.UNKNOWN_OUTCOME])
def test_what_was_at_the_log_when_it_failed_may_have_been_written(code: Code) -> None:
    box = filled(ROOM, OTHER)
    sent(box)
    refuse(box, 1, code)
    assert sent(box, now=10) == [1, 2]
    (first,) = refuse(box, 3, Code.NOT_ALLOWED, epoch=2)
    assert isinstance(first, Failed)
    assert first.unknown is (code == Code.UNKNOWN_OUTCOME)
    assert sent(box, now=10) == [2]
    (behind,) = refuse(box, 5, Code.NOT_ALLOWED, epoch=3)
    assert isinstance(behind, Failed)
    assert behind.unknown


def test_what_was_accepted_cannot_fail_any_more() -> None:
    box = sent_again()
    assert refuse(box, 1, Code.NOT_A_MEMBER, lane=2) == []
    assert sent(box, 2) == []
    assert len(box) == 1


def test_what_was_accepted_and_is_too_old_to_be_accepted_again_is_released() -> None:
    """Its origin may be folded and forgotten: then no watermark ever names it."""
    box = filled(ROOM)
    sent(box)
    ack(box, 1)
    box.close(1)
    box.open(2, Vector())
    assert sent(box, lane=2) == [1]
    [released] = refuse(box, 1, Code.STAMP_TOO_OLD, lane=2)
    assert isinstance(released, Released)
    assert not len(box)
    assert box.replicated(Vector({("here-1", 0): 1})) == []


def test_not_yet_defers_its_conversation_and_lets_others_pass() -> None:
    box = filled(ROOM, OTHER, ROOM)
    sent(box)
    (kept,) = refuse(box, 1, Code.NOT_YET)
    assert isinstance(kept, Kept)
    assert not kept.whole_lane
    assert sent(box) == [2]
    assert box.wake_at(1, 0.0) == kept.until_s
    assert sent(box, now=kept.until_s) == [1, 3]


def test_not_yet_waits_longer_each_time_up_to_a_bound() -> None:
    box = filled(ROOM)
    waits, now = [], 0.0
    for epoch in range(1, 12):
        sent(box, now=now)
        seq = epoch
        (kept,) = box.refused(1, epoch, seq, Code.NOT_YET, "", 0, now, chance=0.999)
        assert isinstance(kept, Kept)
        waits.append(kept.until_s - now)
        now = kept.until_s
    assert waits == sorted(waits)
    assert waits[0] < 0.06
    assert 1.9 < waits[-1] <= 2


@pytest.mark.parametrize("code", [Code.OVERLOADED, Code.LOG_FULL])
def test_overload_pauses_the_lane_as_long_as_the_node_says_and_bars_hedges(code: Code) -> None:
    box = filled(ROOM, OTHER)
    sent(box)
    (kept,) = refuse(box, 1, code, after_ms=700)
    assert isinstance(kept, Kept)
    assert kept.until_s == 0.7
    assert sent(box, now=0.69) == []
    assert box.overloaded(1)
    assert sent(box, now=0.7) == [1, 2]
    ack(box, 3)
    assert not box.overloaded(1)


# ---------------------------------------------------------------- bounds, receipts, restart


def test_at_the_cap_the_oldest_accepted_event_is_released_by_name() -> None:
    box = filled(ROOM, ROOM, cap=2)
    sent(box)
    ack(box, 2)
    _, released = box.add(event(3))
    assert [d.pending.event.hlc for d in released if isinstance(d, Released)] == [2]
    with pytest.raises(Refused) as refused:
        box.add(event(4))
    assert refused.value.code == Code.OVERLOADED


def test_acks_without_watermarks_do_not_pile_up() -> None:
    box = Outbox(cap=10)
    box.open(1, Vector())
    for n in range(1, 5000):
        pending, _ = box.add(event(n))
        box.durable(pending.number)
        sent(box)
        ack(box, n)
    assert len(box) == 10
    assert sum(len(heap) for heap in box._awaiting.values()) < 1100


def test_a_receipt_goes_with_its_stream() -> None:
    box = filled()
    box.open(2, Vector())
    pending, _ = box.add(event(1), lane=1)
    box.durable(pending.number)
    assert sent(box, 2) == []
    assert sent(box, 1) == [1]
    assert box.waiting_since(1) is None
    assert box.close(1) == [Dropped(pending, refused=False)]
    assert len(box) == 0


def test_what_an_earlier_process_left_is_sent_first_and_may_have_been_written() -> None:
    box = Outbox()
    box.restore([(7, event(1), ()), (9, event(2), (HERE,))])
    box.open(1, Vector({("here-1", 0): 1}))
    pending, _ = box.add(event(3))
    assert pending.number == 10
    box.durable(10)
    assert sent(box) == [1, 3]
    (failed,) = refuse(box, 1, Code.NOT_A_MEMBER)
    assert isinstance(failed, Failed)
    assert failed.unknown
    assert [type(d) for d in box.replicated(Vector({("here-1", 0): 1}))] == [Replicated]


def test_waiting_is_counted_from_the_oldest_unacknowledged_event() -> None:
    box = filled(ROOM, ROOM)
    assert box.waiting_since(1) is None
    sent(box, now=5.0)
    ack(box, 1)
    assert box.waiting_since(1) == 5.0
    ack(box, 2)
    assert box.waiting_since(1) is None


# ---------------------------------------------------------------- any schedule


@dataclass
class FakeNode:
    """A node as R10 has it: checks in order, a queue before the log, the rest of a refused epoch is dropped."""

    origin: str
    base: Vector  # what it covered when the stream opened
    log: list[Event]  # of the origin; outlives the node
    queue: deque[tuple[int, int, Event]] = field(default_factory=deque)
    answers: deque[tuple[str, int, int, Code | int]] = field(default_factory=deque)
    dead_epoch: int = 0
    never: set[int] = field(default_factory=set)  # what it has refused for good

    def refuse(self, epoch: int, seq: int, code: Code) -> None:
        if epoch > self.dead_epoch:
            self.dead_epoch = epoch
            self.answers.append(("refuse", epoch, seq, code))


DEFINITE = st.sampled_from([Code.NOT_ALLOWED, Code.NOT_A_MEMBER, Code.TOO_LARGE])
FOR_NOW = st.sampled_from([Code.NOT_YET, Code.OVERLOADED, Code.DRAINING])
AT_LOG = st.sampled_from([Code.LOG_FULL, Code.UNKNOWN_OUTCOME])


class AnySchedule(RuleBasedStateMachine):
    """Two origins, up to three streams, and every order of sends, answers, refusals, breaks and watermarks."""

    def __init__(self) -> None:
        super().__init__()
        self.box = Outbox(cap=1000, window=8)
        self.now = 0.0
        self.count = 0
        self.logs: dict[str, list[Event]] = {"here-1": [], "there-1": []}
        self.nodes: dict[int, FakeNode] = {}
        self.lanes = 0
        self.accepted: set[int] = set()
        self.failed: set[int] = set()  # definitely
        self.unknown: set[int] = set()
        self.scopes: dict[int, bytes] = {}

    def decided(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            if isinstance(decision, Accepted):
                assert decision.pending.event.hlc not in self.accepted | self.failed | self.unknown
                self.accepted.add(decision.pending.event.hlc)
            if isinstance(decision, Failed):
                hlc = decision.pending.event.hlc
                assert hlc not in self.accepted | self.failed | self.unknown
                (self.unknown if decision.unknown else self.failed).add(hlc)

    @rule(scope=st.sampled_from([ROOM, OTHER]))
    def post(self, scope: bytes) -> None:
        self.count += 1
        pending, _ = self.box.add(event(self.count, scope))
        self.scopes[self.count] = scope
        self.box.durable(pending.number)

    @precondition(lambda self: len(self.nodes) < 3)
    @rule(origin=st.sampled_from(["here-1", "there-1"]), here=st.integers(0, 20), there=st.integers(0, 20))
    def open(self, origin: str, here: int, there: int) -> None:
        self.lanes += 1
        held = {"here-1": here, "there-1": there}
        vector = Vector({(o, 0): min(n, len(self.logs[o])) for o, n in held.items()})
        vector.advance(origin, 0, len(self.logs[origin]))
        self.nodes[self.lanes] = FakeNode(origin, vector, self.logs[origin])
        self.box.open(self.lanes, vector)

    @precondition(lambda self: self.nodes)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from(sorted(self.nodes)))
        node = self.nodes.pop(lane)
        if data.draw(st.booleans()):  # the log may still get what was queued
            for epoch, _, one in node.queue:
                if epoch > node.dead_epoch:
                    self.append(node, one)
        self.decided(self.box.close(lane))

    @precondition(lambda self: self.nodes)
    @rule(data=st.data(), definite=DEFINITE, for_now=FOR_NOW)
    def send(self, data: st.DataObject, definite: Code, for_now: Code) -> None:
        lane = data.draw(st.sampled_from(sorted(self.nodes)))
        node = self.nodes[lane]
        frame = self.box.take(lane, self.now, max_bytes=60)
        if frame is None:
            return
        for seq, one in enumerate(frame.events, frame.first_seq):
            assert one.hlc not in self.failed | self.unknown, "sent again after it was given up"
            if frame.epoch <= node.dead_epoch:
                return
            check = data.draw(st.sampled_from(["good"] * 6 + ["never", "later"]))
            if check == "good":
                node.queue.append((frame.epoch, seq, one))
            else:
                node.refuse(frame.epoch, seq, definite if check == "never" else for_now)
                node.never |= {one.hlc} if check == "never" else set()

    @precondition(lambda self: any(node.queue for node in self.nodes.values()))
    @rule(data=st.data(), code=AT_LOG, well=st.sampled_from([True] * 5 + [False]), wrote=st.booleans())
    def commit(self, data: st.DataObject, code: Code, well: bool, wrote: bool) -> None:
        node = self.nodes[data.draw(st.sampled_from([n for n in sorted(self.nodes) if self.nodes[n].queue]))]
        epoch, seq, one = node.queue.popleft()
        if epoch <= node.dead_epoch:
            return
        if well:
            node.answers.append(("ack", epoch, seq, self.append(node, one)))
            return
        if code == Code.UNKNOWN_OUTCOME and wrote:
            self.append(node, one)
        node.refuse(epoch, seq, code)

    def append(self, node: FakeNode, one: Event) -> int:
        """Write it. In order or not at all: everything earlier is there, or failed, or is replicated, or was given up
        as unknown; or has its place in another region's log, and this node will never take it."""
        earlier = [n for n, s in self.scopes.items() if n < one.hlc and s == one.scope]
        there = {e.hlc for e in node.log}
        for origin, position in ((k[0], p) for k, p in node.base):
            there |= {e.hlc for e in self.logs[origin][:position]}
        left = {p.event.hlc for p in self.box.pending}
        excused = self.failed | self.unknown | (self.accepted & node.never)
        for n in earlier:
            assert n in there | excused or n not in left, f"{one.hlc} before {n}"
        node.log.append(one)
        return len(node.log)

    @precondition(lambda self: any(node.answers for node in self.nodes.values()))
    @rule(data=st.data(), chance=st.floats(0, 0.99))
    def answer(self, data: st.DataObject, chance: float) -> None:
        lane = data.draw(st.sampled_from([n for n in sorted(self.nodes) if self.nodes[n].answers]))
        node = self.nodes[lane]
        kind, epoch, seq, what = node.answers.popleft()
        if kind == "ack":
            self.decided(self.box.acked(lane, node.origin, [seq], [0], [int(what)]))
        else:
            assert isinstance(what, Code)
            self.decided(self.box.refused(lane, epoch, seq, what, "", 0, self.now, chance))

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(origin=st.sampled_from(["here-1", "there-1"]), share=st.floats(0, 1))
    def watermark(self, origin: str, share: float) -> None:
        self.decided(self.box.replicated(Vector({(origin, 0): int(len(self.logs[origin]) * share)})))

    @invariant()
    def nothing_is_lost(self) -> None:
        held = {p.event.hlc for p in self.box.pending}
        assert set(range(1, self.count + 1)) == held | self.accepted | self.failed | self.unknown
        written = {e.hlc for log in self.logs.values() for e in log}
        assert not self.failed & written, "said to have failed definitely, and yet written"
        assert self.accepted <= written

    def teardown(self) -> None:
        """At the end a healthy node answers, and everything that waits is accepted."""
        for lane in sorted(self.nodes):
            self.decided(self.box.close(lane))
        self.nodes.clear()
        self.lanes += 1
        node = FakeNode("here-1", Vector({("here-1", 0): len(self.logs["here-1"])}), self.logs["here-1"])
        self.box.open(self.lanes, node.base)
        while (frame := self.box.take(self.lanes, self.now)) is not None:
            seqs = range(frame.first_seq, frame.first_seq + len(frame.events))
            positions = [self.append(node, one) for one in frame.events]
            self.decided(self.box.acked(self.lanes, "here-1", seqs, [0] * len(seqs), positions))
        assert all(p.accepted for p in self.box.pending)
        self.nothing_is_lost()
        order = [e.hlc for e in self.logs["here-1"]]
        self.decided(self.box.replicated(Vector({("here-1", 0): len(order)})))


TestAnySchedule = AnySchedule.TestCase
TestAnySchedule.settings = settings(max_examples=200, stateful_step_count=80, deadline=None)


@given(st.lists(st.tuples(st.sampled_from([ROOM, OTHER]), st.integers(1, 60)), max_size=40), st.integers(1, 200))
def test_frames_carry_everything_in_order_whatever_their_size(events: list[tuple[bytes, int]], room: int) -> None:
    box = Outbox()
    box.open(1, Vector())
    for n, (scope, size) in enumerate(events, 1):
        box.durable(box.add(event(n, scope, size))[0].number)
    out: list[int] = []
    while (send := box.take(1, 0, room)) is not None:
        assert send.first_seq == len(out) + 1
        assert len(send.events) == 1 or sum(len(e.raw) + 8 for e in send.events) <= room
        out += [e.hlc for e in send.events]
    assert out == list(range(1, len(events) + 1))
