"""What every Store must hand over, to sessions that resume and to other stores: one suite for all stores."""

from __future__ import annotations

import pytest

from evertalk.core import limits
from evertalk.core.clock import pack
from evertalk.core.ids import shard_of
from evertalk.core.model import Event, Kind, Level, Role, Row
from evertalk.core.vector import Hole
from evertalk.ports import Store
from tests.adapters.store_helpers import (
    ANNA,
    BORIS,
    BUSAN,
    CHLOE,
    NOW_MS,
    ROOM,
    SEOUL,
    SHARDS,
    MakeStore,
    Pen,
    Region,
    account,
    at,
    digest,
    pull,
    resumed,
    shown,
    texts,
)

pytest_plugins = ["tests.adapters.store_fixtures"]
SHARD = shard_of(ROOM, SHARDS)


# ---------------------------------------------------------------- resume


@pytest.fixture
async def tea(store: Store, pen: Pen, seoul: Region) -> Store:
    """A store in which anna and boris have a conversation, at position 1 of seoul."""
    await store.apply([seoul.log(pen.conversation())], NOW_MS)
    return store


async def test_a_session_gets_what_it_missed_and_nothing_else(
    tea: Store, pen: Pen, seoul: Region, busan: Region
) -> None:
    await tea.apply(seoul.each(pen.message("had")), NOW_MS)
    have = tea.vector
    message = pen.message("missed")
    missed = [message, pen.edit(message, "m"), pen.title("coffee"), pen.receipt(BORIS, 2), pen.deletion(message)]
    other = Pen(account("#other")).message("elsewhere")
    await tea.apply([*seoul.each(*missed[:2]), *busan.each(*missed[2:]), Region(BUSAN).log(other)], NOW_MS)
    page = await tea.resume(ANNA, have, None, 100)
    assert [n.event for n in page.events] == missed[2:]  # deleted meanwhile: only the tombstone is left
    assert page.vector == tea.vector
    assert page.next is None
    assert await resumed(tea, CHLOE, have) == []
    assert await resumed(tea, ANNA, tea.vector) == []


async def test_causes_come_before_effects_whichever_log_they_lie_in(
    tea: Store, pen: Pen, seoul: Region, busan: Region
) -> None:
    have = tea.vector
    parent, reply = pen.message("parent"), pen.message("reply")
    ahead = pen.message("clock ahead")
    await tea.apply([*seoul.each(ahead, parent), *busan.each(reply)], NOW_MS)
    for limit in (1, 2, 100):
        assert texts(await resumed(tea, ANNA, have, limit)) == ["parent", "reply", "clock ahead"]


async def test_a_hedged_message_is_had_by_any_of_its_copies(tea: Store, pen: Pen, seoul: Region, busan: Region) -> None:
    hedged = pen.message("hedged")
    await tea.apply([seoul.log(hedged), busan.log(hedged)], NOW_MS)
    assert texts(await resumed(tea, ANNA, at(ROOM, seoul=1))) == ["hedged"]
    assert texts(await resumed(tea, ANNA, at(ROOM, seoul=2))) == []
    assert texts(await resumed(tea, ANNA, at(ROOM, seoul=1, busan=1))) == []


async def test_a_message_that_was_sent_again_and_again_is_had_by_its_first_position(
    tea: Store, pen: Pen, seoul: Region, busan: Region
) -> None:
    again = pen.message("again")
    await tea.apply(busan.each(again), NOW_MS)
    await tea.apply(seoul.each(again, pen.message("other"), again), NOW_MS)
    assert texts(await resumed(tea, ANNA, at(ROOM, seoul=2))) == ["other"]


