"""What every Store must do with events, and show of them: one suite for all stores."""

from __future__ import annotations

import pytest

from evertalk.core import limits
from evertalk.core.clock import pack
from evertalk.core.ids import shard_of, suffixed_handle
from evertalk.core.model import Kind, Role
from evertalk.core.vector import Vector
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
    uuid,
)

pytest_plugins = ["tests.adapters.store_fixtures"]
SHARD = shard_of(ROOM, SHARDS)


# ---------------------------------------------------------------- apply


async def test_a_message_is_new_once_and_moves_the_cursor(store: Store, pen: Pen, seoul: Region) -> None:
    entry = seoul.log(pen.message("hello"))
    (new,) = await store.apply([entry], NOW_MS)
    assert (new.event, new.origin, new.shard, new.position) == (entry.records[0].event, SEOUL, SHARD, 1)
    assert store.vector == at(ROOM, seoul=1)
    assert await store.apply([entry], NOW_MS) == []
    assert await shown(store) == ["hello"]


async def test_an_entry_that_skips_a_position_is_the_callers_bug(store: Store, pen: Pen, seoul: Region) -> None:
    first, _, third = seoul.each(pen.message("1"), pen.message("2"), pen.message("3"))
    with pytest.raises(ValueError, match="does not follow"):
        await store.apply([first, third], NOW_MS)
    assert not store.vector
    assert await shown(store) == []


async def test_a_batch_is_returned_in_order_without_what_was_known(
    store: Store, pen: Pen, seoul: Region, busan: Region
) -> None:
    hedged = pen.message("hedged")
    await store.apply([busan.log(hedged)], NOW_MS)
    new = await store.apply(seoul.each(pen.message("1"), hedged, pen.message("2")), NOW_MS)
    assert texts(new) == ["1", "2"]


async def test_a_vector_that_was_handed_out_does_not_move(store: Store, pen: Pen, seoul: Region) -> None:
    before = store.vector
    await store.apply([seoul.log(pen.message("hello"))], NOW_MS)
    assert not before


async def test_equivocation_ends_alike_whoever_comes_first(
    make_store: MakeStore, pen: Pen, seoul: Region, busan: Region
) -> None:
    one = pen.message("one")
    other = pen.message("other", id=one.id)
    entries = [seoul.log(one, accepted_ms=NOW_MS + 5), busan.log(other, accepted_ms=NOW_MS + 3)]
    first, second = await make_store(), await make_store()
    await first.apply(entries, NOW_MS)
    await second.apply(entries[::-1], NOW_MS)
    assert await shown(first) == await shown(second) == ["other"]


async def test_a_smaller_copy_of_the_same_bytes_defends_them(
    make_store: MakeStore, pen: Pen, seoul: Region, busan: Region
) -> None:
    one = pen.message("one")
    other = pen.message("other", id=one.id)
    late, early = busan.log(one, accepted_ms=NOW_MS + 9), seoul.log(one, accepted_ms=NOW_MS + 1)
    rival = seoul.log(other, accepted_ms=NOW_MS + 5)
    first, second = await make_store(), await make_store()
    await first.apply([late, early, rival], NOW_MS)
    await second.apply([early, rival, late], NOW_MS)
    assert await shown(first) == await shown(second) == ["one"]


async def test_equal_ranks_are_decided_by_the_bytes(make_store: MakeStore, pen: Pen, seoul: Region) -> None:
    one = pen.message("one")
    other = pen.message("other", id=one.id)
    first, second = await make_store(), await make_store()
    await first.apply([seoul.log(one, other, accepted_ms=NOW_MS)], NOW_MS)
    await second.apply([Region(SEOUL).log(other, one, accepted_ms=NOW_MS)], NOW_MS)
    assert await shown(first) == await shown(second)


async def test_the_highest_version_of_a_register_wins(store: Store, pen: Pen, seoul: Region) -> None:
    message = pen.message("tee")
    old, new = pen.edit(message, "tea", version=1), pen.edit(message, "TEA", version=2)
    assert len(await store.apply(seoul.each(message, new), NOW_MS)) == 2
    assert await store.apply([seoul.log(old)], NOW_MS) == []
    page = await store.history(ROOM, None, 10)
    assert [r.event for r in page.registers] == [new]
    assert store.vector == at(ROOM, seoul=3)


