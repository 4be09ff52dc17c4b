"""What every Log and Tail does, real or simulated: claims, appends, blocking reads with what R6 wants behind them."""

from __future__ import annotations

import asyncio

import pytest

from evertalk.core.errors import (
    LogFull,
    LogOutcomeUnknown,
    LogUnavailable,
    OriginLost,
    ShardsMismatch,
    UnsafeRedis,
)
from evertalk.core.ids import region_of
from evertalk.core.model import Stream
from evertalk.ports import Log, Read, Tail
from tests.adapters.conftest import PATIENCE_S, REGION, SHARDS, World, streams_of

BLOCK_S = 30.0  # longer than any test waits: what returns has been woken


async def append(log: Log, *entries: tuple[int, bytes]) -> list[int]:
    """Append, all of it acknowledged."""
    results = await log.append(entries)
    positions = [result for result in results if isinstance(result, int)]
    assert len(positions) == len(entries), results
    return positions


async def settled(tail: Tail, cursors: dict[Stream, int]) -> Read:
    """What there is now: a new tail's first read returns at once because it has not seen the wake stream."""
    async with asyncio.timeout(PATIENCE_S):
        return await tail.read(cursors, 0.0)


# ---------------------------------------------------------------- claims (R3)


async def test_a_second_node_claims_the_same_origin(world: World) -> None:
    origin = await world.log().claim()
    assert region_of(origin) == REGION
    assert await world.log().claim() == origin


async def test_two_nodes_that_claim_at_once_agree(world: World) -> None:
    origins = await asyncio.gather(*(world.log().claim() for _ in range(4)))
    assert len(set(origins)) == 1


async def test_a_restart_closes_the_origin_with_its_last_positions(world: World) -> None:
    log = world.log()
    before = await log.claim()
    await append(log, (0, b"a"), (0, b"b"), (3, b"c"))
    await world.restart()
    after = await world.log().claim()
    assert after != before
    origins = await world.reader().origins()
    assert (origins[before].state, origins[before].last) == ("closed", (2, 0, 0, 1))
    assert (origins[after].state, origins[after].last) == ("open", ())


async def test_an_emptied_redis_is_another_origin(world: World) -> None:
    log = world.log()
    before = await log.claim()
    await append(log, (0, b"a"))
    await world.empty()
    after = await log.claim()
    assert after != before
    assert set(await world.reader().origins()) == {after}


async def test_an_origin_without_one_of_its_streams_is_closed(world: World) -> None:
    log = world.log()
    before = await log.claim()
    await append(log, (0, b"a"), (1, b"b"))
    await world.remove(Stream(before, 1))
    assert await log.claim() != before
    closed = (await world.reader().origins())[before]
    assert (closed.state, closed.last) == ("closed", (1, 0, 0, 0))


async def test_a_new_origin_starts_with_empty_streams(world: World) -> None:
    origin = await world.log().claim()
    states = await world.reader().streams(streams_of(origin))
    assert [(s.last, s.length, s.floor) for s in states.values()] == [(0, 0, 0)] * SHARDS


async def test_another_number_of_shards_is_refused_with_both_numbers(world: World) -> None:
    await world.log(shards=4).claim()
    with pytest.raises(ShardsMismatch, match=r"created with 4 shards.* set to 8"):
        await world.log(shards=8).claim()


async def test_a_redis_of_another_region_is_refused(world: World) -> None:
    await world.log(region="seoul").claim()
    with pytest.raises(UnsafeRedis, match="belongs to region 'seoul', not to 'busan'"):
        await world.log(region="busan").claim()


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("appendonly", "no", "appendonly yes"),
        ("appendfsync", "everysec", "appendfsync always"),
        ("maxmemory-policy", "allkeys-lru", "maxmemory-policy noeviction"),
        ("no-appendfsync-on-rewrite", "yes", "no-appendfsync-on-rewrite no"),
    ],
)
async def test_a_redis_that_may_forget_is_refused_by_the_settings_name(
    world: World, name: str, value: str, wanted: str
) -> None:
    await world.misconfigure(name, value)
    with pytest.raises(UnsafeRedis, match=f"'{name} {value}'.* set '{wanted}'"):
        await world.log().claim()


async def test_a_redis_that_is_not_there_is_unavailable(world: World) -> None:
    await world.kill()
    with pytest.raises(LogUnavailable):
        await world.log().claim()


# ---------------------------------------------------------------- appends


async def test_positions_are_dense_and_count_per_shard(world: World) -> None:
    log, other = world.log(), world.log()
    await log.claim()
    await other.claim()
    assert await append(log, (0, b"a"), (1, b"b"), (0, b"c")) == [1, 1, 2]
    assert await append(other, (0, b"d"), (2, b"e")) == [3, 1]
    assert await append(log, (0, b"f")) == [4]