async def test_what_was_had_by_other_copies_does_not_confuse_the_pages(
    tea: Store, pen: Pen, seoul: Region, busan: Region
) -> None:
    hedged, missed = [pen.message(f"hedged {n}") for n in range(6)], [pen.message(str(n)) for n in range(6)]
    await tea.apply(busan.each(*hedged), NOW_MS)
    have = tea.vector
    # In seoul's log too, where accepted_at is smaller, so that the range is looked up there.
    early = [seoul.log(event, accepted_ms=NOW_MS - 9) for event in hedged]
    await tea.apply([*early, *seoul.each(missed[0]), *busan.each(*missed[1:5]), *seoul.each(missed[5])], NOW_MS)
    for limit in (1, 2, 3, 100):
        assert texts(await resumed(tea, ANNA, have, limit)) == [str(n) for n in range(6)]


async def test_pages_of_a_resume_add_up(tea: Store, pen: Pen, seoul: Region, busan: Region) -> None:
    rooms = [account(f"#room{n}") for n in range(3)]
    for scope in rooms:
        await tea.apply([seoul.log(Pen(scope).conversation())], NOW_MS)
    have = tea.vector
    for n in range(30):
        home = (seoul, busan)[n % 2]
        await tea.apply([home.log(Pen(rooms[n % 3], number=n).message(str(n)))], NOW_MS)
    whole = await resumed(tea, BORIS, have)
    assert sorted(texts(whole), key=int) == [str(n) for n in range(30)]
    for limit in (1, 3, 10):
        page = await tea.resume(BORIS, have, None, limit)
        assert len(page.events) == limit
        assert await resumed(tea, BORIS, have, limit) == whole


async def test_a_copy_that_comes_between_two_pages_changes_nothing(
    tea: Store, pen: Pen, seoul: Region, busan: Region
) -> None:
    have = tea.vector
    events = [pen.message(str(n)) for n in range(6)]
    await tea.apply(seoul.each(*events), NOW_MS)
    first = await tea.resume(ANNA, have, None, 3)
    await tea.apply(busan.each(*events), NOW_MS)  # every row gets a new change number
    second = await tea.resume(ANNA, have, first.next, 3)
    assert texts(first.events + second.events) == [str(n) for n in range(6)]


async def test_who_joined_meanwhile_gets_a_page(tea: Store, pen: Pen, seoul: Region) -> None:
    many = [pen.message(str(n)) for n in range(limits.JOIN_PAGE + 10)]
    await tea.apply(seoul.each(*many), NOW_MS)
    have = tea.vector
    await tea.apply([seoul.log(pen.membership(CHLOE, Role.MEMBER, 1))], NOW_MS)
    new = await resumed(tea, CHLOE, have)
    assert [n.event.kind for n in new[:2]] == [Kind.CONVERSATION, Kind.MEMBERSHIP]
    assert texts(new) == [str(n) for n in range(10, limits.JOIN_PAGE + 10)]
    assert await resumed(tea, CHLOE, tea.vector) == []


async def test_who_was_only_promoted_meanwhile_has_not_joined(tea: Store, pen: Pen, seoul: Region) -> None:
    await tea.apply([seoul.log(pen.membership(CHLOE, Role.MEMBER, 1))], NOW_MS)
    have = tea.vector
    many = [pen.message(str(n)) for n in range(limits.JOIN_PAGE + 10)]
    await tea.apply(seoul.each(*many), NOW_MS)
    await tea.apply(seoul.each(pen.membership(CHLOE, Role.ADMIN, 2), pen.membership(BORIS, Role.ADMIN, 1)), NOW_MS)
    for who in (BORIS, CHLOE):
        new = await resumed(tea, who, have)
        assert texts(new) == [str(n) for n in range(limits.JOIN_PAGE + 10)]
        assert [n.event.kind for n in new if n.event.kind != Kind.MESSAGE] == [Kind.MEMBERSHIP, Kind.MEMBERSHIP]