async def test_an_edit_of_somebody_elses_message_is_passed_over(store: Store, pen: Pen, seoul: Region) -> None:
    message = pen.message("mine", ANNA)
    forged = pen.edit(message, "yours", sender=BORIS)
    assert texts(await store.apply(seoul.each(message, forged), NOW_MS)) == ["mine"]
    assert (await store.history(ROOM, None, 10)).registers == []
    assert store.vector == at(ROOM, seoul=2)


async def test_unknown_kinds_are_kept_and_exported_but_not_shown(
    make_store: MakeStore, pen: Pen, seoul: Region
) -> None:
    store, other = await make_store(), await make_store()
    strange = pen.unknown()
    assert await store.apply([seoul.log(strange)], NOW_MS) == []
    await pull(other, store)
    (row,) = (await other.export("", 0, 10)).rows
    assert row.event.raw == strange.raw
    assert await resumed(other, ANNA, Vector()) == []


async def test_numbers_that_no_clock_makes_do_not_block_the_tail(store: Store, pen: Pen, seoul: Region) -> None:
    huge = (1 << 64) - 1
    message = pen.message("tea")
    entries = seoul.each(
        pen.message("from the year 10889", hlc=huge), message, pen.edit(message, "TEA", version=huge),
        pen.message("for ever", expires_at_ms=huge),
    )  # fmt: skip
    assert texts(await store.apply(entries, NOW_MS)) == ["tea", "for ever"]
    assert store.vector == at(ROOM, seoul=4)
    page = await store.history(ROOM, (huge, b""), 10)
    assert texts(page.messages) == ["tea", "for ever"]
    assert [r.event.version for r in page.registers] == [huge]


async def test_entries_that_gave_up_waiting_are_marked(store: Store, pen: Pen, seoul: Region) -> None:
    waited, orphan = seoul.each(pen.message("waited"), pen.message("orphan"))
    new = await store.apply([waited, orphan], NOW_MS, frozenset({(SEOUL, SHARD, 2)}))
    assert [n.parent_missing for n in new] == [False, True]
    page = await store.history(ROOM, None, 10)
    assert [m.parent_missing for m in page.messages] == [False, True]


async def test_a_message_is_late_below_a_key_that_was_shown(
    make_store: MakeStore, pen: Pen, seoul: Region, busan: Region
) -> None:
    store, other = await make_store(), await make_store()
    early, surfaced, newest = pen.message("early"), pen.message("surfaced"), pen.message("newest")
    long_after = NOW_MS + limits.LATE_MS + 1000
    await store.apply(seoul.each(early, newest), NOW_MS)
    (late,) = await store.apply([busan.log(surfaced)], long_after)
    assert late.late
    assert [m.late for m in (await store.history(ROOM, None, 9)).messages] == [False, True, False]
    # The mark is local: neither exported nor in digests, and a store that is being built marks nothing.
    await pull(other, store, limit=1, now_ms=long_after)
    assert [m.late for m in (await other.history(ROOM, None, 9)).messages] == [False, False, False]
    assert await digest(other) == await digest(store)


async def test_nothing_is_late_within_its_own_batch_or_soon_after(
    store: Store, pen: Pen, seoul: Region, busan: Region
) -> None:
    first, second, third = pen.message("1"), pen.message("2"), pen.message("3")
    batch = await store.apply(seoul.each(third, first), NOW_MS + 10_000)
    soon = await store.apply([busan.log(second, accepted_ms=NOW_MS + 9_000)], NOW_MS + 10_000)
    assert not any(n.late for n in batch + soon)


async def test_an_import_marks_what_surfaces_below_what_was_shown(
    make_store: MakeStore, pen: Pen, seoul: Region, busan: Region
) -> None:
    old_tail, shown_ = pen.message("old tail"), pen.message("shown")
    source, store = await make_store(), await make_store()
    await source.apply([busan.log(old_tail)], NOW_MS)
    await store.apply([seoul.log(shown_)], NOW_MS)
    page = await source.export("", 0, 10)
    (new,) = await store.import_rows(page.rows, NOW_MS + 60_000)
    assert new.late


