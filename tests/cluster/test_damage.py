"""What drills do to disks, memory and clocks of a local cluster."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from evertalk.adapters.clock import OffsetClock, SystemClock, clock_of
from evertalk.cluster import damage, resp
from evertalk.cluster.child import Child, Spec
from evertalk.cluster.verbs import ClusterError


def store(directory: Path, size: int = 40_960) -> Path:
    path = directory / "store.db"
    path.write_bytes(bytes(size))
    (directory / "store.db-wal").write_bytes(b"wal")
    return path


def test_a_deleted_store_leaves_nothing(tmp_path: Path) -> None:
    store(tmp_path)
    damage.do("delete_store", tmp_path, 1)
    assert list(tmp_path.iterdir()) == []


def test_damage_is_what_its_name_says_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    path = store(tmp_path)
    damage.do("truncate_store", tmp_path, 1)
    assert path.stat().st_size == 20_480
    damage.do("flip_store", tmp_path, 1)
    once = path.read_bytes()
    assert 1 <= sum(byte.bit_count() for byte in once) <= 32
    path.write_bytes(bytes(20_480))
    damage.do("flip_store", tmp_path, 1)
    assert path.read_bytes() == once
    path.write_bytes(bytes(20_480))
    damage.do("tear_store", tmp_path, 1)
    torn = path.read_bytes()
    assert [any(torn[at : at + 4096]) for at in range(0, 20_480, 4096)].count(True) == 1


def test_a_log_goes_back_to_the_copy_that_was_kept(tmp_path: Path) -> None:
    log = tmp_path / "appendonlydir"
    log.mkdir()
    (log / "1.aof").write_text("old")
    damage.do("keep_log", tmp_path, 0)
    (log / "1.aof").write_text("old and new")
    (log / "2.aof").write_text("newer")
    damage.do("roll_back_log", tmp_path, 0)
    assert {path.name: path.read_text() for path in log.iterdir()} == {"1.aof": "old"}


def test_from_a_shell_it_says_what_it_did_or_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert damage.main(["truncate_store", str(tmp_path), "1"]) == 1
    store(tmp_path)
    assert damage.main(["truncate_store", str(tmp_path), "1"]) == 0
    assert "from 40960 to 20480" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="prlimit(2) is Linux's")
async def test_a_process_whose_disk_is_full_cannot_write_until_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "data").write_bytes(bytes(1000))
    script = (
        "file = open('disk/data', 'ab', buffering=0)\n"
        "print('ready', flush=True)\n"
        "for line in open('orders'):\n"
        "    try:\n"
        "        file.write(b'more')\n"
        "        print('wrote', flush=True)\n"
        "    except OSError as error:\n"
        "        print(error.errno, flush=True)\n"
    )
    log = tmp_path / "log"

    async def probe() -> str:
        return "" if "ready" in log.read_text() else "not ready"

    os.mkfifo(tmp_path / "orders")
    spec = Spec(
        "writer",
        "node",
        "seoul",
        "",
        [],
        [sys.executable, "-c", script],
        os.environ,
        tmp_path,
        log,
        [disk],
        probe,
        20,
        5,
    )
    child = Child(spec, -1, lambda: None)
    await child.start()
    try:
        with (tmp_path / "orders").open("w", buffering=1) as orders:
            child.fill_disk()
            orders.write("write\n")
            await until(lambda: "27" in log.read_text())  # EFBIG
            child.free_disk()
            orders.write("write\n")
            await until(lambda: "wrote" in log.read_text())
    finally:
        await child.kill()
    assert (disk / "data").stat().st_size == 1004


async def until(condition: object) -> None:
    """Poll: nobody tells of a log's new line."""
    assert callable(condition)
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_living_process_is_not_damaged(tmp_path: Path) -> None:
    async def probe() -> str:
        return ""

    spec = Spec(
        "node", "node", "seoul", "", [], [sys.executable, "-c", "input()"], {}, tmp_path, tmp_path / "log", [tmp_path],
        probe, 20, 5,
    )  # fmt: skip
    child = Child(spec, -1, lambda: None)
    with pytest.raises(ClusterError, match="cannot be done to node"):
        await child.damage("truncate_store", 1)
    with pytest.raises(ClusterError, match="it is dead"):
        child.fill_disk()


# ---------------------------------------------------------------- Redis


async def served(answers: bytes) -> tuple[asyncio.Server, int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1024)
        writer.write(answers)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def test_an_answer_of_redis_is_text_whatever_its_kind() -> None:
    for answer, text in (
        (b"+PONG\r\n", "PONG"),
        (b":3\r\n", "3"),
        (b"$5\r\na\r\nbc\r\n", "a\r\nbc"),
        (b"$-1\r\n", ""),
        (b"*2\r\n$9\r\nmaxmemory\r\n$1\r\n0\r\n", "maxmemory 0"),
    ):
        server, port = await served(b"+OK\r\n" + answer)
        async with server:
            assert await resp.ask("127.0.0.1", port, "admin", "secret", "ANY") == text


async def test_a_refusal_of_redis_is_told_in_its_words() -> None:
    server, port = await served(b"-WRONGPASS invalid username-password pair\r\n")
    async with server:
        with pytest.raises(ClusterError, match="WRONGPASS invalid"):
            await resp.ask("127.0.0.1", port, "admin", "wrong", "PING")


# ---------------------------------------------------------------- clocks


def test_a_clock_is_wrong_by_what_its_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    file = tmp_path / "clock"
    clock, right = clock_of(file), clock_of(None)
    assert isinstance(clock, OffsetClock)
    assert not isinstance(right, OffsetClock)

    def wrong_ms() -> int:
        before = SystemClock().wall_ms()
        return clock.wall_ms() - before

    assert 0 <= wrong_ms() < 10_000
    file.write_text("-30000")
    assert 0 <= wrong_ms() < 10_000, "it looks at the file now and then only"
    now[0] += 0.2
    assert -30_000 <= wrong_ms() < -20_000
    file.write_text("")  # amid a change
    now[0] += 0.2
    assert -30_000 <= wrong_ms() < -20_000
    file.unlink()
    now[0] += 0.2
    assert 0 <= wrong_ms() < 10_000