async def test_nothing_is_appended_before_a_claim(world: World) -> None:
    with pytest.raises(LogUnavailable):
        await world.log().append([(0, b"a")])


async def test_appending_after_redis_was_emptied_finds_the_origin_lost(world: World) -> None:
    log = world.log()
    await log.claim()
    await world.empty()
    assert [type(r) for r in await log.append([(0, b"a"), (1, b"b")])] == [OriginLost, OriginLost]
    with pytest.raises(LogUnavailable):
        await log.append([(0, b"a")])
    assert await world.reader().streams([Stream(o, 0) for o in await world.reader().origins()]) == {}


async def test_one_lost_stream_does_not_take_the_others_positions(world: World) -> None:
    log = world.log()
    origin = await log.claim()
    await world.remove(Stream(origin, 1))
    first, second, third = await log.append([(0, b"a"), (1, b"b"), (0, b"c")])
    assert (first, third) == (1, 2)
    assert isinstance(second, OriginLost)


async def test_a_full_redis_refuses_and_takes_again_later(world: World) -> None:
    log = world.log()
    await log.claim()
    await append(log, (0, b"a"))
    await world.fill()
    assert [type(r) for r in await log.append([(0, b"b"), (1, b"c")])] == [LogFull, LogFull]
    await world.drain()
    assert await append(log, (0, b"d"), (1, b"e")) == [2, 1]


async def test_a_full_redis_can_be_claimed(world: World) -> None:
    before = await world.log().claim()
    await world.restart()
    await world.fill()
    assert await world.log().claim() != before


async def test_a_kill_before_the_reply_leaves_the_outcome_unknown(world: World) -> None:
    log = world.log()
    before = await log.claim()
    await append(log, (0, b"kept"), (1, b"kept"), (0, b"kept"))
    world.freeze()
    pending = asyncio.ensure_future(log.append([(0, b"maybe"), (1, b"maybe")]))
    await asyncio.sleep(0)  # it runs up to its first wait: sent
    await world.kill()
    assert [type(r) for r in await pending] == [LogOutcomeUnknown, LogOutcomeUnknown]

    await world.restart()
    after = await log.claim()
    assert after != before
    read = await settled(world.tail(), {Stream(before, shard): 0 for shard in range(SHARDS)})
    kept = [(e.stream.shard, e.position) for e in read.entries if e.payload == b"kept"]
    assert kept == [(0, 1), (0, 2), (1, 1)]
    last = dict.fromkeys(range(SHARDS), 0) | {e.stream.shard: e.position for e in read.entries}
    assert read.origins[before].state == "closed"
    assert read.origins[before].last == tuple(last.values())


async def test_a_lost_reply_is_unknown_and_may_have_been_written(world: World) -> None:
    wire = await world.wire()
    log = world.log(wire=wire)
    origin = await log.claim()
    wire.hold_replies()
    pending = asyncio.ensure_future(log.append([(0, b"ghost")]))
    await wire.replied()
    wire.cut()
    assert [type(r) for r in await pending] == [LogOutcomeUnknown]
    read = await settled(world.tail(), {Stream(origin, 0): 0})
    assert [e.payload for e in read.entries] == [b"ghost"]
    with pytest.raises(LogUnavailable):
        await log.append([(0, b"again")])


async def test_a_cancelled_append_leaves_the_log_closed(world: World) -> None:
    wire = await world.wire()
    log = world.log(wire=wire)
    origin = await log.claim()
    wire.hold_replies()
    pending = asyncio.ensure_future(log.append([(0, b"ghost")]))
    await wire.replied()
    pending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pending
    with pytest.raises(LogUnavailable):
        await log.append([(0, b"again")])
    assert await world.log().claim() == origin


async def test_a_connection_that_broke_while_idle_is_found_before_sending(world: World) -> None:
    log = world.log()
    await log.claim()
    await world.restart()
    with pytest.raises(LogUnavailable):
        await log.append([(0, b"a")])


# ---------------------------------------------------------------- tails (R6)


async def test_a_tail_gives_entries_after_each_cursor(world: World) -> None:
    log = world.log()
    origin = await log.claim()
    await append(log, (0, b"a"), (0, b"b"), (1, b"c"), (0, b"d"))
    read = await settled(world.tail(), {Stream(origin, 0): 1, Stream(origin, 1): 0, Stream(origin, 2): 0})
    assert [(e.stream.shard, e.position, e.payload) for e in read.entries] == [
        (0, 2, b"b"),
        (0, 3, b"d"),
        (1, 1, b"c"),
    ]
    assert (read.missing, read.floors) == (set(), {})
    assert read.origins[origin].state == "open"


