"""Stories of sends at one node: in order or not at all, acknowledged where they lie, refused by name (R10, R1)."""

from __future__ import annotations

import pytest

from evertalk.core import limits
from evertalk.core.clock import pack
from evertalk.core.errors import Code, LogFull, LogOutcomeUnknown, Refused
from evertalk.core.ids import group_scope
from evertalk.core.model import Kind, Message
from tests.adapters.store_helpers import ANNA, BORIS, NOW_MS, Pen
from tests.chatnode.world import PATIENCE_S, Desk, Gate, signed


async def test_sends_are_appended_in_order_and_acknowledged_where_they_lie(d: Desk, pen: Pen) -> None:
    anna = await d.opened(ANNA)
    said = [signed(pen.message(f"m{n}"), anna) for n in range(50)]
    anna.say(*said[:20])
    anna.say(*said[20:], first_seq=21)
    await anna.answered(50)
    lies = {event.id: (key[1], position) for key, position, event in d.region.events()}
    assert [anna.acks()[n + 1] for n in range(50)] == [lies[e.id] for e in said]
    assert [e.id for _, _, e in d.region.events() if e in said] == [e.id for e in said]


async def test_after_a_refusal_the_rest_of_the_epoch_is_dropped_and_the_next_one_taken(d: Desk, pen: Pen) -> None:
    anna = await d.opened(ANNA)
    first, bad, behind = (signed(pen.message(text), anna) for text in ("first", "", "behind"))
    anna.say(first)
    await anna.answered(1)
    anna.say(bad, behind, first_seq=2)
    anna.say(signed(pen.message("further behind"), anna), first_seq=4)
    await anna.until(anna.refusals)
    anna.say(behind, epoch=2, first_seq=5)
    await anna.answered(5)
    assert anna.refusals() == [(1, 2, Code.MALFORMED)]
    assert set(anna.acks()) == {1, 5}
    said = [e.body.text for _, _, e in d.region.events() if isinstance(e.body, Message)]
    assert said == ["first", "behind"]


async def test_nothing_overtakes_an_event_that_redis_had_no_memory_for(d: Desk, pen: Pen) -> None:
    anna, boris = await d.opened(ANNA), await d.opened(BORIS)
    d.region.open.clear()
    d.region.next = [LogFull("no memory")]
    said = [signed(pen.message(f"m{n}"), anna) for n in range(3)]
    anna.say(said[0])
    anna.say(said[1], said[2], first_seq=2)
    d.region.open.set()
    await anna.until(anna.refusals)
    boris.say(signed(pen.message("meanwhile"), boris))
    await boris.answered(1)
    epoch, seq, code = anna.refusals()[0]
    assert (epoch, seq, code) == (1, 1, Code.LOG_FULL)
    anna.say(*said, epoch=2, first_seq=4)
    await anna.answered(6)
    await boris.sees("m2")
    assert boris.texts() == ["m0", "m1", "m2"]
    assert d.node.origin == d.region.origin


async def test_an_unknown_outcome_ends_every_stream_by_name_and_the_node_claims_again(d: Desk, pen: Pen) -> None:
    anna, boris = await d.opened(ANNA), await d.opened(BORIS)
    d.region.next = [LogOutcomeUnknown("the connection broke")]
    anna.say(signed(pen.message("was it written?"), anna))
    assert (await anna.ended()).code is Code.NEW_ORIGIN
    assert (await boris.ended()).code is Code.NEW_ORIGIN
    assert not anna.acks()
    again = await d.opened(ANNA, anna.session)
    again.say(signed(pen.message("this is"), again))
    await again.answered(1)


async def test_commits_wait_for_a_tail_that_is_too_many_events_behind(
    d: Desk, pen: Pen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few entries they lie in: else acknowledgements outrun deliveries without end."""
    monkeypatch.setattr("evertalk.chatnode.batcher._LAG_EVENTS", 10)
    monkeypatch.setattr(limits, "NEED_WAIT_S", PATIENCE_S)
    anna = await d.opened(ANNA)
    tail, waiting = Gate(monkeypatch, d.region, "read"), Gate(monkeypatch, d.node.progress, "wait")
    anna.say(signed(pen.message("wakes the tail, which then stands still"), anna))
    await tail.reached.wait()
    said = [signed(pen.message(f"m{n}"), anna) for n in range(12)]
    anna.say(*said[:11], first_seq=2)
    await anna.answered(12)
    anna.say(said[11], first_seq=13)
    await waiting.reached.wait()
    assert 13 not in anna.acks()
    waiting.open.set()
    tail.open.set()
    await anna.answered(13)


async def test_sends_of_no_epoch_are_answered_too(d: Desk, pen: Pen) -> None:
    """The first epoch is 1; a client that counts from 0 must not wait for ever for a word."""
    anna = await d.opened(ANNA)
    anna.say(signed(pen.message("counted from nought"), anna), epoch=0)
    anna.say(signed(pen.message("counted from one"), anna), epoch=1, first_seq=2)
    ended: Refused | None = None
    try:
        await anna.answered(2)
    except Refused as refused:
        ended = refused
    told = [code for _, _, code in anna.refusals()] + ([ended.code] if ended else [])
    assert 1 in anna.acks() or told == [Code.MALFORMED]


async def test_a_conversation_whose_creation_was_dropped_does_not_exist(d: Desk, pen: Pen) -> None:
    anna, boris = await d.opened(ANNA), await d.opened(BORIS)
    creation = pen.conversation((ANNA, BORIS))
    room = group_scope(ANNA, creation.id)
    anna.say(signed(creation._replace(scope=room), anna), b"junk")
    await anna.until(anna.refusals)
    assert not anna.acks()
    await anna.hang_up()
    boris.say(signed(pen.write(Kind.MESSAGE, BORIS, Message("into the void"), scope=room), boris))
    await boris.until(lambda: boris.refusals() or boris.acks())
    assert boris.refusals() == [(1, 1, Code.UNKNOWN_CONVERSATION)]


async def test_nobody_drags_region_time_along_with_stamps_from_the_future(d: Desk, pen: Pen) -> None:
    """Each stamp may lie 60 s ahead; what was accepted of one client must not move the bound for the next stamp.

    Else a client moves everybody's clock 60 s a message, until honest stamps are older than 30 days.
    """
    anna, boris = await d.opened(ANNA), await d.opened(BORIS)
    for n in range(1, 4):
        ahead = pen.message(f"from the future {n}", hlc=pack(NOW_MS + n * (limits.BOUND_MS - 1000)))
        anna.say(signed(ahead, anna), epoch=n, first_seq=n)
        await anna.until(lambda n=n: n in anna.acks() or anna.refusals())  # type: ignore[misc]
        if anna.refusals():
            break
        await boris.sees(f"from the future {n}")
        boris.say(signed(pen.message(f"meanwhile {n}", BORIS), boris), first_seq=n)
        await anna.sees(f"meanwhile {n}")
    assert anna.refusals() == [(2, 2, Code.STAMP_AHEAD)]
    assert d.node.region_time_ms() <= d.clock.wall_ms() + limits.BOUND_MS
