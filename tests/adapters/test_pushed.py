"""What is appended is pushed to nodes and peers; and whatever was not pushed is read all the same."""

from __future__ import annotations

import asyncio

import pytest

from evertalk.adapters import redis_keys as keys
from evertalk.adapters import redis_pushed
from evertalk.adapters.redis_log import RedisLog
from evertalk.adapters.redis_pushed import PushedTail
from evertalk.core.errors import LogUnavailable
from evertalk.core.model import Stream
from evertalk.ports import MirrorBatch, Watermark
from tests.adapters.conftest import PATIENCE_S, RedisWorld

BLOCK_S = 30.0  # longer than any test waits


class Reader:
    """A peer's tail of one stream, with the cursor of what it was given."""

    def __init__(self, tail: PushedTail, stream: Stream) -> None:
        self.tail, self.stream, self.cursor = tail, stream, 0

    async def next(self, count: int = 1) -> list[bytes]:
        """The next payloads."""
        found: list[bytes] = []
        async with asyncio.timeout(PATIENCE_S):
            while len(found) < count:
                for entry in (await self.tail.read({self.stream: self.cursor}, BLOCK_S)).entries:
                    assert entry.position == self.cursor + 1
                    self.cursor = entry.position
                    found.append(entry.payload)
        return found


@pytest.fixture
async def log(pushed_world: RedisWorld, monkeypatch: pytest.MonkeyPatch) -> RedisLog:
    monkeypatch.setattr(redis_pushed, "LOOK_S", PATIENCE_S)  # nobody looks without a reason
    log = pushed_world.log()
    await log.claim()
    return log


@pytest.fixture
async def reader(pushed_world: RedisWorld, log: RedisLog) -> Reader:
    """One that has read something, so that its subscription stands."""
    tail = pushed_world.tail(peer=True)
    assert isinstance(tail, PushedTail)
    reader = Reader(tail, Stream(await log.claim(), 0))
    await log.append([(0, b"first")])
    assert await reader.next() == [b"first"]
    return reader


async def reads(world: RedisWorld) -> int:
    """XREADs that the server has answered."""
    [raw] = await world.admin(("INFO", "commandstats"))
    found = [line for line in raw.decode().splitlines() if line.startswith("cmdstat_xread:")]
    return int(found[0].split("calls=")[1].split(",")[0]) if found else 0


async def test_what_is_appended_comes_without_being_asked_for(
    pushed_world: RedisWorld, log: RedisLog, reader: Reader
) -> None:
    before = await reads(pushed_world)
    for n in range(20):
        await log.append([(0, b"one %d" % n), (1, b"of no interest"), (0, b"two %d" % n)])
        assert await reader.next(2) == [b"one %d" % n, b"two %d" % n]
    assert await reads(pushed_world) == before


async def test_what_was_not_pushed_is_read_and_comes_in_order(
    pushed_world: RedisWorld, log: RedisLog, reader: Reader
) -> None:
    key = keys.stream_key(reader.stream)
    await pushed_world.admin(("XADD", key, "0-*", keys.PAYLOAD, b"unpublished"))
    await log.append([(0, b"published")])
    assert await reader.next(2) == [b"unpublished", b"published"]


async def test_a_subscription_that_breaks_loses_nothing(
    pushed_world: RedisWorld, log: RedisLog, reader: Reader
) -> None:
    await pushed_world.admin(("CLIENT", "KILL", "TYPE", "pubsub"))
    await log.append([(0, b"meanwhile")])
    assert await reader.next() == [b"meanwhile"]
    await log.append([(0, b"again")])
    assert await reader.next() == [b"again"]
    before = await reads(pushed_world)
    await log.append([(0, b"pushed again")])
    assert await reader.next() == [b"pushed again"]
    assert await reads(pushed_world) == before