async def test_count_limits_the_entries_of_each_stream(world: World) -> None:
    log = world.log()
    origin = await log.claim()
    await append(log, *((shard, b"x") for shard in (0, 1) for _ in range(5)))
    read = await world.tail().read({Stream(origin, 0): 0, Stream(origin, 1): 2}, 0.0, count=2)
    assert [(e.stream.shard, e.position) for e in read.entries] == [(0, 1), (0, 2), (1, 3), (1, 4)]


async def test_a_blocked_read_returns_when_an_entry_comes(world: World) -> None:
    log = world.log()
    origin = await log.claim()
    tail = world.tail()
    await settled(tail, {Stream(origin, 0): 0})
    pending = asyncio.ensure_future(tail.read({Stream(origin, 0): 0}, BLOCK_S))
    await append(log, (0, b"a"))
    async with asyncio.timeout(PATIENCE_S):
        read = await pending
    assert [e.payload for e in read.entries] == [b"a"]


async def test_a_read_ends_empty_when_nothing_comes(world: World) -> None:
    origin = await world.log().claim()
    tail = world.tail()
    await settled(tail, {Stream(origin, 0): 0})
    read = await tail.read({Stream(origin, 0): 0}, 0.01)
    assert read.entries == []
    assert set(read.origins) == {origin}


async def test_a_blocked_read_wakes_when_origins_change(world: World) -> None:
    log = world.log()
    before = await log.claim()
    tail = world.tail()
    await settled(tail, {Stream(before, 0): 0})
    pending = asyncio.ensure_future(tail.read({Stream(before, 0): 0}, BLOCK_S))
    await world.remove(Stream(before, 2))
    after = await log.claim()
    async with asyncio.timeout(PATIENCE_S):
        read = await pending
    assert read.entries == []
    assert (read.origins[before].state, read.origins[after].state) == ("closed", "open")


async def test_a_tail_tells_floors_of_what_it_was_asked(world: World) -> None:
    log = world.log()
    origin = await log.claim()
    await append(log, *((shard, b"x") for shard in (0, 1) for _ in range(3)))
    await world.board().trim(Stream(origin, 0), 2)
    await world.board().trim(Stream(origin, 1), 1)
    read = await settled(world.tail(), {Stream(origin, 0): 0})
    assert [e.position for e in read.entries] == [3]
    assert read.floors == {Stream(origin, 0): 2}


async def test_a_tail_names_streams_that_are_not_there_until_they_are(world: World) -> None:
    log = world.log()
    origin = await log.claim()
    here, gone, never = Stream(origin, 0), Stream(origin, 1), Stream("busan-X", 0, True)
    cursors = {here: 0, gone: 0, never: 0}
    tail = world.tail()
    assert (await settled(tail, cursors)).missing == {never}
    assert (await settled(tail, cursors)).missing == {never}
    await world.remove(gone)
    assert (await settled(tail, cursors)).missing == {gone, never}
    await world.board().jump_mirror("busan-X", 0, 7)
    assert (await settled(tail, cursors)).missing == {gone}
    await world.empty()
    assert (await settled(tail, cursors)).missing == {here, gone, never}


async def test_a_tail_without_streams_waits_for_origins(world: World) -> None:
    tail = world.tail()
    assert (await settled(tail, {})).origins == {}
    pending = asyncio.ensure_future(tail.read({}, BLOCK_S))
    origin = await world.log().claim()
    async with asyncio.timeout(PATIENCE_S):
        assert set((await pending).origins) == {origin}


async def test_a_tail_reconnects_by_itself_after_a_restart(world: World) -> None:
    log = world.log()
    origin = await log.claim()
    await append(log, (0, b"a"))
    tail = world.tail(peer=True)
    await settled(tail, {Stream(origin, 0): 1})
    pending = asyncio.ensure_future(tail.read({Stream(origin, 0): 1}, BLOCK_S))
    await asyncio.sleep(0)
    await world.kill()
    with pytest.raises(LogUnavailable):
        await pending
    with pytest.raises(LogUnavailable):
        await tail.read({Stream(origin, 0): 0}, BLOCK_S)
    await world.restart()
    assert [e.payload for e in (await settled(tail, {Stream(origin, 0): 0})).entries] == [b"a"]


async def test_a_cancelled_read_does_not_confuse_the_next(world: World) -> None:
    log = world.log()
    origin = await log.claim()
    tail = world.tail()
    await settled(tail, {Stream(origin, 0): 0})
    pending = asyncio.ensure_future(tail.read({Stream(origin, 0): 0}, BLOCK_S))
    await asyncio.sleep(0)
    pending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pending
    await append(log, (0, b"a"))
    assert [e.payload for e in (await settled(tail, {Stream(origin, 0): 0})).entries] == [b"a"]