async def test_who_left_meanwhile_is_told_and_then_hears_no_more(tea: Store, pen: Pen, seoul: Region) -> None:
    have = tea.vector
    leaving = pen.membership(BORIS, Role.NONE, 1)
    await tea.apply(seoul.each(leaving, pen.message("behind their back")), NOW_MS)
    assert [n.event for n in await resumed(tea, BORIS, have)] == [leaving]
    assert await resumed(tea, BORIS, tea.vector) == []
    back = tea.vector
    await tea.apply([seoul.log(pen.membership(BORIS, Role.MEMBER, 2))], NOW_MS)
    assert texts(await resumed(tea, BORIS, back)) == ["behind their back"]


async def test_what_lies_in_a_hole_of_have_is_not_had(
    make_store: MakeStore, tea: Store, pen: Pen, seoul: Region
) -> None:
    full = await make_store()
    lost, after = seoul.each(pen.message("lost"), pen.message("after"))
    await full.apply(seoul.entries, NOW_MS)
    await tea.pass_hole(Hole(SEOUL, SHARD, lost.position, lost.position))
    await tea.apply([after], NOW_MS)
    have = tea.vector
    assert texts(await resumed(full, ANNA, have)) == ["lost"]
    await pull(tea, full)
    assert texts(await resumed(tea, ANNA, have)) == ["lost"]


async def test_rows_of_an_unfinished_import_are_delivered(
    make_store: MakeStore, tea: Store, pen: Pen, busan: Region
) -> None:
    ahead = await make_store()
    await ahead.apply([busan.log(pen.message("imported"))], NOW_MS)
    have = tea.vector
    await tea.import_rows((await ahead.export("", 0, 10)).rows, NOW_MS)
    assert texts(await resumed(tea, ANNA, have)) == ["imported"]


async def test_a_folded_origin_is_compared_until_it_is_forgotten_and_then_had_unless_have_says_how_far(
    tea: Store, pen: Pen, seoul: Region, busan: Region
) -> None:
    await tea.apply([*seoul.each(pen.message("seoul")), *busan.each(pen.message("1"), pen.message("2"))], NOW_MS)
    await tea.fold([BUSAN])
    assert texts(await resumed(tea, ANNA, tea.vector)) == []
    assert texts(await resumed(tea, ANNA, at(ROOM, seoul=2))) == ["1", "2"], "it was away for the origin's whole life"
    await tea.forget([BUSAN])
    assert texts(await resumed(tea, ANNA, tea.vector)) == []
    assert texts(await resumed(tea, ANNA, at(ROOM, seoul=2, busan=1))) == ["2"]


# ---------------------------------------------------------------- export, holes, folding


async def test_export_hands_over_everything_with_all_copies(
    make_store: MakeStore, pen: Pen, seoul: Region, busan: Region
) -> None:
    source, target = await make_store(), await make_store()
    hedged = pen.message("hedged")
    await source.apply([busan.log(hedged, accepted_ms=NOW_MS + 9), seoul.log(hedged, accepted_ms=NOW_MS)], NOW_MS)
    (row,) = (await source.export("", 0, 10)).rows
    assert row == Row(hedged, pack(NOW_MS), ((SEOUL, 1), (BUSAN, 1)))
    new = await target.import_rows([row], NOW_MS)
    assert [(n.event, n.origin, n.position) for n in new] == [(hedged, SEOUL, 1)]
    assert not target.vector  # cursors move only after the last page
    await pull(target, source)
    assert target.vector == source.vector
    assert (await target.export("", 0, 10)).rows == [row]


async def test_pages_end_and_begin_where_they_should(store: Store, pen: Pen, seoul: Region) -> None:
    await store.apply(seoul.each(*[pen.message(str(n)) for n in range(5)]), NOW_MS)
    first = await store.export("", 0, 3)
    assert (len(first.rows), first.last, first.life) == (3, False, store.life)
    second = await store.export(store.life, first.next_change, 3)
    assert (texts(r.event for r in second.rows), second.last) == (["3", "4"], True)
    assert (await store.export(store.life, second.next_change, 3)).rows == []
    assert len((await store.export("another life", second.next_change, 9)).rows) == 5