async def test_a_store_that_is_being_built_marks_nothing_late(
    make_store: MakeStore, pen: Pen, seoul: Region, busan: Region
) -> None:
    older, newer, beside = pen.message("older"), pen.message("newer"), pen.message("beside")
    source, store = await make_store(), await make_store()
    await source.apply(seoul.each(newer, older), NOW_MS)
    first = await source.export("", 0, 1)
    assert not any(new.late for new in await store.import_rows(first.rows, NOW_MS + 60_000))
    await store.apply([busan.log(Pen(account("#other")).message("elsewhere"))], NOW_MS + 60_000)
    second = await source.export(source.life, first.next_change, 1)
    assert not any(new.late for new in await store.import_rows(second.rows, NOW_MS + 60_000))
    assert not any(new.late for new in await store.apply([busan.log(beside)], NOW_MS + 60_000))


async def test_what_was_imported_counts_as_shown_once_the_import_is_over(
    make_store: MakeStore, pen: Pen, seoul: Region, busan: Region
) -> None:
    old_tail, newest = pen.message("old tail"), pen.message("newest")
    source, store = await make_store(), await make_store()
    await source.apply([seoul.log(newest)], NOW_MS)
    await pull(store, source)
    (new,) = await store.apply([busan.log(old_tail)], NOW_MS + 60_000)
    assert new.late


# ---------------------------------------------------------------- deletion and expiry


async def test_a_deletion_takes_edits_and_reactions_with_it(store: Store, pen: Pen, seoul: Region) -> None:
    gone, stays = pen.message("gone"), pen.message("stays")
    await store.apply(
        seoul.each(
            gone, stays, pen.edit(gone, "g"), pen.reaction(gone, "👍"), pen.edit(stays, "s"), pen.reaction(stays, "👍")
        ),
        NOW_MS,
    )
    assert await store.visible(ROOM, ANNA, gone.id)
    deletion = pen.deletion(gone)
    assert [n.event for n in await store.apply([seoul.log(deletion)], NOW_MS)] == [deletion]
    assert not await store.visible(ROOM, ANNA, gone.id)
    page = await store.history(ROOM, None, 10)
    assert texts(page.messages) == ["stays"]
    assert [r.event.kind for r in page.registers] == [Kind.EDIT, Kind.REACTION]


async def test_what_was_deleted_never_comes_back(make_store: MakeStore, pen: Pen, seoul: Region, busan: Region) -> None:
    store, behind = await make_store(), await make_store()
    message = pen.message("gone")
    edit, reaction, deletion = pen.edit(message, "g"), pen.reaction(message, "👍"), pen.deletion(message)
    await behind.apply(seoul.each(message, edit, reaction), NOW_MS)
    # The tombstone comes first, then the message from a log, then from another store.
    assert len(await store.apply([busan.log(deletion)], NOW_MS)) == 1
    assert await store.apply(seoul.entries, NOW_MS) == []
    assert await store.import_rows((await behind.export("", 0, 10)).rows, NOW_MS) == []
    assert await shown(store) == []
    assert (await store.counts()) == {"deletion": 1}
    await pull(behind, store)
    assert await shown(behind) == []
    assert await digest(behind) == await digest(store)


async def test_an_expired_message_is_not_stored_and_its_edit_does_not_stay(
    make_store: MakeStore, pen: Pen, seoul: Region
) -> None:
    first, second = await make_store(), await make_store()
    message = pen.message("soon over", expires_at_ms=NOW_MS + 1000)
    edit = pen.edit(message, "soon o.")
    entries = seoul.each(message, edit, pen.message("stays"))
    assert len(await first.apply(entries, NOW_MS)) == 3
    assert texts(await second.apply(entries, NOW_MS + 1000)) == ["stays"]
    assert await first.expire(NOW_MS + 999) == 0  # not in the port
    assert await first.expire(NOW_MS + 1000) == 2
    for store in (first, second):
        assert await shown(store) == ["stays"]
        assert await store.counts() == {"message": 1}
    assert await digest(first) == await digest(second)


@pytest.mark.parametrize("rank", [1, 9])
async def test_an_expired_text_of_an_id_does_not_decide_more_than_it_did_alive(
    make_store: MakeStore, pen: Pen, seoul: Region, busan: Region, rank: int
) -> None:
    stays = pen.message("stays")
    passes = pen.message("passes", id=stays.id, expires_at_ms=NOW_MS + 1000)
    entries = [seoul.log(stays, accepted_ms=NOW_MS + 5), busan.log(passes, accepted_ms=NOW_MS + rank)]
    seen = []
    for order in (entries, entries[::-1]):
        for now_ms in (NOW_MS, NOW_MS + 1000):
            store = await make_store()
            await store.apply(order, now_ms)
            await store.expire(NOW_MS + 1000)
            seen.append(await shown(store))
    assert seen == [["stays"] if rank == 9 else []] * 4


