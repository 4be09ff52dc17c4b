"""The replicator over real servers: two regions, one process each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import TypeVar, cast

import pytest

from evertalk.adapters.clock import SystemIds
from evertalk.adapters.redis_board import RedisBoard
from evertalk.adapters.redis_log import RedisLog
from evertalk.adapters.redis_server import find_server, server_config
from evertalk.adapters.redis_tail import RedisTail
from evertalk.core.errors import LogUnavailable
from evertalk.core.model import Stream
from evertalk.core.vector import Vector
from evertalk.ports import StoreEntry, Watermark

T = TypeVar("T")

SHARDS = 2
PATIENCE_S = 20.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Region:
    """One region: a server, its log, its board, and a replicator process."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self._root = root / name
        self._port = _free_port()
        self.own = f"redis://node:n@127.0.0.1:{self._port}"
        self.for_peers = f"redis://peer:p@127.0.0.1:{self._port}"
        self.board = RedisBoard(self.own, name)
        self.log = RedisLog(self.own, name, SHARDS, SystemIds())
        self._redis: subprocess.Popen[bytes] | None = None
        self.replicator: subprocess.Popen[bytes] | None = None

    async def start_redis(self) -> str:
        """Start the server, wait for it, claim; returns the origin."""
        self._launch()
        return await eventually(self.log.claim)

    def _launch(self) -> None:
        self._root.mkdir(exist_ok=True)
        conf = self._root / "redis.conf"
        conf.write_text(server_config(self._root, self._port, "n", "p"))
        program, _ = find_server()
        self._redis = subprocess.Popen([program, conf], stdout=subprocess.DEVNULL)

    def start_replicator(self, peers: list[Region]) -> None:
        settings = {
            "EVERTALK_REGION": self.name,
            "EVERTALK_REDIS": self.own,
            "EVERTALK_SHARDS": str(SHARDS),
            "EVERTALK_PEERS": json.dumps({peer.name: {"redis": peer.for_peers} for peer in peers}),
            "EVERTALK_LOG_KEEP": "2",
        }
        command = [sys.executable, "-m", "evertalk.replicator"]
        with (self._root / "replicator.log").open("ab") as log:
            self.replicator = subprocess.Popen(command, env={**os.environ, **settings}, stderr=log)

    def kill_redis(self) -> None:
        if self._redis is not None:
            self._redis.kill()
            self._redis.wait()

    async def close(self) -> None:
        if self.replicator is not None:
            self.replicator.kill()
            self.replicator.wait()
        await self.log.close()
        await self.board.close()
        self.kill_redis()

    async def mirrored(self, origin: str) -> list[tuple[int, int, bytes]]:
        """(shard, position, payload) of everything in the mirrors of an origin."""
        tail = RedisTail(self.own)
        try:
            read = await tail.read({Stream(origin, s, True): 0 for s in range(SHARDS)}, 0, 1000)
        finally:
            await tail.close()
        return sorted((e.stream.shard, e.position, e.payload) for e in read.entries)

    async def store(self, node: str, held: Vector) -> None:
        """A node publishes its store, all of it checkpointed."""
        await self.board.publish_store(StoreEntry(node, self.name, "life", "SERVING", held, held))


async def eventually(attempt: Callable[[], Awaitable[T]], wanted: Callable[[T], bool] = lambda _: True) -> T:
    """What `attempt` gives once it is as wanted; a server that starts or loads is asked again."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with contextlib.suppress(LogUnavailable):
                found = await attempt()
                if wanted(found):
                    return found
            await asyncio.sleep(0.05)


async def heard(region: Region, wanted: Callable[[Watermark], bool]) -> Watermark:
    """The first watermark that this region's nodes are told and that is as wanted."""
    async with asyncio.timeout(PATIENCE_S):
        async with aclosing(cast(AsyncGenerator[list[Watermark]], region.board.watermarks(relayed=True))) as batches:
            async for batch in batches:
                for mark in batch:
                    if wanted(mark):
                        return mark
    raise AssertionError("the subscription ended")


