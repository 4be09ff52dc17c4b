"""Stories of live sessions at one node: what they are told, in which order, and what markers may say."""

from __future__ import annotations

import asyncio

import pytest

from evertalk.adapters.wire import decode_entry, decode_vector, encode_event
from evertalk.chatnode.had import LAG_S
from evertalk.core import limits
from evertalk.core.board import Watermark
from evertalk.core.clock import pack
from evertalk.core.errors import Code
from evertalk.core.ids import group_scope, shard_of
from evertalk.core.model import Message, Role, Row
from evertalk.core.vector import Hole, Vector
from tests.adapters.store_helpers import ANNA, BORIS, CHLOE, NOW_MS, ROOM, SHARDS, Pen
from tests.chatnode.world import BUSAN, DORA, Desk, Gate, club, signed

# ---------------------------------------------------------------- deliveries and markers


async def test_members_are_told_and_others_are_not(d: Desk, pen: Pen) -> None:
    anna, boris, chloe = [await d.opened(who) for who in (ANNA, BORIS, CHLOE)]
    await d.wrote(club(pen.message("in the club")), pen.message("in the room"))
    await anna.sees("in the room")
    await boris.sees("in the room")
    await chloe.sees("in the room")
    assert anna.texts() == boris.texts() == ["in the club", "in the room"]
    assert chloe.texts() == ["in the room"]


async def test_a_session_is_not_told_what_it_said_but_the_accounts_other_sessions_are(d: Desk, pen: Pen) -> None:
    phone, desktop = await d.opened(ANNA), await d.opened(ANNA)
    phone.say(signed(pen.message("from my phone"), phone))
    await desktop.sees("from my phone")
    await phone.answered(1)
    await d.wrote(pen.message("later", BORIS))
    await phone.sees("later")
    assert phone.texts() == ["later"]


async def test_nobody_hides_a_message_by_putting_the_readers_session_on_it(d: Desk, pen: Pen) -> None:
    """Sessions are no secret: every event carries its author's."""
    anna = await d.opened(ANNA)
    hidden = encode_event(pen.message("hidden", BORIS)._replace(session=anna.session))
    await d.wrote(hidden)
    await d.wrote(pen.message("plain", BORIS))
    await anna.sees("plain")
    assert anna.texts() == ["hidden", "plain"]
    await anna.hang_up()
    back = await d.opened(ANNA, anna.session, anna.have_at_hello())
    await back.sees("plain")
    assert back.texts() == ["hidden", "plain"]


async def test_a_marker_comes_behind_the_last_event_and_passes_nothing(d: Desk, pen: Pen) -> None:
    anna = await d.opened(ANNA)
    anna.reading.clear()  # so that several frames are needed for what waits
    said = [pen.message(f"{n} " + "x" * 8000, BORIS) for n in range(100)]
    reached = await d.wrote(*said, *(club(pen.message(f"{n} in the club", BORIS)) for n in range(100)))
    anna.reading.set()
    await anna.sees("99 in the club")
    d.hub.beat_all()
    await anna.until(lambda: anna.have().reaches(reached))
    assert anna.skipped(*said) == []
    assert len(anna.texts()) == 200
    assert sum(bool(f.deliveries) for f in anna.frames) > 2


async def test_a_heartbeat_amid_a_fan_out_carries_no_marker_beyond_it(
    d: Desk, pen: Pen, monkeypatch: pytest.MonkeyPatch
) -> None:
    anna = await d.opened(ANNA)
    await d.wrote(pen.message("so that the room is known", BORIS))
    gate = Gate(monkeypatch, d.store, "conversation")
    first, second = pen.message("handed out already", BORIS), club(pen.message("not yet handed out", BORIS))
    d.region.write(first, second)
    await gate.reached.wait()
    d.hub.beat_all()
    await anna.until(lambda: anna.frames[-1].HasField("heartbeat"))
    gate.open.set()
    await anna.sees("not yet handed out")
    assert anna.skipped(first, second) == []


