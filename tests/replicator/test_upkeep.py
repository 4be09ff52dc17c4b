"""Upkeep in stories: what is carried, trimmed, folded and forgotten, and that waiting costs nothing."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from evertalk.core.errors import LogUnavailable
from evertalk.core.model import Stream
from evertalk.core.vector import Hole
from evertalk.ports import OriginInfo
from evertalk.replicator.pull import CATCHING_UP, LIVE
from evertalk.replicator.retry import Retry
from tests.replicator.fakes import ENTRY_BYTES, FakeIds, World, play, until

SEOUL, BUSAN, JEJU = "seoul-1", "busan-1", "jeju-1"


def test_stores_are_carried_across_with_their_age_and_only_from_home() -> None:
    async def story() -> None:
        async with World("seoul", "busan", "jeju") as world:
            seoul, jeju = world.redis["seoul"], world.redis["jeju"]
            world.start("busan")
            world.start("jeju")
            seoul.store("seoul-a", {(SEOUL, 0): 3})
            await until(lambda: "seoul-a" in world.redis["busan"].stores)
            await until(lambda: "seoul-a" in jeju.stores)
            world.cut("seoul", "jeju")
            world.cut("seoul", "busan")
            await asyncio.sleep(30)
            [entry] = await world.boards["jeju"].stores()
            assert entry.node == "seoul-a"
            assert 29 <= entry.age_s <= 31, "nobody made it younger on the way"

    play(story())


def test_a_log_keeps_what_own_stores_or_a_peer_lack_and_lets_the_peer_go_at_the_cap() -> None:
    async def story() -> None:
        cap = 200 * ENTRY_BYTES
        async with World("seoul", "busan", log_keep=10, log_cap_bytes=cap) as world:
            seoul = world.redis["seoul"]
            upkeep = world.start("seoul")
            pull = world.start("busan").pulls["seoul"]
            await until(lambda: pull.state == LIVE)
            log = seoul.level(SEOUL, mirror=False)
            seoul.write(0, *[b"x"] * 100)
            await asyncio.sleep(3)
            assert log.floor == 0, "no store holds anything"
            seoul.store("seoul-a", {(SEOUL, 0): 80})
            await until(lambda: log.floor == 80)
            seoul.store("seoul-b", {(SEOUL, 0): 85})
            seoul.store("seoul-a", {(SEOUL, 0): 95})
            await until(lambda: log.floor == 85)
            seoul.store("seoul-b", {(SEOUL, 0): 100})
            seoul.store("seoul-a", {(SEOUL, 0): 100}, [Hole(SEOUL, 0, 3, 85)])  # long gone from the log
            await until(lambda: log.floor == 90)

            world.links["busan", "seoul"].cut()
            seoul.write(0, *[b"x"] * 150)
            seoul.store("seoul-a", {(SEOUL, 0): 250})
            seoul.store("seoul-b", {(SEOUL, 0): 250})
            await until(lambda: log.floor == 100)
            await asyncio.sleep(3)
            assert log.floor == 100, "busan has not got the rest"
            seoul.write(0, *[b"x"] * 100)
            await until(lambda: log.floor == 150)
            assert log.last - log.floor == cap // ENTRY_BYTES
            seoul.write(0, *[b"x"] * 300)
            await asyncio.sleep(3)
            assert log.floor == 250, "own stores are never let go"
            assert not upkeep.region.stopped, "that is for mirrors"

    play(story())


def test_a_mirror_that_own_stores_hold_back_stops_at_its_cap_and_goes_on() -> None:
    async def story() -> None:
        async with World("seoul", "busan", log_keep=0, log_cap_bytes=100 * ENTRY_BYTES) as world:
            seoul, busan = world.redis["seoul"], world.redis["busan"]
            replicator = world.start("busan")
            seoul.write(0, *[b"x"] * 150)
            await until(lambda: replicator.region.stopped == {(SEOUL, 0)})
            seoul.write(0, *[b"x"] * 50)
            last = seoul.write(1, b"another shard goes on")
            await until(lambda: busan.level(SEOUL, 1).last == last)
            await asyncio.sleep(3)
            assert busan.level(SEOUL).last == 150
            busan.store("busan-a", {(SEOUL, 0): 150})
            await until(lambda: busan.level(SEOUL).last == 200)

    play(story())


def test_a_mirror_that_stops_in_full_flow_leaves_no_spinning_reader() -> None:
    async def story() -> None:
        async with World("seoul", "busan", log_keep=0, log_cap_bytes=100 * ENTRY_BYTES) as world:
            replicator = world.start("busan")
            link = world.links["busan", "seoul"]
            world.boards["busan"].reply_s = 0.01
            while not replicator.region.stopped:
                world.redis["seoul"].write(0, b"x")
                await asyncio.sleep(0.0005)
            before = link.reads
            for _ in range(1800):
                world.redis["seoul"].write(0, b"x")
                await asyncio.sleep(0.0005)
            assert link.reads - before <= 5

    play(story())


def test_a_redis_short_of_memory_stops_mirroring_before_its_own_writes_have_to_stop() -> None:
    async def story() -> None:
        async with World("seoul", "busan") as world:
            replicator = world.start("busan")
            world.redis["busan"].memory = (90, 100)
            await until(lambda: replicator.region.pressed)
            await asyncio.sleep(1.1)
            world.redis["seoul"].write(0, b"a")
            await asyncio.sleep(3)
            assert world.redis["busan"].held(SEOUL) == []
            world.redis["busan"].memory = (50, 100)
            await until(lambda: world.redis["busan"].held(SEOUL) == [b"a"])

    play(story())


def test_a_closed_origin_folds_once_every_regions_stores_hold_all_of_it() -> None:
    async def story() -> None:
        async with World("seoul", "busan") as world:
            seoul, busan = world.redis["seoul"], world.redis["busan"]
            seoul.write(0, b"1", b"2")
            seoul.claim("seoul-2")
            world.start("seoul")
            world.start("busan")
            seoul.store("seoul-a", {(SEOUL, 0): 2})
            await until(lambda: busan.held(SEOUL) == [b"1", b"2"])
            await asyncio.sleep(5)
            assert busan.origins[SEOUL].state == "closed", "busan has no store"
            busan.store("busan-a", {(SEOUL, 0): 2})
            busan.store("busan-b", {(SEOUL, 0): 1})
            await asyncio.sleep(5)
            assert busan.origins[SEOUL].state == "closed", "one store of busan lacks 2"
            busan.store("busan-b", {(SEOUL, 0): 2}, [Hole(SEOUL, 0, 1, 1)])
            await asyncio.sleep(5)
            assert busan.origins[SEOUL].state == "closed", "it has a hole"
            busan.store("busan-b", {(SEOUL, 0): 2})
            await until(lambda: busan.origins[SEOUL].state == seoul.origins[SEOUL].state == "folded")
            assert not [s for r in (seoul, busan) for s in r.streams if s.origin == SEOUL]
            assert seoul.origins["seoul-2"].state == "open"

    play(story())


def test_nothing_folds_while_a_region_is_silent() -> None:
    async def story() -> None:
        async with World("seoul", "busan") as world:
            seoul, busan = world.redis["seoul"], world.redis["busan"]
            world.start("seoul")
            world.start("busan")
            for redis in (seoul, busan):
                redis.store(f"{redis.region}-a", {(SEOUL, 0): 1})
            seoul.write(0, b"1")
            await until(lambda: "busan-a" in seoul.stores and "seoul-a" in busan.stores)
            world.cut("seoul", "busan")
            seoul.claim("seoul-2")
            await asyncio.sleep(20)
            assert seoul.origins[SEOUL].state == "closed"
            seoul.store("seoul-a", {(SEOUL, 0): 0})
            world.mend("seoul", "busan")
            await until(lambda: busan.origins[SEOUL].state == "closed")
            await asyncio.sleep(2)
            world.cut("seoul", "busan")
            await asyncio.sleep(6)
            seoul.store("seoul-a", {(SEOUL, 0): 1})
            await asyncio.sleep(20)
            assert seoul.origins[SEOUL].state == "closed", "what busan showed is long ago"
            world.mend("seoul", "busan")
            await until(lambda: seoul.origins[SEOUL].state == busan.origins[SEOUL].state == "folded")

    play(story())


def test_what_a_peer_has_folded_folds_here() -> None:
    async def story() -> None:
        async with World("seoul", "busan") as world:
            seoul, busan = world.redis["seoul"], world.redis["busan"]
            seoul.write(0, b"1")
            world.start("busan")
            await until(lambda: busan.held(SEOUL) == [b"1"])
            seoul.claim("seoul-2")
            await world.boards["seoul"].fold(SEOUL)
            await until(lambda: busan.origins[SEOUL].state == "folded")
            assert Stream(SEOUL, 0, True) not in busan.streams

    play(story())


def test_what_is_folded_here_is_not_talked_about_any_more() -> None:
    async def story() -> None:
        async with World("seoul", "busan") as world:
            seoul, busan = world.redis["seoul"], world.redis["busan"]
            seoul.write(0, b"1")
            world.start("busan")
            await until(lambda: busan.held(SEOUL) == [b"1"])
            world.running.pop().cancel()
            for redis in (seoul, busan):
                redis.store(f"{redis.region}-a", {(SEOUL, 0): 1})
            seoul.claim("seoul-2")
            await world.boards["busan"].carry_origins(seoul.origins.values())
            world.start("seoul")
            await until(lambda: seoul.origins[SEOUL].state == "folded")
            await asyncio.sleep(2)
            assert busan.origins[SEOUL].state == "closed"
            seoul.told.clear()
            await asyncio.sleep(3)
            assert {w.origin for _, w in seoul.told} == {BUSAN, "seoul-2"}

    play(story())


def test_the_record_of_a_long_folded_origin_goes_and_stays_away() -> None:
    async def story() -> None:
        async with World("seoul", "busan") as world:
            first, second = "seoul-01K00000000000000000000000", "seoul-01K10000000000000000000000"
            for redis in world.redis.values():
                redis.origins[first] = OriginInfo(first, "seoul", "folded", (3, 3))
                redis.origins[second] = OriginInfo(second, "seoul", "closed", (0, 0))
            world.start("seoul")
            await until(lambda: first not in world.redis["seoul"].origins)
            await asyncio.sleep(5)
            assert first not in world.redis["seoul"].origins, "busan still has it"

    play(story())


def test_idle_regions_cost_a_few_reads_a_second() -> None:
    async def story() -> None:
        async with World("seoul", "busan") as world:
            world.start("seoul")
            world.start("busan")
            await asyncio.sleep(10)
            link = world.links["busan", "seoul"]
            before = link.reads
            await asyncio.sleep(60)
            assert link.reads - before <= 62

    play(story())


def test_the_append_only_file_is_rewritten_on_schedule() -> None:
    async def story() -> None:
        async with World("seoul", "busan", rewrite_s=60) as world:
            world.start("seoul")
            await asyncio.sleep(185)
            assert world.redis["seoul"].rewrites == 3

    play(story())


def test_an_unreachable_peer_is_asked_about_once_a_second_and_own_upkeep_goes_on() -> None:
    async def story() -> None:
        async with World("seoul", "busan", log_keep=0) as world:
            world.cut("seoul", "busan")
            replicator = world.start("seoul")
            await asyncio.sleep(60)
            assert world.links["seoul", "busan"].tries <= 3 * 60 * 2, "three loops, none of them spins"
            assert replicator.region.looks >= 50
            assert replicator.pulls["busan"].state == CATCHING_UP
            world.mend("seoul", "busan")
            await until(lambda: replicator.pulls["busan"].state == LIVE, within_s=2)

    play(story())


def test_a_loop_waits_longer_with_each_failure_and_says_so_once() -> None:
    async def story() -> None:
        loop, retry = asyncio.get_running_loop(), Retry("pull", "busan", FakeIds())

        async def waits(failures: int) -> list[float]:
            waited = []
            for _ in range(failures):
                since = loop.time()
                await retry.failed(LogUnavailable("no way"))
                waited.append(round(loop.time() - since, 3))
            return waited

        with capture_logs() as said:
            assert await waits(7) == [0.038, 0.075, 0.15, 0.3, 0.6, 0.75, 0.75]
            retry.worked()
            retry.worked()
            assert await waits(2) == [0.038, 0.075]
        assert [line["event"] for line in said] == ["does not work", "works again", "does not work"]

    play(story())


def test_it_stops_at_once() -> None:
    async def story() -> float:
        async with World("seoul", "busan") as world:
            world.start("seoul")
            world.start("busan")
            await asyncio.sleep(5)
            asked = asyncio.get_running_loop().time()
        return asyncio.get_running_loop().time() - asked

    assert play(story()) < 0.1, "nothing waits for a blocking read to end"