async def test_a_page_of_large_rows_is_short_but_not_the_last(store: Store, pen: Pen, seoul: Region) -> None:
    large = "x" * limits.MAX_TEXT_BYTES
    number = limits.MAX_GRPC_BYTES // limits.MAX_TEXT_BYTES + 1
    await store.apply(seoul.each(*[pen.message(large) for _ in range(number)]), NOW_MS)
    page = await store.export("", 0, number + 1)
    assert sum(len(r.event.raw) for r in page.rows) < limits.MAX_GRPC_BYTES
    assert not page.last
    found = page.rows
    while not page.last:
        page = await store.export(page.life, page.next_change, number + 1)
        found += page.rows
    assert len(found) == number


async def test_any_change_of_a_row_exports_it_again(store: Store, pen: Pen, seoul: Region, busan: Region) -> None:
    message = pen.message("hello")
    await store.apply([seoul.log(message), seoul.log(pen.title("tea"))], NOW_MS)
    after = (await store.export("", 0, 10)).next_change
    await store.apply([busan.log(message), busan.log(pen.title("coffee", 2))], NOW_MS)
    rows = (await store.export(store.life, after, 10)).rows
    assert [r.event.kind for r in rows] == [Kind.MESSAGE, Kind.TITLE]
    assert set(rows[0].copies) == {(SEOUL, 1), (BUSAN, 1)}


async def test_a_change_number_is_not_given_twice(store: Store, pen: Pen, seoul: Region) -> None:
    message = pen.message("gone", expires_at_ms=NOW_MS + 1)
    await store.apply([seoul.log(message)], NOW_MS)
    after = (await store.export("", 0, 10)).next_change
    await store.expire(NOW_MS + 1)  # the row with the highest number is gone
    await store.apply([seoul.log(pen.message("next"))], NOW_MS)
    assert texts(r.event for r in (await store.export(store.life, after, 10)).rows) == ["next"]


async def test_a_new_store_keeps_no_edit_of_what_has_expired(
    make_store: MakeStore, pen: Pen, seoul: Region, busan: Region
) -> None:
    """It hears of the edit by a log, and can hear of the message from nobody: it must hear that it is gone (P9)."""
    old, new = await make_store(), await make_store()
    message = pen.message("soon over", expires_at_ms=NOW_MS + 1)
    await old.apply([seoul.log(message), seoul.log(pen.message("stays"))], NOW_MS)
    await old.expire(NOW_MS + 1)
    edit, reaction = busan.each(pen.edit(message, "soon o."), pen.reaction(message, "+"))
    await new.apply([edit], NOW_MS + 2)
    assert await new.counts() == {"edit": 1}, "the message may come yet"
    pages = await pull(new, old, limit=1, now_ms=NOW_MS + 2)
    assert sum(len(page.graves) for page in pages) == 1
    await new.apply([reaction], NOW_MS + 2)
    await old.apply([edit, reaction], NOW_MS + 2)
    for store in (old, new):
        assert await store.counts() == {"message": 1}
    assert [len(page.graves) for page in await pull(await make_store(), new, now_ms=NOW_MS + 2)] == [1]


async def test_a_grave_takes_nothing_that_is_there(make_store: MakeStore, pen: Pen, seoul: Region) -> None:
    """A store whose clock is behind shows a message a little longer, with what hangs on it."""
    ahead, behind = await make_store(), await make_store()
    message = pen.message("soon over", expires_at_ms=NOW_MS + 1)
    entries = seoul.each(message, pen.edit(message, "soon o."))
    for store in (ahead, behind):
        await store.apply(entries, NOW_MS)
    await ahead.expire(NOW_MS + 1)
    await pull(behind, ahead, now_ms=NOW_MS)
    assert await behind.counts() == {"message": 1, "edit": 1}
    assert await behind.expire(NOW_MS + 1) == 2