async def test_a_session_that_opens_amid_a_fan_out_misses_nothing_that_markers_pass(
    d: Desk, pen: Pen, monkeypatch: pytest.MonkeyPatch
) -> None:
    chloe = await d.opened(CHLOE)
    await d.wrote(pen.message("so that the room is known", BORIS))
    gate = Gate(monkeypatch, d.store, "conversation")
    first, second = pen.message("handed out already", BORIS), club(pen.message("not yet handed out", BORIS))
    d.region.write(first, second)
    await gate.reached.wait()
    calling = d.call(ANNA)
    await chloe.sees("handed out already")
    gate.open.set()
    await calling.greeted()
    await d.wrote(pen.message("later", BORIS))
    await calling.sees("later")
    d.hub.beat_all()
    await calling.until(lambda: calling.frames[-1].HasField("heartbeat"))
    assert calling.skipped(first, second) == []


async def test_a_session_that_opens_amid_an_import_misses_nothing_that_markers_pass(d: Desk, pen: Pen) -> None:
    """Pages of another store's Export are handed out one by one, and the vector moves behind the last (R9)."""
    key = ("busan-01B", shard_of(ROOM, SHARDS))
    said = pen.message("said in busan", BORIS)
    async with d.node.writing:
        rows = [Row(said, pack(NOW_MS), ((key[0], 1),))]
        await d.tailer.import_rows(rows)
    anna = await d.opened(ANNA)
    async with d.node.writing:
        await d.store.finish_import("busan-1", "life", 1, Vector({key: 1}), ())
        await d.tailer.import_finished()
    d.hub.beat_all()
    await anna.until(lambda: anna.frames[-1].HasField("heartbeat"))
    assert anna.have_at_hello()[key] or not anna.have()[key] or anna.texts() == ["said in busan"]


async def test_who_joins_gets_the_page_before_a_marker_says_so(d: Desk, pen: Pen) -> None:
    old = [pen.message(f"old {n}", BORIS) for n in range(3)]
    await d.wrote(*old)
    dora = await d.opened(DORA)
    joining = pen.membership(DORA, Role.MEMBER, 1)
    reached = await d.wrote(joining)
    reached.merge(await d.wrote(pen.message("welcome")))
    await dora.sees("welcome")
    d.hub.beat_all()
    await dora.until(lambda: dora.have().reaches(reached))
    assert dora.texts() == ["old 0", "old 1", "old 2", "welcome"]
    assert dora.skipped(joining) == []
    page_ends = next(i for i, f in enumerate(dora.frames) if any("old 2" in str(x) for x in f.deliveries))
    for frame in dora.frames[1:page_ends]:
        assert not frame.HasField("marker")


async def test_whoever_is_a_member_already_is_shown_nothing_old_when_her_role_changes(d: Desk, pen: Pen) -> None:
    """Added again, made an admin: a session that began today is not told yesterday's messages behind today's."""
    await d.wrote(*(pen.message(f"yesterday {n}", BORIS) for n in range(3)))
    fresh = await d.opened(CHLOE)
    await d.wrote(pen.message("today", BORIS))
    await fresh.sees("today")
    changes = [pen.membership(CHLOE, Role.MEMBER, 1), pen.membership(CHLOE, Role.ADMIN, 2)]
    reached = Vector()
    for change in changes:
        reached.merge(await d.wrote(change))
    await d.wrote(pen.message("later", BORIS))
    await fresh.sees("later")
    assert fresh.texts() == ["today", "later"]
    assert {c.id for c in changes} <= {a.event.id for a in fresh.shown()}
    await fresh.hang_up()
    back = await d.opened(CHLOE, fresh.session, fresh.have())
    await back.until(lambda: any(f.HasField("marker") for f in back.frames))  # it has caught up
    await d.wrote(pen.membership(CHLOE, Role.MEMBER, 3), pen.message("at last", BORIS))
    await back.sees("at last")
    assert back.texts() == ["at last"]


