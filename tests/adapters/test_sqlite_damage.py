"""A store that was damaged while its node was dead is not trusted; one that is found damaged later is given up."""

from __future__ import annotations

import random
import shutil
import sqlite3
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertalk.adapters import sqlite_schema
from evertalk.adapters.clock import SystemIds
from evertalk.adapters.sqlite_checks import SUMMED, checksum
from evertalk.adapters.sqlite_store import SqliteStore
from evertalk.core.errors import StoreDamaged, StoreError
from evertalk.core.model import Applied
from evertalk.core.vector import Hole, Vector
from tests.adapters.store_helpers import BUSAN, NOW_MS, ROOM, SEOUL, SHARDS, Pen, Region

PAGE = 4096


@pytest.fixture
async def dead(tmp_path: Path) -> AsyncIterator[Path]:
    """The file of a node that was killed, with a row in every table."""
    async with AsyncExitStack() as stack:
        living = tmp_path / "living.db"
        store = await SqliteStore.open(living, SystemIds(), SHARDS)
        stack.push_async_callback(store.close)
        pen, seoul, busan = Pen(), Region(SEOUL), Region(BUSAN)
        await store.apply(seoul.each(pen.conversation(), *(pen.message(f"message {n}") for n in range(200))), NOW_MS)
        await store.apply(busan.each(pen.message("for a moment", expires_at_ms=NOW_MS + 1)), NOW_MS)
        await store.expire(NOW_MS + 2)
        await store.pass_hole(Hole(SEOUL, seoul.entries[0].shard, 202, 203))
        await store.finish_import("seoul-2", "life", 7, Vector(), [])
        assert await store.checkpoint() == store.vector
        path = tmp_path / "dead.db"
        shutil.copy(living, path)
        crash(path)
        yield path


def crash(path: Path) -> None:
    """As a kill leaves it: whoever closes a store removes its write-ahead log."""
    path.with_name(path.name + "-wal").touch()


async def opened(path: Path) -> SqliteStore:
    return await SqliteStore.open(path, SystemIds(), SHARDS)


async def test_a_dead_nodes_store_that_is_as_it_was_is_opened(dead: Path) -> None:
    store = await opened(dead)
    assert len((await store.history(ROOM, None, 500)).messages) == 200
    await store.close()


async def test_a_dead_nodes_store_is_still_one_after_an_opening_in_vain(
    dead: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next one would neither read it whole nor begin another life (R9)."""
    first = await life(dead)
    crash(dead)
    with monkeypatch.context() as older_program:
        older_program.setattr(sqlite_schema, "migrations", tuple)
        with pytest.raises(StoreError, match="newer"):
            await opened(dead)
    second = await life(dead)
    assert second != first
    assert await life(dead) == second, "it was closed in order since"


async def life(path: Path) -> str:
    store = await opened(path)
    await store.close()
    return store.life


@pytest.mark.parametrize("table", sorted(SUMMED))
async def test_a_row_of_any_table_that_is_not_what_was_written_is_found(dead: Path, table: str) -> None:
    with closing(sqlite3.connect(dead, isolation_level=None)) as db:
        db.create_function("checksum", -1, lambda *values: 0, deterministic=True)
        column = SUMMED[table].split(", ")[-1]
        assert db.execute(f"UPDATE {table} SET {column} = {column}").rowcount
    crash(dead)
    with pytest.raises(StoreDamaged, match=f"a row of {table} is not what was written"):
        await opened(dead)


async def test_whatever_is_flipped_in_the_file_is_found_or_means_nothing(dead: Path) -> None:
    """Texts, positions, indexes: 60 single bits anywhere in the file but its first page."""
    whole, chance, found = contents(dead), random.Random(1), 0
    before = [m.event.raw for m in await messages(dead)]
    for _ in range(60):
        at = chance.randrange(PAGE, len(whole))
        write(dead, at, bytes([whole[at] ^ 1 << chance.randrange(8)]))
        crash(dead)
        try:
            assert [m.event.raw for m in await messages(dead)] == before, f"byte {at}"
        except StoreDamaged:
            found += 1
        write(dead, 0, whole)
    assert found > 15


def contents(path: Path) -> bytes:
    return path.read_bytes()


def write(path: Path, at: int, what: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(what)


async def messages(path: Path) -> list[Applied]:
    store = await opened(path)
    try:
        return list((await store.history(ROOM, None, 500)).messages)
    finally:
        await store.close()


async def test_a_store_that_is_found_damaged_while_it_is_open_says_so(dead: Path) -> None:
    store = await opened(dead)
    try:
        assert not store.damaged.is_set()
        write(dead, PAGE, random.Random(1).randbytes(len(contents(dead)) - PAGE))
        with pytest.raises(StoreDamaged):
            await store.digests(None)
        assert store.damaged.is_set()
    finally:
        await store.close()


#: All that a column can hold.
VALUES = st.none() | st.integers(-(1 << 63), (1 << 63) - 1) | st.binary() | st.text(st.characters())


@given(st.lists(VALUES))
def test_a_checksum_is_that_of_the_values_one_after_the_other(values: list[bytes | str | int | None]) -> None:
    whole = b"".join(value if isinstance(value, bytes) else b"%a" % (value,) for value in values)
    assert checksum(*values) == zlib.crc32(whole)


def test_stores_on_disks_keep_their_checksums() -> None:
    assert checksum(117964800000000001, -1, 0, (1 << 63) - 1, None, b"\x00\xffb'\"%", 7) == 3333685705
    assert checksum("it's \"한€\n\\ \ud800\x7f", b"", None, "", 0) == 1752777769
