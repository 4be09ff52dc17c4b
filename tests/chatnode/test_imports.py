"""Stories of what an import brings: who is told of it, when, how often, and what if it breaks off."""

from __future__ import annotations

import pytest

from evertalk.adapters.wire import encode_event
from evertalk.core.clock import pack
from evertalk.core.errors import Code, StoreError
from evertalk.core.ids import shard_of
from evertalk.core.model import Event, Message, Role, Row
from evertalk.core.vector import Vector
from tests.adapters.store_helpers import ANNA, BORIS, CHLOE, NOW_MS, ROOM, SHARDS, Pen
from tests.chatnode.world import Desk, club

#: Of busan, and not mirrored here.
FAR = ("busan-01B", shard_of(ROOM, SHARDS))


def row(event: Event, position: int = 1) -> Row:
    """As another store exports it."""
    return Row(event, pack(NOW_MS), ((FAR[0], position),))


async def brings(d: Desk, *rows: Row, source: str = "busan-1") -> None:
    """A page of an import that does not come to its end."""
    async with d.node.writing:
        await d.tailer.import_rows(list(rows), source=source)


async def ends(d: Desk, vector: Vector, source: str = "busan-1") -> None:
    async with d.node.writing:
        await d.store.finish_import(source, "life", 1, vector, ())
        await d.tailer.import_finished(source)


async def next_round(d: Desk) -> None:
    """What broke off is handed out."""
    async with d.node.writing:
        await d.tailer.hand_out()


async def test_who_is_taken_back_is_not_taken_for_a_member_by_an_import_that_broke_off_when_nobody_was_here(
    d: Desk, pen: Pen
) -> None:
    """Who was in was noted with the page, and that she left since was told to nobody (R13)."""
    boris = await d.opened(BORIS)
    await brings(d, row(pen.membership(CHLOE, Role.ADMIN, 1)))
    await boris.hang_up()
    await d.wrote(pen.membership(CHLOE, Role.NONE, 2), pen.message("while she is out", BORIS))
    chloe = await d.opened(CHLOE)
    await d.wrote(pen.membership(CHLOE, Role.MEMBER, 3))
    await d.wrote(pen.message("welcome"))
    await chloe.sees("welcome")
    assert chloe.texts() == ["while she is out", "welcome"]


async def test_who_cannot_be_told_what_an_import_brought_is_cut_and_finds_it_when_she_is_back(
    d: Desk, pen: Pen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is written: markers will pass it, and no other import brings it again."""
    anna = await d.opened(ANNA)
    await brings(d, row(pen.message("said in busan", BORIS)))

    async def fails(scope: bytes) -> None:
        raise StoreError("the disk does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(d.store, "conversation", fails)
        await ends(d, Vector({FAR: 1}))
    assert (await anna.ended()).code is Code.CATCHING_UP
    back = await d.opened(ANNA, anna.session, anna.have())
    await back.sees("said in busan")
    await d.wrote(pen.message("later", BORIS))
    await back.sees("later")
    assert back.texts() == ["said in busan", "later"]


async def test_who_opens_behind_an_import_that_broke_off_is_brought_it_although_another_has_ended_since(
    d: Desk, pen: Pen
) -> None:
    """Its rows are in the store, and the vector passes them when the same source comes to its end (R9)."""
    await brings(d, row(pen.message("said in busan", BORIS)), source="busan-1")
    await next_round(d)
    await brings(d, source="seoul-2")
    await ends(d, Vector(), source="seoul-2")
    assert d.node.importing
    anna = await d.opened(ANNA)
    await ends(d, Vector({FAR: 1}), source="busan-1")
    assert not d.node.importing
    await anna.sees("said in busan")
    await d.wrote(pen.message("later", BORIS))
    await anna.sees("later")
    assert anna.texts() == ["said in busan", "later"]


async def test_an_answer_is_marked_if_the_import_breaks_off_before_its_question(d: Desk, pen: Pen) -> None:
    anna = await d.opened(ANNA)
    answer = encode_event(pen.message("answer", BORIS)._replace(need=((FAR[0], 1),)))
    async with d.node.writing:
        copies = (("busan-01C", 1),)
        await d.tailer.import_rows([Row(answer, pack(NOW_MS), copies)], coming=Vector({FAR: 1}), source="busan-1")
    await next_round(d)
    await anna.sees("answer")
    assert [a.parent_missing for a in anna.shown() if isinstance(a.event.body, Message)] == [True]


async def test_what_the_log_brings_behind_an_import_is_told_once(d: Desk, pen: Pen) -> None:
    anna = await d.opened(ANNA)
    both = pen.message("in both", BORIS)
    await brings(d, row(both))
    await d.wrote(both)
    await anna.sees("in both")
    await ends(d, Vector({FAR: 1}))
    await d.wrote(pen.message("later", BORIS))
    await anna.sees("later")
    assert anna.texts() == ["in both", "later"]


async def test_what_she_was_shown_of_the_logs_copy_does_not_come_again_with_the_imports(d: Desk, pen: Pen) -> None:
    """Her token may have let go of it (P3); she comes from a neighbour that has read further."""
    own = (d.region.origin, shard_of(ROOM, SHARDS))
    have = d.node.fanned.copy()
    have.advance(*own, have[own] + 1)
    anna = await d.opened(ANNA, have=have)
    await anna.until(lambda: any(f.HasField("marker") for f in anna.frames))  # nothing is missed
    both = pen.message("shown elsewhere", BORIS)
    await brings(d, row(both))
    await d.wrote(both)
    await d.wrote(pen.message("new", BORIS))
    await anna.sees("new")
    assert set(anna.texts()) == {"new"}  # maybe live and by the pass after catching up


async def test_two_that_bear_the_same_name_are_both_told(d: Desk, pen: Pen) -> None:
    """A client that numbers anew in every conversation, say."""
    anna = await d.opened(ANNA)
    said = pen.message("said in busan", BORIS)
    await brings(d, row(said), row(club(said)))
    await next_round(d)
    await d.wrote(pen.message("later", BORIS))
    await anna.sees("later")
    scopes = [a.event.scope for a in anna.shown() if a.event.id == said.id]
    assert set(scopes) == {said.scope, club(said).scope}
    assert len(scopes) == 2
