"""What every Board and BoardReader does, real or simulated: mirrors, trimming, store entries, origins, watermarks."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import pytest

from evertalk.core.errors import LogError, LogFull, LogUnavailable
from evertalk.core.model import Stream
from evertalk.core.vector import Hole, Vector
from evertalk.ports import MirrorBatch, OriginInfo, StoreEntry, Watermark
from tests.adapters.conftest import PATIENCE_S, SHARDS, World, streams_of

PEER = "busan-01JPEER"
MIRROR = Stream(PEER, 0, True)
LIFE = "seoul-01JOWN/0"


def batch(predecessor: int, *payloads: bytes, shard: int = 0) -> tuple[list[MirrorBatch], list[Watermark]]:
    """Payloads behind `predecessor`, and the watermark of the last of them."""
    entries = tuple(enumerate(payloads, predecessor + 1))
    mark = Watermark("seoul", LIFE, PEER, shard, predecessor + len(payloads))
    return [MirrorBatch(PEER, shard, predecessor, entries)], [mark]


async def next_of(marks: AsyncIterator[list[Watermark]]) -> list[Watermark]:
    """The next item of a subscription."""
    async with asyncio.timeout(PATIENCE_S):
        return await anext(marks)


def entry(node: str = "seoul-1", age_s: float = 0.0) -> StoreEntry:
    """What a store might publish, holes included."""
    vector = Vector({(PEER, 0): 7, (PEER, 3): 2}, [Hole(PEER, 0, 3, 4)])
    return StoreEntry(node, "seoul", "life-1", "SERVING", vector, Vector({(PEER, 0): 5}), age_s)


# ---------------------------------------------------------------- mirrors (R4)


async def test_a_mirror_takes_entries_with_the_positions_of_the_log(world: World) -> None:
    board = world.board()
    assert await board.append_mirror(*batch(0, b"a", b"b")) == [True]
    assert await board.append_mirror(*batch(2, b"c")) == [True]
    read = await world.tail().read({MIRROR: 0}, 0.0)
    assert [(e.stream, e.position, e.payload) for e in read.entries] == [
        (MIRROR, 1, b"a"),
        (MIRROR, 2, b"b"),
        (MIRROR, 3, b"c"),
    ]


@pytest.mark.parametrize("predecessor", [1, 3])
async def test_a_mirror_append_behind_another_than_the_last_writes_nothing(world: World, predecessor: int) -> None:
    board = world.board()
    await board.append_mirror(*batch(0, b"a", b"b"))
    assert await board.append_mirror(*batch(predecessor, b"x")) == [False]
    assert (await board.streams([MIRROR]))[MIRROR].last == 2


async def test_a_mirror_that_is_not_there_begins_at_zero(world: World) -> None:
    assert await world.board().append_mirror(*batch(4, b"x")) == [False]
    assert await world.board().streams([MIRROR]) == {}


async def test_batches_of_one_call_fare_each_on_their_own(world: World) -> None:
    board = world.board()
    good, bad, other = batch(0, b"a"), batch(9, b"x", shard=1), batch(0, b"b", shard=2)
    batches = [*good[0], *bad[0], *other[0]]
    assert await board.append_mirror(batches, [*good[1], *bad[1], *other[1]]) == [True, False, True]


async def test_a_batch_with_a_gap_is_the_callers_mistake(world: World) -> None:
    gapped = MirrorBatch(PEER, 0, 0, ((1, b"a"), (3, b"c")))
    with pytest.raises(ValueError, match="without a gap"):
        await world.board().append_mirror([gapped], batch(0, b"a")[1])
    assert await world.board().streams([MIRROR]) == {}


async def test_two_racing_replicators_leave_neither_holes_nor_doubles(world: World) -> None:
    log = [b"entry %d" % n for n in range(1, 41)]

    async def replicate(step: int) -> None:
        board, last = world.board(), 0
        while last < len(log):
            if (await board.append_mirror(*batch(last, *log[last : last + step])))[0]:
                last += step
            else:
                states = await board.streams([MIRROR])
                last = states[MIRROR].last if states else 0

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        group.create_task(replicate(2))
        group.create_task(replicate(5))
    read = await world.tail().read({MIRROR: 0}, 0.0, count=100)
    assert [(e.position, e.payload) for e in read.entries] == list(enumerate(log, 1))


async def test_a_full_redis_mirrors_nothing(world: World) -> None:
    board = world.board()
    await board.append_mirror(*batch(0, b"a"))
    await world.fill()
    with pytest.raises(LogFull):
        await board.append_mirror(*batch(1, b"b", b"c"))
    await world.drain()
    assert await board.append_mirror(*batch(1, b"b", b"c")) == [True]


async def test_mirrors_survive_a_kill(world: World) -> None:
    await world.board().append_mirror(*batch(0, b"a", b"b"))
    await world.board().jump_mirror(PEER, 1, 9)
    await world.restart()
    states = await world.reader().streams(streams_of(PEER, True))
    assert {s.shard: (v.last, v.length, v.base) for s, v in states.items()} == {0: (2, 2, 0), 1: (9, 0, 9)}


async def test_scripts_that_were_flushed_are_loaded_again(world: World) -> None:
    board = world.board()
    await board.append_mirror(*batch(0, b"a"))
    await world.forget_scripts()
    assert await board.append_mirror(*batch(1, b"b")) == [True]


async def test_a_board_goes_on_after_a_restart(world: World) -> None:
    board = world.board()
    await board.publish_store(entry())
    await world.restart()
    assert await board.append_mirror(*batch(0, b"a")) == [True]
    await world.kill()
    with pytest.raises(LogUnavailable):
        await board.trim(MIRROR, 1)


# ---------------------------------------------------------------- jump


@pytest.mark.parametrize("held", [0, 2])
async def test_a_jump_starts_the_mirror_behind_the_floor(world: World, held: int) -> None:
    board = world.board()
    await board.append_mirror(*batch(0, *[b"old"] * held))
    assert await board.jump_mirror(PEER, 0, 7) == 7
    state = (await board.streams([MIRROR]))[MIRROR]
    assert (state.last, state.length, state.floor, state.base) == (7, 0, 7, 7)
    assert await board.append_mirror(*batch(held, b"x")) == [False]
    assert await board.append_mirror(*batch(7, b"h")) == [True]
    read = await world.tail().read({MIRROR: 0}, 0.0)
    assert ([e.position for e in read.entries], read.floors) == ([8], {MIRROR: 7})


async def test_a_mirror_that_is_further_does_not_jump(world: World) -> None:
    board = world.board()
    await board.append_mirror(*batch(0, b"a", b"b", b"c"))
    assert await board.jump_mirror(PEER, 0, 3) == 3
    state = (await board.streams([MIRROR]))[MIRROR]
    assert (state.last, state.length, state.floor, state.base) == (3, 3, 0, 0)


async def test_no_jump_to_the_beginning(world: World) -> None:
    assert await world.board().jump_mirror(PEER, 0, 0) == 0
    assert await world.board().streams([MIRROR]) == {}


# ---------------------------------------------------------------- trim (R6)


async def test_a_trim_raises_the_floor_and_removes_what_is_below(world: World) -> None:
    board = world.board()
    await board.append_mirror(*batch(0, b"a", b"b", b"c", b"d"))
    await board.trim(MIRROR, 3)
    state = (await board.streams([MIRROR]))[MIRROR]
    assert (state.last, state.length, state.floor) == (4, 1, 3)


async def test_a_trim_never_goes_back_nor_beyond_the_end(world: World) -> None:
    board = world.board()
    await board.append_mirror(*batch(0, b"a", b"b", b"c"))
    await board.trim(MIRROR, 2)
    await board.trim(MIRROR, 1)
    assert (await board.streams([MIRROR]))[MIRROR].floor == 2
    await board.trim(MIRROR, 99)
    state = (await board.streams([MIRROR]))[MIRROR]
    assert (state.last, state.length, state.floor) == (3, 0, 3)
    assert await board.append_mirror(*batch(3, b"d")) == [True]


async def test_trimming_what_is_not_there_leaves_no_trace(world: World) -> None:
    await world.board().trim(MIRROR, 5)
    assert await world.board().jump_mirror(PEER, 0, 0) == 0
    assert (await world.tail().read({MIRROR: 0}, 0.0)).floors == {}


async def test_a_full_redis_can_be_trimmed(world: World) -> None:
    """Else it would stay full: stores must be heard and floors raised before anything is freed."""
    log, board = world.log(), world.board()
    own = Stream(await log.claim(), 0)
    await log.append([(0, b"a"), (0, b"b")])
    await board.append_mirror(*batch(0, b"a", b"b"))
    await world.fill()
    await board.publish_store(entry())
    await board.trim(own, 2)
    await board.trim(MIRROR, 1)
    await board.jump_mirror(PEER, 1, 5)
    await board.carry_origins([OriginInfo(PEER, "busan", "open")])
    await board.fold(PEER)
    assert (await board.streams([own]))[own].length == 0
    assert len(await board.stores()) == 1


# ---------------------------------------------------------------- streams


async def test_streams_tell_their_size_and_skip_what_is_not_there(world: World) -> None:
    board = world.board()
    await board.append_mirror(*batch(0, b"a"))
    small = (await board.streams([MIRROR]))[MIRROR].bytes
    await board.append_mirror(*batch(1, *[b"x" * 4000] * 20))
    states = await world.reader(peer=True).streams([MIRROR, Stream(PEER, 1, True), Stream("nobody", 0)])
    assert set(states) == {MIRROR}
    assert states[MIRROR].bytes - small > 20 * 4000 * 0.9


# ---------------------------------------------------------------- store entries (R8)


async def test_a_store_entry_comes_back_whole_with_its_age(world: World) -> None:
    board = world.board()
    await board.publish_store(entry())
    await world.age_stores(20)
    [found] = await world.reader(peer=True).stores()
    assert dataclasses.replace(found, age_s=0.0) == entry()
    assert 20 <= found.age_s < 20 + PATIENCE_S


async def test_a_store_entry_is_gone_after_a_minute(world: World) -> None:
    board = world.board()
    await board.publish_store(entry("old"))
    await world.age_stores(61)
    await board.publish_store(entry("new"))
    assert [e.node for e in await board.stores()] == ["new"]


async def test_a_carried_entry_keeps_its_age_and_a_younger_one_is_not_replaced(world: World) -> None:
    board = world.board()
    await board.publish_store(entry(age_s=40))
    [carried] = await board.stores()
    assert 40 <= carried.age_s < 40 + PATIENCE_S
    await board.publish_store(dataclasses.replace(entry(), life="life-2"))
    await board.publish_store(entry(age_s=30))
    await board.publish_store(entry("too-old", age_s=60))
    assert [(e.node, e.life) for e in await board.stores()] == [("seoul-1", "life-2")]


async def test_many_stores_are_all_found(world: World) -> None:
    board = world.board()
    names = {f"node-{n}" for n in range(30)}
    await asyncio.gather(*(board.publish_store(entry(name)) for name in names))
    assert {e.node for e in await board.stores()} == names


# ---------------------------------------------------------------- origins (R16)


async def test_what_peers_know_of_origins_only_moves_forward(world: World) -> None:
    board = world.board()
    await board.carry_origins([OriginInfo(PEER, "busan", "open")])
    await board.carry_origins([OriginInfo(PEER, "busan", "closed", (3, 0, 2, 1))])
    await board.carry_origins([OriginInfo(PEER, "busan", "open", (1, 5))])
    assert (await board.origins())[PEER] == OriginInfo(PEER, "busan", "closed", (3, 5, 2, 1))


async def test_only_news_of_origins_wakes_tails(world: World) -> None:
    board, tail = world.board(), world.tail()
    known = OriginInfo(PEER, "busan", "closed", (3, 0, 0, 0))
    await board.carry_origins([known])
    await tail.read({}, 0.0)

    pending = asyncio.ensure_future(tail.read({MIRROR: 0}, 30.0))
    await board.carry_origins([known, dataclasses.replace(known, state="open", last=())])
    await board.append_mirror(*batch(0, b"a"))
    async with asyncio.timeout(PATIENCE_S):
        assert [e.payload for e in (await pending).entries] == [b"a"]  # this woke it, not the old news

    pending = asyncio.ensure_future(tail.read({MIRROR: 1}, 30.0))
    await board.carry_origins([dataclasses.replace(known, last=(4, 0, 0, 0))])
    async with asyncio.timeout(PATIENCE_S):
        assert (await pending).origins[PEER].last == (4, 0, 0, 0)


async def test_the_own_open_origin_is_nobody_elses_to_close(world: World) -> None:
    own = await world.log().claim()
    await world.board().carry_origins([OriginInfo(own, "seoul", "closed", (9, 9, 9, 9))])
    assert (await world.board().origins())[own] == OriginInfo(own, "seoul", "open")
    await world.board().fold(own)
    assert await world.log().claim() == own


async def test_an_earlier_life_of_this_region_that_peers_hold_open_is_closed(world: World) -> None:
    """A region that came back without its disks does not know it; it has one open origin."""
    await world.log().claim()
    await world.board().carry_origins([OriginInfo("seoul-01JBURNT", "seoul", "open")])
    assert (await world.board().origins())["seoul-01JBURNT"].state == "closed"


async def test_a_claim_closes_an_earlier_life_that_peers_hold_open(world: World) -> None:
    await world.board().carry_origins([OriginInfo("seoul-01JBURNT", "seoul", "open", (4, 0, 0, 0))])
    await world.log().claim()
    assert (await world.board().origins())["seoul-01JBURNT"] == OriginInfo(
        "seoul-01JBURNT", "seoul", "closed", (4, 0, 0, 0)
    )


async def test_large_positions_stay_whole_numbers(world: World) -> None:
    board = world.board()
    last = (2**50 + 1, 10**15, 0, 0)
    await board.carry_origins([OriginInfo(PEER, "busan", "closed", last)])
    await board.carry_origins([OriginInfo(PEER, "busan", "closed", (1, 1, 1, 1))])
    assert (await board.origins())[PEER].last == (2**50 + 1, 10**15, 1, 1)
    assert await board.jump_mirror(PEER, 0, 10**15) == 10**15
    assert await board.append_mirror(*batch(10**15, b"a", b"b")) == [True]
    await board.trim(MIRROR, 10**15 + 1)
    state = (await board.streams([MIRROR]))[MIRROR]
    assert (state.last, state.length, state.floor, state.base) == (10**15 + 2, 1, 10**15 + 1, 10**15)


async def test_folding_removes_streams_floors_and_bases_and_keeps_the_name(world: World) -> None:
    board, tail = world.board(), world.tail()
    await board.carry_origins([OriginInfo(PEER, "busan", "closed", (8, 0, 0, 0))])
    await world.log().claim()
    await board.jump_mirror(PEER, 0, 7)
    await board.append_mirror(*batch(7, b"h"))
    await board.fold(PEER)
    await board.fold(PEER)
    read = await tail.read(dict.fromkeys(streams_of(PEER, True), 0), 0.0)
    assert (read.entries, read.floors, len(read.missing)) == ([], {}, SHARDS)
    assert read.origins[PEER] == OriginInfo(PEER, "busan", "folded", (8, 0, 0, 0))


async def test_what_is_folded_stays_folded(world: World) -> None:
    """A replicator back from a SIGSTOP must not raise it from the dead."""
    board = world.board()
    await board.fold(PEER)
    await board.carry_origins([OriginInfo(PEER, "busan", "open")])
    assert (await board.origins())[PEER].state == "folded"
    assert await board.append_mirror(*batch(0, b"a")) == [False]
    assert await board.jump_mirror(PEER, 0, 7) == 0
    assert await board.streams([MIRROR]) == {}


async def test_a_peer_that_folded_first_takes_our_mirror_along(world: World) -> None:
    board = world.board()
    await board.append_mirror(*batch(0, b"a"))
    await board.carry_origins([OriginInfo(PEER, "busan", "folded", (1, 0, 0, 0))])
    assert await board.streams([MIRROR]) == {}


async def test_only_a_folded_origin_is_forgotten(world: World) -> None:
    board = world.board()
    await board.carry_origins([OriginInfo(PEER, "busan", "closed")])
    await board.forget_folded(PEER)
    assert set(await board.origins()) == {PEER}
    await board.fold(PEER)
    await board.forget_folded(PEER)
    assert await board.origins() == {}


async def test_folding_an_own_closed_origin_removes_its_log(world: World) -> None:
    log = world.log()
    before = await log.claim()
    await log.append([(0, b"a")])
    await world.restart()
    after = await log.claim()
    await world.board().fold(before)
    states = await world.board().streams([*streams_of(before), *streams_of(after)])
    assert {s.origin for s in states} == {after}
    assert await log.claim() == after


# ---------------------------------------------------------------- watermarks


async def test_a_watermark_is_announced_behind_its_append(world: World) -> None:
    board, marks = world.board(), world.reader(peer=True).watermarks()
    assert await next_of(marks) == []
    batches, announce = batch(0, b"a", b"b")
    await board.append_mirror(batches, announce)
    assert await next_of(marks) == announce
    assert (await board.streams([MIRROR]))[MIRROR].last == 2


async def test_nothing_is_announced_for_what_was_not_appended_or_has_no_watermark(world: World) -> None:
    board, marks = world.board(), world.reader(peer=False).watermarks()
    assert await next_of(marks) == []
    await board.append_mirror(*batch(5, b"x"))
    batches, announce = batch(0, b"a")
    await board.append_mirror(batches, [dataclasses.replace(announce[0], position=0)])
    last = batch(1, b"b")
    await board.append_mirror(*last)
    assert await next_of(marks) == last[1]


async def test_nodes_are_told_what_is_relayed_and_peers_what_is_announced(world: World) -> None:
    board = world.board()
    own, relayed = batch(0, b"a")[1], [Watermark("busan", "busan-X/4", "seoul-Y", 2, 9)]
    node, peer = world.reader().watermarks(relayed=True), world.reader().watermarks()
    assert (await next_of(node), await next_of(peer)) == ([], [])
    await board.announce(own * 2, relayed=False)
    await board.announce(relayed, relayed=True)
    assert await next_of(node) == relayed
    assert await next_of(peer) == own * 2


async def test_a_subscription_breaks_when_redis_does(world: World) -> None:
    marks = world.reader().watermarks()
    await next_of(marks)
    await world.kill()
    with pytest.raises(LogUnavailable):
        await next_of(marks)
    with pytest.raises(LogUnavailable):
        await next_of(world.reader().watermarks())


async def test_a_subscription_notices_a_link_that_swallows_everything(world: World) -> None:
    wire = await world.wire()
    marks = world.reader(wire=wire).watermarks()
    await next_of(marks)
    wire.hold_replies()
    with pytest.raises(LogUnavailable):
        await next_of(marks)


async def test_a_quiet_subscription_lives_on(world: World) -> None:
    marks = world.reader().watermarks()
    await next_of(marks)
    waiting = asyncio.ensure_future(anext(marks))
    assert not (await asyncio.wait([waiting], timeout=1.0))[0]  # several pings long
    announce = batch(0, b"a")[1]
    await world.board().announce(announce, relayed=False)
    async with asyncio.timeout(PATIENCE_S):
        assert await waiting == announce


# ---------------------------------------------------------------- rights and housekeeping


async def test_a_peer_reads_everything_and_writes_nothing(world: World) -> None:
    board, intruder = world.board(), world.intruder()
    own = await world.log().claim()
    await board.append_mirror(*batch(0, b"a"))
    for attempt in (
        intruder.append_mirror(*batch(1, b"b")),
        intruder.trim(MIRROR, 1),
        intruder.jump_mirror(PEER, 0, 9),
        intruder.publish_store(entry()),
        intruder.carry_origins([OriginInfo(PEER, "busan", "closed")]),
        intruder.fold(PEER),
        intruder.announce(batch(0, b"a")[1], relayed=False),
        intruder.rewrite_aof(),
    ):
        with pytest.raises(LogError):
            await attempt
    reader = world.reader(peer=True)
    assert set(await reader.origins()) == {own}
    assert (await reader.streams([MIRROR]))[MIRROR].last == 1
    assert await reader.stores() == []
    assert [e.payload for e in (await world.tail(peer=True).read({MIRROR: 0}, 0.0)).entries] == [b"a"]


async def test_memory_is_told_with_its_limit(world: World) -> None:
    used, limit = await world.board().memory()
    assert used > 0
    assert limit == 0


async def test_a_rewrite_may_be_asked_for_at_any_time(world: World) -> None:
    board = world.board()
    await board.append_mirror(*batch(0, b"a"))
    await board.jump_mirror(PEER, 1, 5)
    await asyncio.gather(*(board.rewrite_aof() for _ in range(3)))
    await world.restart()
    states = await world.reader().streams(streams_of(PEER, True))
    assert {s.shard: v.last for s, v in states.items()} == {0: 1, 1: 5}