async def test_an_edit_without_its_message_is_in_no_digest(make_store: MakeStore, pen: Pen, seoul: Region) -> None:
    first, second = await make_store(), await make_store()
    message = pen.message("soon over", expires_at_ms=NOW_MS + 1000)
    await first.apply(seoul.each(message, pen.edit(message, "soon o."), pen.title("tea")), NOW_MS)
    # The message expires between two pages of an export.
    await second.import_rows((await first.export("", 1, 10)).rows[1:], NOW_MS)
    await first.expire(NOW_MS + 1000)
    assert (await first.digests([ROOM]))[0] == (await second.digests([ROOM]))[0]


# ---------------------------------------------------------------- reading


async def test_history_pages_backwards_without_gap_or_repetition(store: Store, pen: Pen, seoul: Region) -> None:
    said = [f"{n}" for n in range(10)]
    events = [pen.message(text) for text in said]
    await store.apply(seoul.each(*reversed(events)), NOW_MS)
    pages = []
    page = await store.history(ROOM, None, 4)
    while page.next:
        pages.append(texts(page.messages))
        page = await store.history(ROOM, page.next, 4)
    pages.append(texts(page.messages))
    assert pages == [said[6:], said[2:6], said[:2]]
    assert page.vector == store.vector


async def test_a_page_does_not_end_between_two_messages_of_one_key(store: Store, pen: Pen, seoul: Region) -> None:
    one = pen.message("mine", ANNA, id=uuid(7), hlc=pack(NOW_MS))
    copied = pen.message("copied key", BORIS, id=uuid(7), hlc=pack(NOW_MS))
    await store.apply([seoul.log(one, copied, pen.message("newer"))], NOW_MS)
    newest = await store.history(ROOM, None, 2)
    assert texts(newest.messages) == ["newer"]
    assert texts((await store.history(ROOM, newest.next, 2)).messages) == ["mine", "copied key"]


async def test_registers_of_a_page_are_those_on_its_messages(store: Store, pen: Pen, seoul: Region) -> None:
    old, new = pen.message("old"), pen.message("new")
    thumb, heart = pen.reaction(new, "👍", BORIS), pen.reaction(new, "❤", CHLOE)
    await store.apply(seoul.each(old, new, pen.reaction(old, "👍"), thumb, heart), NOW_MS)
    page = await store.history(ROOM, None, 1)
    assert texts(page.messages) == ["new"]
    assert {r.event for r in page.registers} == {thumb, heart}


async def test_a_conversation_has_its_registers_applied(store: Store, pen: Pen, seoul: Region) -> None:
    assert await store.conversation(ROOM) is None
    await store.apply([seoul.log(pen.membership(CHLOE, Role.ADMIN, 1))], NOW_MS)
    assert await store.conversation(ROOM) is None
    newest = pen.message("hello")
    await store.apply(
        seoul.each(
            pen.conversation([ANNA, BORIS], title="tea"),
            pen.title("coffee", 3),
            newest,
            pen.membership(BORIS, Role.NONE, 2),
        ),
        NOW_MS,
    )
    state = await store.conversation(ROOM)
    assert state is not None
    assert (state.creator, state.title, state.title_version, state.last_hlc) == (ANNA, "coffee", 3, newest.hlc)
    assert state.members == {ANNA: (Role.ADMIN, 0), BORIS: (Role.NONE, 2), CHLOE: (Role.ADMIN, 1)}


async def test_of_two_creations_the_earlier_counts(store: Store, pen: Pen, seoul: Region, busan: Region) -> None:
    early = pen.conversation([ANNA, BORIS], title="early")
    late = pen.conversation([ANNA, CHLOE], title="late", creator=CHLOE)
    assert len(await store.apply([seoul.log(late)], NOW_MS)) == 1
    assert len(await store.apply([busan.log(early)], NOW_MS)) == 1
    state = await store.conversation(ROOM)
    assert state is not None
    assert (state.title, state.creator) == ("early", ANNA)
    assert (await store.conversations_of(CHLOE))[0] == []
    assert len((await store.conversations_of(BORIS))[0]) == 1