async def test_who_is_added_and_made_an_admin_at_one_go_gets_one_page_and_who_returns_gets_another(
    d: Desk, pen: Pen
) -> None:
    await d.wrote(pen.message("old", BORIS))
    dora = await d.opened(DORA)
    async with d.node.writing:  # both are in one batch of the store
        d.region.write(pen.membership(DORA, Role.MEMBER, 1), pen.membership(DORA, Role.ADMIN, 2))
    await d.wrote(pen.message("while she is in", BORIS))
    await dora.sees("while she is in")
    await d.wrote(pen.membership(DORA, Role.NONE, 3), pen.message("while she is out", BORIS))
    await d.wrote(pen.membership(DORA, Role.MEMBER, 4))
    await dora.sees("while she is out")
    assert dora.texts() == ["old", "while she is in", "old", "while she is in", "while she is out"]


async def test_who_joins_is_shown_answers_behind_the_page_that_has_what_they_answer(d: Desk, pen: Pen) -> None:
    """Also where the answer, the joining and what follows are in one batch of the store (R11, R13)."""
    await d.wrote(pen.message("question"))
    chloe, dora = await d.opened(CHLOE), await d.opened(DORA)
    answer = pen.message("answer", BORIS)
    changes = [pen.reaction(answer, "+", ANNA), pen.membership(DORA, Role.MEMBER, 1)]
    async with d.node.writing:
        d.region.write(answer, *changes, pen.message("welcome"))
    await dora.sees("welcome")
    await chloe.sees("welcome")
    assert dora.texts() == ["question", "answer", "welcome"]
    assert dora.shown()[0].event.id == changes[1].id
    assert [a.event.id for a in dora.shown()].count(changes[0].id) == 1
    assert chloe.texts() == ["answer", "welcome"]
    assert dora.skipped(answer, *changes) == []