async def test_who_may_not_subscribe_reads(pushed_world: RedisWorld, log: RedisLog) -> None:
    """A region whose users were made by an older version."""
    await pushed_world.admin(("ACL", "SETUSER", "peer", "resetchannels"))
    tail = pushed_world.tail(peer=True)
    assert isinstance(tail, PushedTail)
    reader = Reader(tail, Stream(await log.claim(), 0))
    await log.append([(0, b"one")])
    assert await reader.next() == [b"one"]
    await log.append([(0, b"two")])
    assert await reader.next() == [b"two"]


async def test_a_mirror_that_was_emptied_is_read_from_its_beginning(log: RedisLog, reader: Reader) -> None:
    await log.append([(0, b"second")])
    assert await reader.next() == [b"second"]
    reader.cursor = 0
    assert await reader.next(2) == [b"first", b"second"]


async def subscribers(world: RedisWorld) -> set[bytes]:
    """Ids of the connections to which something is pushed."""
    [raw] = await world.admin(("CLIENT", "LIST", "TYPE", "pubsub"))
    return {bytes(line.split()[0]) for line in raw.splitlines()}


async def test_what_was_there_before_the_subscription_is_read_page_by_page_without_waiting(
    pushed_world: RedisWorld, log: RedisLog
) -> None:
    payloads = [b"%d" % n for n in range(350)]
    for payload in payloads:
        await log.append([(0, payload)])
    tail = pushed_world.tail(peer=True)
    assert isinstance(tail, PushedTail)
    assert await Reader(tail, Stream(await log.claim(), 0)).next(350) == payloads


async def test_a_subscription_that_brings_nothing_is_made_anew(
    pushed_world: RedisWorld, log: RedisLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its other end may be gone without a word: whoever only listens never learns of it."""
    monkeypatch.setattr(redis_pushed, "LOOK_S", 0.2)
    tail = pushed_world.tail(peer=True)
    assert isinstance(tail, PushedTail)
    reader = Reader(tail, Stream(await log.claim(), 0))
    await log.append([(0, b"first")])
    assert await reader.next() == [b"first"]
    before = await subscribers(pushed_world)
    unpushed = ("XADD", keys.stream_key(reader.stream), "0-*", keys.PAYLOAD, b"not pushed")
    async with asyncio.timeout(PATIENCE_S):
        while await subscribers(pushed_world) <= before:
            reading = asyncio.create_task(reader.next())
            await pushed_world.admin(unpushed)
            assert await reading == [b"not pushed"]


async def test_a_subscription_goes_with_the_connection_that_reads(
    pushed_world: RedisWorld, log: RedisLog, reader: Reader
) -> None:
    """What it still holds may be of another life of that Redis."""
    [before] = await subscribers(pushed_world)
    await pushed_world.admin(("CLIENT", "KILL", "TYPE", "normal", "USER", "peer"))
    reader.cursor = 0
    with pytest.raises(LogUnavailable):
        await reader.next()
    assert await reader.next() == [b"first"]
    await log.append([(0, b"second")])
    assert await reader.next() == [b"second"]
    assert before not in await subscribers(pushed_world)


async def test_what_is_mirrored_is_pushed_to_own_nodes_and_not_to_peers(
    pushed_world: RedisWorld, log: RedisLog, reader: Reader
) -> None:
    """`reader` is a peer, and subscribed."""
    board, tail = pushed_world.board(), pushed_world.tail()
    assert isinstance(tail, PushedTail)
    node = Reader(tail, Stream("busan-X", 0, True))
    silent = [Watermark("", "", "", 0, 0)]
    await board.append_mirror([MirrorBatch("busan-X", 0, 0, ((1, b"first"),))], silent)
    assert await node.next() == [b"first"]
    before = await reads(pushed_world)
    await board.append_mirror([MirrorBatch("busan-X", 0, 1, ((2, b"second"), (3, b"third")))], silent)
    assert await node.next(2) == [b"second", b"third"]
    assert await reads(pushed_world) == before
    [told] = await pushed_world.admin(("PUBSUB", "NUMSUB", keys.APPENDED, keys.MIRRORED))
    assert told == [keys.APPENDED.encode(), 2, keys.MIRRORED.encode(), 1]