async def test_an_export_beside_writes_converges(make_store: MakeStore, pen: Pen, seoul: Region, busan: Region) -> None:
    source, target = await make_store(), await make_store()
    first, hedged = [pen.message(f"a{n}") for n in range(8)], pen.message("hedged")
    await source.apply(seoul.each(*first, hedged), NOW_MS)
    page = start = await source.export("", 0, 3)
    later: list[Event] = [hedged, pen.deletion(first[0]), pen.deletion(first[7])]
    while not page.last:
        await target.import_rows(page.rows, NOW_MS)
        if later:
            await source.apply([busan.log(later.pop())], NOW_MS)
        page = await source.export(page.life, page.next_change, 3)
    await target.import_rows(page.rows, NOW_MS)
    await target.finish_import("n1", page.life, page.next_change, start.vector, start.folded)
    assert target.vector == at(ROOM, seoul=9)  # of the start; what came later is read again
    assert await target.bookmark("n1") == (source.life, page.next_change)
    await target.apply(busan.entries, NOW_MS)
    assert await digest(target) == await digest(source)
    assert target.vector == source.vector


async def test_a_hole_is_passed_handed_on_and_filled(make_store: MakeStore, pen: Pen, seoul: Region) -> None:
    behind, third, full = await make_store(), await make_store(), await make_store()
    entries = seoul.each(*[pen.message(str(n)) for n in range(4)])
    hole = Hole(SEOUL, SHARD, 2, 3)
    await behind.apply(entries[:1], NOW_MS)
    with pytest.raises(ValueError, match="does not follow"):
        await behind.pass_hole(Hole(SEOUL, SHARD, 3, 3))
    await behind.pass_hole(hole)
    await behind.apply(entries[3:], NOW_MS)
    assert behind.vector.holes == {hole}
    await pull(third, behind)
    assert third.vector == behind.vector
    assert (await third.history(ROOM, None, 9)).vector.holes == {hole}
    await full.apply(entries, NOW_MS)
    await pull(third, full)
    assert await shown(third) == ["0", "1", "2", "3"]
    assert third.vector == full.vector
    assert not third.vector.holes


async def test_a_folded_origin_stays_in_the_vector_for_who_was_away_until_it_is_forgotten(
    make_store: MakeStore, pen: Pen, seoul: Region, busan: Region
) -> None:
    store, other = await make_store(), await make_store()
    entries = [*seoul.each(pen.message("seoul")), *busan.each(pen.message("1"), pen.message("2"))]
    await store.apply(entries, NOW_MS)
    await other.apply(entries, NOW_MS)
    await store.fold([BUSAN])
    assert store.vector == at(ROOM, seoul=1, busan=2)
    assert store.folded == {BUSAN}
    away = await make_store()  # it was not there when busan's origin lived
    await pull(away, store)
    assert (away.vector, away.folded) == (store.vector, store.folded)
    await store.forget([BUSAN])
    assert store.vector == at(ROOM, seoul=1)
    await pull(other, store)
    assert other.folded == {BUSAN}
    assert (await other.history(ROOM, None, 9)).vector == other.vector == at(ROOM, seoul=1, busan=2)


async def test_a_checkpoint_tells_what_is_safe(store: Store, pen: Pen, seoul: Region) -> None:
    await store.apply([seoul.log(pen.message("hello"))], NOW_MS)
    assert await store.checkpoint() == store.vector


async def test_receipts_are_kept_per_reader_level_and_origin(store: Store, pen: Pen, seoul: Region) -> None:
    read, delivered = pen.receipt(BORIS, 5), pen.receipt(BORIS, 7, level=Level.DELIVERED)
    old, elsewhere = pen.receipt(BORIS, 4), pen.receipt(BORIS, 1, origin=BUSAN)
    new = await store.apply(seoul.each(read, delivered, old, elsewhere), NOW_MS)
    assert [n.event for n in new] == [read, delivered, elsewhere]
    assert await store.counts() == {"receipt": 3}