@pytest.mark.parametrize("at_once", [False, True])
async def test_who_joined_is_not_brought_what_the_page_left_to_history_when_she_comes_back(
    d: Desk, pen: Pen, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    """The page has the answer and no room for its question, of another origin; it is sent before markers may pass what
    it came with (R11, R13)."""
    monkeypatch.setattr(limits, "JOIN_PAGE", 1)
    dora = await d.opened(DORA)
    question = Row(pen.message("question"), pack(NOW_MS), (("busan-01B", 1),))
    answer = Row(pen.message("answer", BORIS), pack(NOW_MS), (("busan-01C", 1),))
    joining = Row(pen.membership(DORA, Role.MEMBER, 1), pack(NOW_MS), (("busan-01C", 2),))
    shard = shard_of(ROOM, SHARDS)
    vector = Vector({("busan-01B", shard): 1, ("busan-01C", shard): 2})
    async with d.node.writing:
        await d.tailer.import_rows([question])
        if not at_once:
            await d.store.finish_import("busan-1", "life", 1, Vector({("busan-01B", shard): 1}), ())
            await d.tailer.import_finished()
        await d.tailer.import_rows([answer, joining])
        await d.tailer.hand_out()  # the import breaks off
        await dora.sees("answer")
        await d.store.finish_import("busan-1", "life", 2, vector, ())
        await d.tailer.import_finished()
    await d.wrote(pen.message("welcome"))
    await dora.sees("welcome")
    assert dora.texts() == ["answer", "welcome"]
    await dora.hang_up()
    back = await d.opened(DORA, dora.session, dora.have())
    await back.until(lambda: any(f.HasField("marker") for f in back.frames))  # it has caught up
    assert back.texts() == []


async def test_a_page_that_is_more_than_a_queue_takes_comes_whole(
    d: Desk, pen: Pen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SESSION_QUEUE_BYTES", 4000)
    dora = await d.opened(DORA)
    said = [f"{n} " + "x" * 1000 for n in range(limits.JOIN_PAGE + 1)]
    await d.wrote(*(pen.message(text, BORIS) for text in said))
    await d.wrote(pen.membership(DORA, Role.MEMBER, 1))
    await dora.sees(said[-1])
    await d.wrote(pen.message("welcome"))
    await dora.sees("welcome")
    assert dora.texts() == [*said[1:], "welcome"]


async def test_who_has_been_added_and_removed_again_since_is_shown_nothing(d: Desk, pen: Pen) -> None:
    await d.wrote(pen.message("not for dora", BORIS))
    dora = await d.opened(DORA)
    leaving = pen.membership(DORA, Role.NONE, 2)
    async with d.node.writing:  # both are in one batch of the store
        d.region.write(pen.membership(DORA, Role.MEMBER, 1), leaving)
    await dora.until(lambda: leaving.id in [a.event.id for a in dora.shown()])
    assert dora.texts() == []


async def test_who_has_left_hears_of_that_and_of_nothing_more(d: Desk, pen: Pen) -> None:
    anna, chloe = await d.opened(ANNA), await d.opened(CHLOE)
    leaving = pen.membership(CHLOE, Role.NONE, 1, sender=CHLOE)
    await d.wrote(leaving)
    await chloe.until(lambda: leaving.id in [a.event.id for a in chloe.shown()])
    behind_her_back = [pen.membership(DORA, Role.MEMBER, 1), pen.title("without chloe"), pen.message("she is gone")]
    await d.wrote(*behind_her_back)
    await anna.sees("she is gone")
    d.hub.beat_all()
    await chloe.until(lambda: chloe.frames[-1].HasField("heartbeat"))
    assert [a.event.id for a in chloe.shown()] == [leaving.id]


# ---------------------------------------------------------------- resume


async def test_a_resume_brings_what_was_missed_then_what_is_new_each_once(
    d: Desk, pen: Pen, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = await d.opened(ANNA)
    await d.wrote(pen.message("seen", BORIS))
    await line.sees("seen")
    await line.hang_up()
    await d.wrote(*(pen.message(f"missed {n}", BORIS) for n in range(3)))
    gate = Gate(monkeypatch, d.store, "resume", after=True)
    back = await d.opened(ANNA, line.session, line.have())
    await gate.reached.wait()
    reached = await d.wrote(pen.message("new", BORIS))
    gate.open.set()
    await back.sees("new")
    d.hub.beat_all()
    await back.until(lambda: back.have().reaches(reached))
    assert back.texts() == ["missed 0", "missed 1", "missed 2", "new"]


async def test_who_made_a_conversation_has_not_just_joined_it_when_she_resumes(d: Desk, pen: Pen) -> None:
    """Its creation is not sent to her, for it is her own: what busan says in it must mark the creation, too (R13)."""
    anna = await d.opened(ANNA)
    made = pen.conversation()
    made = signed(made._replace(scope=group_scope(ANNA, made.id)), anna)
    talk = Pen(made.scope, pen.number)
    anna.say(made)
    await anna.answered(1)
    shard, position = anna.acks()[1]
    await d.applied(Vector({(d.region.origin, shard): position}))
    said = await d.wrote(talk.message("said in busan", BORIS), origin=BUSAN)
    await anna.until(lambda: anna.have().reaches(said))
    await anna.hang_up()
    await d.wrote(talk.message("missed", BORIS))
    back = await d.opened(ANNA, anna.session, anna.have())
    await back.sees("missed")
    assert anna.texts() == ["said in busan"]
    assert back.texts() == ["missed"]


async def test_what_she_was_shown_elsewhere_does_not_come_again_when_this_node_catches_up(d: Desk, pen: Pen) -> None:
    """Its token may have let go of it: what is replicated and at or below `have` can come no more (P3)."""
    key = (BUSAN, shard_of(ROOM, SHARDS))
    have = d.node.fanned.copy()
    have.absorb(Vector({key: 2}, [Hole(*key, 1, 1)]))
    back = await d.opened(ANNA, have=have)
    await d.wrote(pen.message("passed over", BORIS), origin=BUSAN)
    await d.wrote(pen.message("shown elsewhere", BORIS), origin=BUSAN)
    await d.wrote(pen.message("new", BORIS), origin=BUSAN)
    await back.sees("new")
    assert "passed over" in back.texts()
    assert "shown elsewhere" not in back.texts()


async def test_what_have_had_passed_before_she_joined_comes_also_when_this_node_hears_of_it_late(
    d: Desk, pen: Pen
) -> None:
    back = await d.opened(DORA, have=Vector({(BUSAN, shard_of(ROOM, SHARDS)): 1}))
    await d.wrote(pen.membership(DORA, Role.MEMBER, 1))
    await d.wrote(pen.message("of before", BORIS), origin=BUSAN)
    await back.sees("of before")


async def test_who_was_taken_back_is_told_what_was_said_while_she_was_out_also_if_that_is_heard_of_last(
    d: Desk, pen: Pen
) -> None:
    """`have` names it, from a node where she was out; here she has never been."""
    await d.wrote(pen.membership(DORA, Role.MEMBER, 1))
    have = d.node.fanned.copy()
    have.absorb(Vector({(BUSAN, shard_of(ROOM, SHARDS)): 2}))
    back = await d.opened(DORA, have=have)
    await d.wrote(pen.membership(DORA, Role.MEMBER, 3))
    await d.wrote(pen.membership(DORA, Role.NONE, 2), pen.message("while she was out", BORIS), origin=BUSAN)
    await back.sees("while she was out")


async def test_what_was_applied_before_its_conversation_was_known_here_comes_when_it_is(d: Desk, pen: Pen) -> None:
    """A node that lags passes a message of which it does not know whose it is; who asks has the creation already."""
    made = pen.conversation()
    made = encode_event(made._replace(scope=group_scope(ANNA, made.id)))
    talk = Pen(made.scope, pen.number)
    shard = shard_of(made.scope, SHARDS)
    have = d.node.fanned.copy()
    have.absorb(Vector({("busan-01B", shard): 1}))
    back = await d.opened(BORIS, have=have)
    said = await d.wrote(talk.message("of what?", ANNA))
    d.hub.beat_all()
    await back.until(lambda: any(frame.HasField("heartbeat") for frame in back.frames))
    assert not back.have().reaches(said)
    async with d.node.writing:
        await d.tailer.import_rows([Row(made, pack(NOW_MS), (("busan-01B", 1),))])
        await d.store.finish_import("busan-1", "life", 1, Vector({("busan-01B", shard): 1}), ())
        await d.tailer.import_finished()
    await back.sees("of what?")


async def test_what_was_applied_before_it_was_known_that_she_is_in_comes_before_what_answers_it(
    d: Desk, pen: Pen
) -> None:
    """She heard of her joining elsewhere; this node lags on, so no pass over the store brings it first (R11)."""
    have = d.node.fanned.copy()
    have.absorb(Vector({(BUSAN, shard_of(ROOM, SHARDS)): 3}))
    back = await d.opened(DORA, have=have)
    shown = pen.message("shown elsewhere", BORIS)
    await d.wrote(shown, pen.message("question", BORIS))
    await d.wrote(shown, origin=BUSAN)
    await d.wrote(pen.membership(DORA, Role.MEMBER, 1), origin=BUSAN)
    await d.wrote(pen.message("answer", BORIS))
    await back.sees("answer")
    assert back.texts() == ["question", "answer"]


async def test_who_joined_where_what_have_had_passed_was_not_yet_gets_it_after_a_reconnect(d: Desk, pen: Pen) -> None:
    have = d.node.fanned.copy()
    have.absorb(Vector({(BUSAN, shard_of(ROOM, SHARDS)): 1}))
    back = await d.opened(DORA, have=have)
    await d.wrote(pen.membership(DORA, Role.MEMBER, 1))
    await d.wrote(pen.message("welcome"))
    await back.sees("welcome")
    await back.hang_up()
    again = await d.opened(DORA, back.session, back.have())
    await d.wrote(pen.message("of before", BORIS), origin=BUSAN)
    await again.sees("of before")


async def test_what_an_import_brought_before_the_log_is_told_before_a_marker_passes_it(d: Desk, pen: Pen) -> None:
    anna = await d.opened(ANNA)
    said = pen.message("in both", BORIS)
    async with d.node.writing:
        await d.tailer.import_rows([Row(said, pack(NOW_MS), (("busan-01B", 1),))])
    await d.wrote(said, pen.message("behind it", BORIS))
    await anna.sees("behind it")
    assert anna.texts() == ["in both", "behind it"]
    assert anna.skipped(said) == []


async def test_an_answer_on_the_first_page_of_an_import_is_told_behind_its_question_on_the_last(
    d: Desk, pen: Pen
) -> None:
    anna = await d.opened(ANNA)
    question = Row(pen.message("question", BORIS), pack(NOW_MS), (("busan-01B", 1),))
    replies = [pen.message(text, BORIS) for text in ("answer", "to what?")]
    needing = [encode_event(e._replace(need=(("busan-01B", n),))) for n, e in enumerate(replies, 1)]
    answer, lost = [Row(e, pack(NOW_MS), (("busan-01C", n),)) for n, e in enumerate(needing, 1)]
    shard = shard_of(ROOM, SHARDS)
    vector = Vector({("busan-01B", shard): 1, ("busan-01C", shard): 2})
    async with d.node.writing:
        await d.tailer.import_rows([answer, lost], coming=vector)
        await d.tailer.import_rows([question], coming=vector)
        await d.store.finish_import("busan-1", "life", 1, vector, ())
        await d.tailer.import_finished()
    await anna.sees("to what?")
    assert [(a.event.body.text, a.parent_missing) for a in anna.shown() if isinstance(a.event.body, Message)] == [
        ("question", False), ("answer", False), ("to what?", True),
    ]  # fmt: skip


async def test_what_never_comes_holds_markers_back_for_a_while_only(
    d: Desk, pen: Pen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """She was shown something that burned with its region."""
    have = d.node.fanned.copy()
    have.absorb(Vector({("busan-01B", shard_of(ROOM, SHARDS)): 7}))
    anna = await d.opened(ANNA, have=have)
    said = await d.wrote(pen.message("in the first seconds", BORIS))
    await anna.sees("in the first seconds")
    assert not anna.have().reaches(said)
    later = d.clock.monotonic() + LAG_S + 1
    monkeypatch.setattr(d.clock, "monotonic", lambda: later)
    said = await d.wrote(pen.message("later", BORIS))
    await anna.until(lambda: anna.have().reaches(said))
    assert set(anna.texts()) == {"in the first seconds", "later"}


async def test_that_somebody_else_came_in_meanwhile_brings_nothing_again(d: Desk, pen: Pen) -> None:
    have = d.node.fanned.copy()
    have.absorb(Vector({(BUSAN, shard_of(ROOM, SHARDS)): 1}))
    await d.wrote(pen.membership(DORA, Role.MEMBER, 1))
    back = await d.opened(ANNA, have=have)
    await back.until(lambda: any(frame.HasField("marker") for frame in back.frames))
    await d.wrote(pen.message("shown elsewhere", BORIS), origin=BUSAN)
    await d.wrote(pen.message("new", BORIS), origin=BUSAN)
    await back.sees("new")
    assert set(back.texts()) == {"new"}  # maybe live and by the pass after catching up


async def test_what_she_was_shown_of_another_copy_does_not_come_again_with_an_import(d: Desk, pen: Pen) -> None:
    shard = shard_of(ROOM, SHARDS)
    have = d.node.fanned.copy()
    have.absorb(Vector({("busan-01C", shard): 1}))
    back = await d.opened(ANNA, have=have)
    both = (("busan-01B", 1), ("busan-01C", 1))
    async with d.node.writing:
        await d.tailer.import_rows([Row(pen.message("shown elsewhere", BORIS), pack(NOW_MS), both)])
        vector = Vector({(origin, shard): position for origin, position in both})
        await d.store.finish_import("busan-1", "life", 1, vector, ())
        await d.tailer.import_finished()
    await d.wrote(pen.message("new", BORIS))
    await back.sees("new")
    assert set(back.texts()) == {"new"}  # maybe live and by the pass after catching up


async def test_what_is_said_while_a_resume_waits_for_its_need_comes_once(
    d: Desk, pen: Pen, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, d.node, "wait_for")
    back = await d.opened(ANNA, have=Vector())
    await gate.reached.wait()
    await d.wrote(pen.message("meanwhile", BORIS))
    gate.open.set()
    await back.until(lambda: back.have())  # the pages are behind it
    await d.wrote(pen.message("then", BORIS))
    await back.sees("then")
    assert back.texts() == ["meanwhile", "then"]


async def test_a_resume_that_needs_what_is_not_here_says_gap_and_goes_on(d: Desk, pen: Pen) -> None:
    await d.wrote(pen.message("here", BORIS))
    elsewhere = Vector({("busan-01B", shard_of(ROOM, SHARDS)): 7})
    back = d.call(ANNA, have=Vector(), need=elsewhere)
    await back.sees("here")
    gaps = [frame for frame in back.frames if frame.HasField("gap")]
    assert len(gaps) == 1
    assert [o.origin for o in gaps[0].gap.missing.origins] == ["busan-01B"]
    assert back.frames.index(gaps[0]) < next(i for i, f in enumerate(back.frames) if f.deliveries)


# ---------------------------------------------------------------- bounds (P8)


async def test_a_reader_that_stalls_is_cut_by_name_and_nobody_else_waits(d: Desk, pen: Pen) -> None:
    stalled, healthy = await d.opened(ANNA), await d.opened(CHLOE)
    stalled.reading.clear()
    count = limits.SESSION_QUEUE_BYTES // 8000 + 70
    for n in range(count):
        await d.wrote(pen.message(f"{n} " + "x" * 8000, BORIS))
    assert (await stalled.ended()).code is Code.SLOW_READER
    await healthy.until(lambda: len(healthy.texts()) == count)
    assert len(d.hub) == 1
    stalled.reading.set()
    back = await d.opened(ANNA, stalled.session, stalled.have())
    await back.until(lambda: len(set(back.texts())) == count)
    assert back.texts() == healthy.texts()


async def test_a_reader_that_is_cut_hears_of_no_marker_beyond_what_it_was_sent(d: Desk, pen: Pen) -> None:
    """What its queue held is thrown away with it: a heartbeat that is due just then must not say that it came."""
    anna = await d.opened(ANNA)
    await d.wrote(pen.message("so that the room is known", BORIS))
    await anna.sees("so that the room is known")
    burst = [pen.message(f"{n} " + "x" * 8000, BORIS) for n in range(limits.SESSION_QUEUE_BYTES // 8000 + 2)]
    async with d.node.writing:  # all of it is handed out at one go, as after an import
        entries = d.region.write(*burst)
        applied = await d.store.apply([decode_entry(e) for e in entries], d.clock.wall_ms())
        await d.hub.fan_out(applied, {})
        for entry in entries:
            d.node.fanned.advance(entry.stream.origin, entry.stream.shard, entry.position)
        d.hub.beat_all()
    assert (await anna.ended()).code is Code.SLOW_READER
    assert anna.skipped(*burst) == []


async def test_a_client_that_takes_no_acknowledgements_is_not_read_for_ever(d: Desk, pen: Pen) -> None:
    """Else what waits to be told to it grows as long as it likes to send."""
    anna, boris = await d.opened(ANNA), await d.opened(BORIS)
    anna.say(signed(pen.message("so that the room is known"), anna))
    await anna.answered(1)
    anna.reading.clear()
    a_frame, frames = 256, 4 * limits.SESSION_UNACKED // 256
    for n in range(frames):
        said = [signed(pen.message("x"), anna) for _ in range(a_frame)]
        anna.say(*said, first_seq=2 + n * a_frame)
    taken, rounds = -1, 0
    while anna.taken != taken:  # until the node reads no more of it, while it serves another
        taken = anna.taken
        for _ in range(10):
            rounds += 1
            boris.say(signed(pen.message("tick", BORIS), boris), first_seq=rounds)
            await boris.answered(rounds)
    assert (anna.taken - 2) * a_frame <= 2 * limits.SESSION_UNACKED + a_frame


async def test_a_session_that_has_left_leaves_nothing_behind(d: Desk, pen: Pen) -> None:
    made_up = Vector({(f"busan-{n:026d}", 0): 1 for n in range(100)})
    anna = d.call(ANNA, awaiting=made_up)
    await anna.greeted()
    anna.say(signed(pen.message("hello"), anna))
    await anna.answered(1)
    await anna.hang_up()
    assert len(d.hub) == 0
    assert not d.hub._awaiting


async def test_a_session_that_was_told_all_is_replicated_leaves_nothing_behind(d: Desk, pen: Pen) -> None:
    anna = await d.opened(ANNA)
    d.node.marks.note(Watermark("seoul", "life", d.region.origin, shard_of(ROOM, SHARDS), 1000))  # ahead of the ack
    anna.say(signed(pen.message("hello"), anna))
    await anna.until(lambda: any(f.HasField("replicated") for f in anna.frames))
    await anna.hang_up()
    assert not d.hub._awaiting


async def test_a_session_hears_of_the_replication_of_what_another_stream_of_it_had_acknowledged(
    d: Desk, pen: Pen
) -> None:
    anna = await d.opened(ANNA)
    elsewhere = ("busan-01JD", 0)
    d.node.marks.note(Watermark("busan", "life", *elsewhere, 9))
    anna.beat(awaiting=Vector({elsewhere: 7}))
    await anna.until(lambda: any(decode_vector(f.replicated)[elsewhere] == 9 for f in anna.frames))
    await anna.hang_up()
    assert not d.hub._awaiting


async def test_what_a_folded_origin_acknowledged_behind_its_end_is_told_as_a_hole(d: Desk, pen: Pen) -> None:
    """Its region burned with it, and no later entry shows the gap: whoever sent it would wait for ever."""
    some, none = ("busan-01B", 0), ("busan-01B", 1)  # of one shard something is left
    async with d.node.writing:
        await d.store.finish_import("busan-1", "life", 1, Vector({some: 7}), ())
    anna, boris = d.call(ANNA, awaiting=Vector({some: 11})), d.call(BORIS, awaiting=Vector({none: 2}))
    for line in (anna, boris):
        assert not decode_vector((await line.greeted()).replicated)

    d.region.folded = ["busan-01B"]
    await d.wrote(pen.message("so that the node looks"))
    await anna.until(lambda: any(f.HasField("replicated") for f in anna.frames))
    await boris.until(lambda: any(f.HasField("replicated") for f in boris.frames))
    told = [decode_vector(f.replicated) for line in (anna, boris) for f in line.frames if f.HasField("replicated")]
    assert told == [Vector({some: 11}, [Hole(*some, 8, 11)]), Vector({none: 2}, [Hole(*none, 1, 2)])]
    later = d.call(ANNA, awaiting=Vector({some: 9}))
    assert decode_vector((await later.greeted()).replicated) == Vector({some: 9}, [Hole(*some, 8, 9)])
    assert not d.node.is_replicated(some, 8)
    for line in (anna, boris, later):
        await line.hang_up()
    assert not d.hub._awaiting


# ---------------------------------------------------------------- the end


async def test_a_drain_says_go_away_behind_the_last_delivery_with_a_marker(d: Desk, pen: Pen) -> None:
    anna = await d.opened(ANNA)
    anna.reading.clear()
    reached = await d.wrote(*(pen.message(f"m{n}", BORIS) for n in range(5)))
    draining = asyncio.create_task(d.hub.drain(20.0))
    anna.reading.set()
    await anna.until(lambda: anna.frames[-1].HasField("go_away"))
    assert anna.texts() == [f"m{n}" for n in range(5)]
    assert anna.have().reaches(reached)
    await anna.hang_up()
    await draining


async def test_a_node_that_drains_or_has_no_log_takes_no_sessions(d: Desk) -> None:
    d.node.draining = True
    assert (await d.call(ANNA).ended()).code is Code.DRAINING
    d.node.draining, d.node.origin = False, ""
    assert (await d.call(ANNA).ended()).code is Code.CATCHING_UP
