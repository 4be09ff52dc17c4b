"""Stories of a node that has less than the session that comes to it (R7, P3)."""

from __future__ import annotations

import asyncio

import pytest

from evertalk.adapters.wire import decode_vector
from evertalk.chatnode.had import LAG_S
from evertalk.core import limits
from evertalk.core.ids import shard_of
from evertalk.core.model import Role
from evertalk.core.vector import Vector
from tests.adapters.store_helpers import ANNA, BORIS, ROOM, SHARDS, Pen
from tests.chatnode.world import BUSAN, DORA, Desk, Gate, club

#: What busan has said in the room.
THERE = (BUSAN, shard_of(ROOM, SHARDS))


def ahead(d: Desk, position: int = 1) -> Vector:
    """All that is here, and what busan has said in the room up to there."""
    have = d.node.fanned.copy()
    have.absorb(Vector({THERE: position}))
    return have


async def test_a_go_away_names_no_shard_in_which_this_node_lags(d: Desk, pen: Pen) -> None:
    anna = await d.opened(ANNA, have=ahead(d))
    in_room = await d.wrote(pen.message("in the room", BORIS))
    in_club = await d.wrote(club(pen.message("in the club", BORIS)))
    await anna.sees("in the club")
    draining = asyncio.create_task(d.hub.drain(20.0))
    await anna.until(lambda: anna.frames[-1].HasField("go_away"))
    said = anna.have()
    said.merge(decode_vector(anna.frames[-1].go_away.marker))
    assert said.reaches(in_club)
    assert not said.reaches(in_room)
    await anna.hang_up()
    await draining


async def test_what_was_queued_before_a_pass_comes_once_and_what_have_names_comes_too(
    d: Desk, pen: Pen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No page brings what `have` names: from a node where she was out; here she has never been."""
    await d.wrote(pen.membership(DORA, Role.MEMBER, 1))
    gate = Gate(monkeypatch, d.node, "wait_for")
    dora = await d.opened(DORA, have=ahead(d, 2))
    await gate.reached.wait()
    await d.wrote(pen.membership(DORA, Role.MEMBER, 3), pen.message("meanwhile", BORIS))
    await d.wrote(pen.membership(DORA, Role.NONE, 2), pen.message("while she was out", BORIS), origin=BUSAN)
    gate.open.set()
    await dora.sees("while she was out")
    assert dora.texts() == ["meanwhile", "while she was out"]


async def test_what_have_names_is_kept_also_where_the_queue_overflows_amid_a_resume(
    d: Desk, pen: Pen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass that follows brings the rest of the queue, and not this."""
    monkeypatch.setattr(limits, "SESSION_QUEUE_BYTES", 4000)
    await d.wrote(pen.membership(DORA, Role.MEMBER, 1))
    gate = Gate(monkeypatch, d.store, "resume", after=True)
    dora = await d.opened(DORA, have=ahead(d, 2))
    await gate.reached.wait()
    await d.wrote(pen.membership(DORA, Role.MEMBER, 3))
    await d.wrote(pen.membership(DORA, Role.NONE, 2), pen.message("while she was out", BORIS), origin=BUSAN)
    burst = [f"{n} " + "x" * 1000 for n in range(5)]
    await d.wrote(*(pen.message(text, BORIS) for text in burst))
    gate.open.set()
    await dora.sees("while she was out")
    assert dora.texts() == [*burst, "while she was out"]


async def test_what_never_comes_holds_markers_back_for_a_while_only_also_where_nothing_is_said(
    d: Desk, pen: Pen, monkeypatch: pytest.MonkeyPatch
) -> None:
    anna = await d.opened(ANNA, have=ahead(d))
    said = await d.wrote(pen.message("in the room", BORIS))
    await anna.sees("in the room")
    later = d.clock.monotonic() + LAG_S + 1
    monkeypatch.setattr(d.clock, "monotonic", lambda: later)
    d.hub.beat_all()
    await anna.until(lambda: anna.have().reaches(said))