async def test_conversations_of_are_those_one_is_in_newest_first(store: Store, seoul: Region) -> None:
    rooms = [account(f"#room{n}") for n in range(3)]
    pens = [Pen(scope, number=100 * n) for n, scope in enumerate(rooms)]
    for p in pens:
        await store.apply([seoul.log(p.conversation([ANNA, BORIS]))], NOW_MS)
    await store.apply([seoul.log(Pen(rooms[0], number=900).message("newest"))], NOW_MS)
    await store.apply([seoul.log(pens[1].membership(BORIS, Role.NONE, 1))], NOW_MS)
    states, vector = await store.conversations_of(BORIS)
    assert [s.scope for s in states] == [rooms[0], rooms[2]]
    assert vector == store.vector
    assert len((await store.conversations_of(ANNA))[0]) == 3


async def test_a_join_page_is_the_creation_the_registers_and_the_newest(store: Store, pen: Pen, seoul: Region) -> None:
    messages = [pen.message(str(n)) for n in range(5)]
    creation, title = pen.conversation(), pen.title("coffee")
    on_old, on_new = pen.reaction(messages[0], "👍"), pen.reaction(messages[4], "👍")
    receipt = pen.receipt(BORIS, 3)
    await store.apply(seoul.each(creation, *messages, title, on_old, on_new, receipt), NOW_MS)
    page = [fact.event for fact in await store.join_page(ROOM, 2)]
    assert page == [creation, title, messages[3], messages[4], on_new, receipt]


async def test_a_join_page_tells_what_was_deleted_of_the_newest(store: Store, pen: Pen, seoul: Region) -> None:
    creation, messages = pen.conversation(), [pen.message(str(n)) for n in range(5)]
    deletions = [pen.deletion(messages[n]) for n in (3, 0, 2)]
    await store.apply(seoul.each(creation, *messages, *deletions), NOW_MS)
    page = [fact.event for fact in await store.join_page(ROOM, 2)]
    assert page == [creation, messages[1], messages[4], deletions[0], deletions[2]]


async def test_the_earlier_claimant_keeps_a_handle_and_the_later_gets_a_suffix(store: Store, pen: Pen) -> None:
    busan, seoul = Region(BUSAN), Region(SEOUL)
    first, second = account("anna-first"), account("anna-second")
    early, late = pen.claim(first, "anna"), pen.claim(second, "anna")
    suffixed = suffixed_handle("anna", second)
    await store.apply([busan.log(late), busan.log(pen.account(second, "anna"))], NOW_MS)
    assert [a.handle for a in await store.claimants("anna")] == ["anna"]
    await store.apply([seoul.log(early)], NOW_MS)
    # The holder's account is not there yet; the handle is taken all the same.
    assert [(a.account, a.handle) for a in await store.claimants("anna")] == [(second, suffixed)]
    await store.apply([seoul.log(pen.account(first, "anna"))], NOW_MS)
    assert [(a.account, a.handle) for a in await store.claimants("anna")] == [(first, "anna"), (second, suffixed)]
    assert [a.account for a in await store.claimants(suffixed)] == [second]
    assert [a.handle for a in await store.accounts([second, first, CHLOE])] == [suffixed, "anna"]
    assert await store.claimants("nobody") == []


async def test_digests_are_of_what_is_asked_with_the_vector_of_their_snapshot(
    make_store: MakeStore, pen: Pen, seoul: Region
) -> None:
    store, empty = await make_store(), await make_store()
    await store.apply(seoul.each(pen.message("hello"), pen.title("tea")), NOW_MS)
    await store.apply([Region(SEOUL).log(Pen().account(ANNA, "anna"))], NOW_MS)  # no conversation
    everything, vector = await store.digests(None)
    assert [(d.scope, d.messages) for d in everything] == [(ROOM, 1)]
    assert vector == store.vector
    (unknown,), _ = await empty.digests([ROOM])
    (nothing,), _ = await store.digests([account("#other")])
    assert unknown.sha256 == nothing.sha256 != everything[0].sha256


async def test_counts_are_rows_by_kind(store: Store, pen: Pen, seoul: Region) -> None:
    await store.apply(seoul.each(pen.message("1"), pen.message("2"), pen.title("tea")), NOW_MS)
    assert await store.counts() == {"message": 2, "title": 1}
