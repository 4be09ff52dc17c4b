"""Pulling and watermarks in stories: regions in memory, links that break, time that jumps."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from evertalk.core.model import Stream
from evertalk.core.vector import Hole
from evertalk.ports import Watermark
from evertalk.replicator.pull import CATCHING_UP, LIVE
from evertalk.replicator.region import Peer
from evertalk.replicator.retry import Retry
from evertalk.replicator.watermarks import Listener
from tests.replicator.fakes import FakeBoard, FakeIds, FakeTail, World, play, until

SEOUL, BUSAN, JEJU = "seoul-1", "busan-1", "jeju-1"


def test_each_region_holds_what_the_other_logs_and_says_so() -> None:
    async def story() -> None:
        async with World("seoul", "busan") as world:
            seoul, busan = world.redis["seoul"], world.redis["busan"]
            seoul.write(0, b"before the start")
            pull = world.start("busan").pulls["seoul"]
            assert pull.state == CATCHING_UP
            world.start("seoul")
            await until(lambda: pull.state == LIVE)
            seoul.write(1, b"a", b"b")
            busan.write(0, b"c")
            await until(lambda: busan.held(SEOUL, 1) == [b"a", b"b"] and seoul.held(BUSAN) == [b"c"])
            assert busan.held(SEOUL) == [b"before the start"]
            told = Watermark("busan", f"{BUSAN}/0", SEOUL, 1, 2)
            await until(lambda: seoul.heard("busan", SEOUL, 1) == told)
            assert busan.heard("busan", SEOUL, 1) == told, "a region's own nodes learn what it holds"

    play(story())


def test_a_watermark_crosses_at_once_not_with_the_next_second() -> None:
    async def story() -> None:
        async with World("seoul", "busan") as world:
            world.start("seoul")
            world.start("busan")
            await asyncio.sleep(3.5)
            last = world.redis["seoul"].write(0, b"a")
            await until(lambda: (w := world.redis["seoul"].heard("busan", SEOUL)) and w.position == last, 0.1)

    play(story())


def test_a_lost_reply_leaves_neither_a_hole_nor_a_double() -> None:
    async def story() -> None:
        async with World("seoul", "busan") as world:
            seoul, busan = world.redis["seoul"], world.redis["busan"]
            pull = world.start("busan").pulls["seoul"]
            await until(lambda: pull.state == LIVE)
            world.boards["busan"].lost_replies = 2
            seoul.write(0, b"a")
            await until(lambda: busan.held(SEOUL) == [b"a"])
            seoul.write(0, b"b", b"c")
            await until(lambda: busan.held(SEOUL) == [b"a", b"b", b"c"])
            seoul.write(0, b"d")
            await until(lambda: busan.held(SEOUL) == [b"a", b"b", b"c", b"d"])

    play(story())


def test_two_replicators_of_one_region_do_not_disturb_each_other() -> None:
    async def story() -> None:
        async with World("seoul", "busan") as world:
            one, two = world.start("busan"), world.start("busan")
            payloads = [b"%d" % n for n in range(300)]
            for n in range(0, 300, 3):
                world.redis["seoul"].write(0, *payloads[n : n + 3])
                await asyncio.sleep(0.0007)
            await until(lambda: world.redis["busan"].held(SEOUL) == payloads)
            await until(lambda: one.region.last((SEOUL, 0)) == two.region.last((SEOUL, 0)) == 300)
            assert world.links["busan", "seoul"].reads <= 2 * 100 + 10, "who was late looks again, and does not spin"

    play(story())


def test_a_look_at_the_own_board_does_not_send_a_busy_reader_back() -> None:
    async def story() -> None:
        async with World("seoul", "busan") as world:
            world.start("busan")
            for _ in range(5000):
                world.redis["seoul"].write(0, b"x")
                await asyncio.sleep(0.001)
            await until(lambda: len(world.redis["busan"].held(SEOUL)) == 5000)
            assert world.boards["busan"].refused == 0

    play(story())


def test_a_restart_goes_on_where_the_mirror_stands() -> None:
    async def story() -> None:
        async with World("seoul", "busan") as world:
            world.redis["seoul"].write(0, *[b"x"] * 90)
            world.start("busan")
            await until(lambda: len(world.redis["busan"].held(SEOUL)) == 90)
            world.running.pop().cancel()
            asked: list[int] = []
            world.links["busan", "seoul"].on_read = lambda cursors: asked.append(cursors[Stream(SEOUL, 0)])
            pull = world.replicator("busan").pulls["seoul"]
            pulling = asyncio.create_task(pull.attempt(Retry("pull", "seoul", FakeIds())))
            await until(lambda: len(asked) > 2)
            assert set(asked) == {90}
            pulling.cancel()
            await asyncio.wait([pulling])

    play(story())


def test_more_than_one_read_is_catching_up() -> None:
    async def story() -> None:
        async with World("seoul", "busan") as world:
            world.redis["seoul"].write(0, *[b"x"] * 250)
            replicator = world.start("busan")
            pull, at_read = replicator.pulls["seoul"], []
            world.links["busan", "seoul"].on_read = lambda _: at_read.append(pull.state)
            await until(lambda: pull.state == LIVE)
            assert replicator.region.last((SEOUL, 0)) == 250
            assert at_read[:3] == [CATCHING_UP] * 3

    play(story())


def test_a_mirror_that_jumped_says_nothing_until_own_stores_hold_what_it_lacks() -> None:
    async def story() -> None:
        async with World("seoul", "busan") as world:
            seoul, busan = world.redis["seoul"], world.redis["busan"]
            seoul.write(0, *[b"%d" % n for n in range(1, 11)])
            seoul.level(SEOUL, mirror=False).trim(6)
            world.start("seoul")
            world.start("busan")
            await until(lambda: busan.held(SEOUL) == [b"7", b"8", b"9", b"10"])
            assert busan.level(SEOUL).base == 6
            assert world.links["busan", "seoul"].reads <= 5, "it goes on from there, at once"
            await asyncio.sleep(3)
            assert seoul.heard("busan", SEOUL) == Watermark("busan", f"{BUSAN}/6", SEOUL, 0, 0)

            busan.store("busan-1", {(SEOUL, 0): 6}, [Hole(SEOUL, 0, 3, 4)])
            await asyncio.sleep(3)
            assert seoul.heard("busan", SEOUL) == Watermark("busan", f"{BUSAN}/6", SEOUL, 0, 0), "there is a hole"

            busan.store("busan-1", {(SEOUL, 0): 6})
            await until(lambda: seoul.heard("busan", SEOUL) == Watermark("busan", f"{BUSAN}/6", SEOUL, 0, 10))

    play(story())


def test_a_jump_waits_for_own_stores_because_it_empties_the_mirror() -> None:
    async def story() -> None:
        async with World("seoul", "busan") as world:
            seoul, busan = world.redis["seoul"], world.redis["busan"]
            seoul.write(0, b"1", b"2")
            replicator = world.start("busan")
            await until(lambda: busan.held(SEOUL) == [b"1", b"2"])
            world.cut("seoul", "busan")
            seoul.write(0, b"3", b"4", b"5")
            seoul.level(SEOUL, mirror=False).trim(4)
            world.mend("seoul", "busan")
            await until(lambda: (SEOUL, 0) in replicator.region.stalled)
            reads = world.links["busan", "seoul"].reads
            await asyncio.sleep(5)
            assert busan.held(SEOUL) == [b"1", b"2"], "seoul alone would hold them otherwise"
            assert world.links["busan", "seoul"].reads - reads <= 15, "waiting does not spin"
            busan.store("busan-1", {(SEOUL, 0): 2})
            await until(lambda: busan.held(SEOUL) == [b"5"])

    play(story())


def test_an_emptied_region_takes_everything_anew_and_its_old_watermarks_end() -> None:
    async def story() -> None:
        async with World("seoul", "busan") as world:
            seoul, busan = world.redis["seoul"], world.redis["busan"]
            seoul.write(0, b"1", b"2")
            busan.write(0, b"its own")
            world.start("seoul")
            world.start("busan")
            await until(lambda: seoul.heard("busan", SEOUL) == Watermark("busan", f"{BUSAN}/0", SEOUL, 0, 2))
            await until(lambda: seoul.held(BUSAN) == [b"its own"])

            world.cut("seoul", "busan")
            busan.empty()
            busan.claim("busan-2")
            world.links["seoul", "busan"].mend()
            await until(lambda: seoul.heard("busan", SEOUL) == Watermark("busan", "busan-2/0", SEOUL, 0, 0))
            assert seoul.origins[BUSAN].state == "open", "nobody has told: busan does not know of it any more"

            world.links["busan", "seoul"].mend()
            await until(lambda: busan.held(SEOUL) == [b"1", b"2"])
            await until(lambda: seoul.heard("busan", SEOUL) == Watermark("busan", "busan-2/0", SEOUL, 0, 2))
            await until(lambda: busan.origins[BUSAN].state == seoul.origins[BUSAN].state == "closed")

    play(story())


def test_who_comes_back_reads_the_mirrors_for_what_was_announced_meanwhile() -> None:
    async def story() -> None:
        async with World("seoul", "busan") as world:
            seoul = world.redis["seoul"]
            world.start("seoul")
            pull = world.start("busan").pulls["seoul"]
            await until(lambda: pull.state == LIVE)
            world.links["seoul", "busan"].cut()  # busan still reads seoul, seoul no longer hears busan
            last = seoul.write(0, b"a")
            await until(lambda: world.redis["busan"].held(SEOUL) == [b"a"])
            assert (w := seoul.heard("busan", SEOUL)) is None or w.position == 0
            world.links["seoul", "busan"].mend()
            await until(lambda: (w := seoul.heard("busan", SEOUL)) and w.position == last)

    play(story())


def test_a_listener_that_has_just_subscribed_asks_what_it_missed() -> None:
    async def story() -> None:
        async with World("seoul", "busan") as world:
            seoul, busan = world.redis["seoul"], world.redis["busan"]
            seoul.write(0, b"a")
            world.start("busan")
            await until(lambda: busan.held(SEOUL) == [b"a"])
            world.running.pop().cancel()
            region = world.replicator("seoul").region
            peer = Peer("busan", FakeBoard(world.links["seoul", "busan"]), FakeTail(world.links["seoul", "busan"]))
            await region.refresh()
            listening = asyncio.create_task(Listener(region, peer).attempt(Retry("listen", "busan", FakeIds())))
            await until(lambda: seoul.heard("busan", SEOUL) == Watermark("busan", f"{BUSAN}/0", SEOUL, 0, 1))
            listening.cancel()
            await asyncio.wait([listening])

    play(story())


def test_a_node_that_just_started_hears_every_watermark_within_a_second_or_so() -> None:
    async def story() -> None:
        async with World("seoul", "busan") as world:
            seoul = world.redis["seoul"]
            world.start("seoul")
            world.start("busan")
            seoul.write(0, b"a")
            world.redis["busan"].write(1, b"b")
            await until(lambda: (w := seoul.heard("busan", SEOUL)) and w.position == 1)
            await until(lambda: (w := seoul.heard("seoul", BUSAN, 1)) and w.position == 1)
            seoul.told.clear()
            await until(lambda: (w := seoul.heard("busan", SEOUL)) and w.position == 1, within_s=1.5)
            await until(lambda: (w := seoul.heard("seoul", BUSAN, 1)) and w.position == 1, within_s=1.5)

    play(story())


def test_the_log_of_an_unreachable_region_comes_from_a_third_ones_mirror() -> None:
    async def story() -> None:
        async with World("seoul", "busan", "jeju") as world:
            for name in world.redis:
                world.start(name)
            seoul, jeju = world.redis["seoul"], world.redis["jeju"]
            seoul.write(0, b"1")
            await until(lambda: jeju.held(SEOUL) == [b"1"])
            world.cut("seoul", "jeju")
            seoul.write(0, b"2", b"3")
            await until(lambda: jeju.held(SEOUL) == [b"1", b"2", b"3"], within_s=10)
            await until(lambda: (w := seoul.heard("busan", SEOUL)) and w.position == 3)
            world.mend("seoul", "jeju")
            seoul.write(0, b"4")
            await until(lambda: jeju.held(SEOUL) == [b"1", b"2", b"3", b"4"])

    play(story())


def test_a_log_that_its_home_has_lost_comes_from_a_third_ones_mirror() -> None:
    async def story() -> None:
        async with World("seoul", "busan", "jeju") as world:
            seoul, busan, jeju = (world.redis[name] for name in ("seoul", "busan", "jeju"))
            world.start("busan")
            seoul.write(0, b"1")
            await until(lambda: busan.held(SEOUL) == [b"1"])
            seoul.empty()
            seoul.claim("seoul-2")
            world.start("seoul")
            world.start("jeju")
            await until(lambda: jeju.held(SEOUL) == [b"1"], within_s=10)

    play(story())


def test_a_peer_is_mirrored_again_though_own_redis_was_emptied_between_two_looks() -> None:
    """What a peer knows is compared with what was known here *then*: else the emptied Redis never hears of it again."""

    async def story() -> None:
        async with World("seoul", "busan") as world:
            seoul = world.redis["seoul"]
            replicator = world.replicator("seoul")
            await replicator.region.refresh()
            theirs = dict(world.redis["busan"].origins)
            await replicator.pulls["busan"].take_origins(theirs)
            assert BUSAN in seoul.origins
            seoul.empty()
            heard = theirs | {"seoul-2": replace(seoul.origins[seoul.claim("seoul-2")])}
            await replicator.pulls["busan"].take_origins(heard)  # judged by the look before
            await replicator.pulls["busan"].take_origins(heard)
            assert BUSAN in seoul.origins

    play(story())