def stop(region: Region) -> int:
    """Ask a replicator to stop; returns its exit code."""
    assert region.replicator is not None
    region.replicator.send_signal(signal.SIGTERM)
    return region.replicator.wait(timeout=5)


@pytest.fixture
async def regions(tmp_path: Path) -> AsyncIterator[tuple[Region, Region]]:
    async with AsyncExitStack() as stack:
        seoul, busan = Region("seoul", tmp_path), Region("busan", tmp_path)
        for region in (seoul, busan):
            stack.push_async_callback(region.close)
        yield seoul, busan


async def test_what_a_region_logs_the_other_holds_and_the_first_is_told(regions: tuple[Region, Region]) -> None:
    seoul, busan = regions
    origin, other = await seoul.start_redis(), await busan.start_redis()
    seoul.start_replicator([busan])
    busan.start_replicator([seoul])

    told = asyncio.create_task(heard(seoul, lambda w: (w.origin, w.shard, w.position) == (origin, 1, 2)))
    assert await seoul.log.append([(0, b"a"), (1, b"b"), (1, b"c")]) == [1, 1, 2]
    assert await told == Watermark("busan", f"{other}/0", origin, 1, 2)
    assert await busan.mirrored(origin) == [(0, 1, b"a"), (1, 1, b"b"), (1, 2, b"c")]

    told = asyncio.create_task(heard(busan, lambda w: (w.holder, w.origin, w.position) == ("seoul", other, 1)))
    assert await busan.log.append([(0, b"d")]) == [1]
    await told
    assert await seoul.mirrored(other) == [(0, 1, b"d")]
    assert (stop(seoul), stop(busan)) == (0, 0)


async def test_a_restarted_region_goes_on_under_a_new_origin_and_the_old_one_folds(
    regions: tuple[Region, Region],
) -> None:
    seoul, busan = regions
    old, other = await seoul.start_redis(), await busan.start_redis()
    seoul.start_replicator([busan])
    busan.start_replicator([seoul])
    await seoul.log.append([(0, b"before")])
    await eventually(lambda: busan.mirrored(old), lambda entries: len(entries) == 1)

    seoul.kill_redis()
    new = await seoul.start_redis()
    assert new != old
    await seoul.log.append([(0, b"after")])
    await eventually(lambda: busan.mirrored(new), lambda entries: entries == [(0, 1, b"after")])
    assert (await busan.board.origins())[old].state == "closed"

    async def publish() -> dict[str, str]:
        """Both regions' stores hold the old origin; none holds the new one."""
        await seoul.store("seoul-1", Vector({(old, 0): 1}))
        await busan.store("busan-1", Vector({(old, 0): 1}))
        return {r.name: (await r.board.origins())[old].state for r in (seoul, busan)}

    await eventually(publish, lambda states: set(states.values()) == {"folded"})
    assert await busan.mirrored(old) == []
    assert (await seoul.board.origins())[new].state == "open"
    assert (await busan.board.origins())[other].state == "open"


async def test_a_mirror_jumps_over_what_was_trimmed_and_speaks_up_when_its_stores_hold_it(
    regions: tuple[Region, Region],
) -> None:
    seoul, busan = regions
    origin, other = await seoul.start_redis(), await busan.start_redis()
    await seoul.log.append([(0, b"%d" % n) for n in range(1, 11)])
    await seoul.board.trim(Stream(origin, 0), 4)
    busan.start_replicator([seoul])
    await eventually(lambda: busan.mirrored(origin), lambda entries: [p for _, p, _ in entries] == [5, 6, 7, 8, 9, 10])
    seoul.start_replicator([busan])

    told = asyncio.create_task(heard(seoul, lambda w: w.holder == "busan" and w.life == f"{other}/4"))
    assert (await told).position == 0
    await busan.store("busan-1", Vector({(origin, 0): 4}))
    told = asyncio.create_task(heard(seoul, lambda w: w.holder == "busan" and w.position == 10))
    assert (await told).life == f"{other}/4"
