"""Stories of crowds at a node's door: who is in goes first, who comes waits or is told when to come again."""

from __future__ import annotations

import asyncio

import pytest

from evertalk.chatnode import door
from evertalk.core.errors import Code
from tests.adapters.store_helpers import ANNA, BORIS, CHLOE, Pen
from tests.chatnode.world import DORA, Desk, signed


async def test_who_is_in_is_answered_and_heard_before_the_last_of_a_crowd_has_come_in(d: Desk, pen: Pen) -> None:
    """A hello takes the lock that apply takes: commits wait for apply, and apply for nobody but those let in."""
    anna, chloe = await d.opened(ANNA), await d.opened(CHLOE)
    anna.say(signed(pen.message("so that the room is known"), anna))
    await anna.answered(1)
    crowd = [d.call(BORIS) for _ in range(20 * door.AT_ONCE)]
    await crowd[0].greeted()
    anna.say(signed(pen.message("amid the crowd"), anna), first_seq=2)
    await anna.answered(2)
    await chloe.sees("amid the crowd")
    assert not crowd[-1].frames
    for one in crowd:
        await one.greeted()
    assert len(d.hub) == len(crowd) + 2


async def test_who_finds_too_many_waiting_is_told_when_to_come_again_and_comes_in_then(
    d: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "TURN_S", 60.0)
    monkeypatch.setattr(door, "WAITING", 2)
    async with d.node.writing:  # so that no hello is through
        first = [d.call(BORIS) for _ in range(door.AT_ONCE)]
        waiting = [d.call(CHLOE) for _ in range(2)]
        now = d.clock.monotonic()
        monkeypatch.setattr(d.clock, "monotonic", lambda: now)  # retry_after_ms counts from it
        sent_away = [await d.call(DORA).ended() for _ in range(3)]
        assert not any(line.frames for line in first + waiting)
    assert {r.code for r in sent_away} == {Code.OVERLOADED}
    times = [r.retry_after_ms for r in sent_away]
    assert 0 < times[0] < times[1] < times[2]  # not all at once again
    for line in first + waiting:
        await line.greeted()
    assert (await d.opened(DORA)).frames


async def test_who_leaves_while_it_waits_keeps_nobody_out(d: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "TURN_S", 60.0)
    arrived = asyncio.Event()
    async with d.node.writing:
        first = [d.call(BORIS) for _ in range(door.AT_ONCE)]
        waiting = [d.call(CHLOE) for _ in range(5)]
        last = d.call(DORA)
        asyncio.get_running_loop().call_soon(arrived.set)
        await arrived.wait()  # one round of the loop: all of them are at the door
        for line in (*first, *waiting):
            line.close()
    await last.greeted()
    assert len(d.hub) == 1


async def test_a_client_that_does_not_read_its_hello_holds_its_turn_only_for_a_moment(
    d: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "TURN_S", 0.01)
    stalled = [d.call(BORIS) for _ in range(2 * door.AT_ONCE)]
    for line in stalled:
        line.reading.clear()
    assert (await d.opened(ANNA)).frames
    assert not any(line.frames for line in stalled)


async def test_a_thousand_heartbeats_do_not_hold_up_what_is_said(d: Desk, pen: Pen) -> None:
    anna, boris = await d.opened(ANNA), await d.opened(BORIS)
    anna.say(signed(pen.message("so that the room is known"), anna))
    await anna.answered(1)
    crowd = [await d.opened(DORA) for _ in range(200)]
    d.hub.beat_all()
    anna.say(signed(pen.message("meanwhile"), anna), first_seq=2)
    await boris.sees("meanwhile")
    assert not any(f.HasField("heartbeat") for f in crowd[-1].frames)
    for one in crowd:
        await one.until(lambda one=one: one.frames[-1].HasField("heartbeat"))  # type: ignore[misc]
