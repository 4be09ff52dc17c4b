"""What only a store in a file must do: open, fail, crash, forget, and look things up by index."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path

import pytest

from evertalk.adapters import sqlite_merge, sqlite_read, sqlite_resume, sqlite_schema, sqlite_write
from evertalk.adapters.clock import SystemIds
from evertalk.adapters.sqlite_store import SqliteStore, discard
from evertalk.adapters.sqlite_write import Writer
from evertalk.core.errors import StoreError
from evertalk.core.model import Event, Kind
from evertalk.core.vector import Hole, Vector
from tests.adapters.store_helpers import (
    ANNA,
    BORIS,
    BUSAN,
    NOW_MS,
    ROOM,
    SEOUL,
    SHARDS,
    Pen,
    Region,
    at,
    digest,
    pull,
    shown,
    texts,
)

Open = Callable[[Path], Awaitable[SqliteStore]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def reopen() -> AsyncIterator[Open]:
    """Opens stores and closes them at the end."""
    async with AsyncExitStack() as stack:

        async def open_one(path: Path) -> SqliteStore:
            store = await SqliteStore.open(path, SystemIds(), SHARDS)
            stack.push_async_callback(store.close)
            return store

        yield open_one


@contextmanager
def hands_on(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as an operator with a SQLite shell has it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        yield db


def break_titles(path: Path) -> None:
    """From now on SQLite fails whenever a title is written."""
    with hands_on(path) as db:
        db.execute(
            f"CREATE TRIGGER fail BEFORE INSERT ON facts WHEN new.kind = {Kind.TITLE:d} "
            "BEGIN SELECT RAISE(ABORT, 'disk on fire'); END"
        )


def mend_titles(path: Path) -> None:
    with hands_on(path) as db:
        db.execute("DROP TRIGGER fail")


# ---------------------------------------------------------------- opening


async def test_a_closed_store_opens_as_it_was(path: Path, reopen: Open) -> None:
    pen, seoul, busan = Pen(), Region(SEOUL), Region(BUSAN)
    store = await reopen(path)
    await store.apply(seoul.each(pen.conversation(), pen.message("hello")), NOW_MS)
    await store.apply(busan.each(pen.message("folded")), NOW_MS)
    await store.pass_hole(Hole(SEOUL, seoul.entries[0].shard, 3, 4))
    await store.fold([BUSAN])
    await store.finish_import("n2", "life", 7, Vector(), [])
    life, vector, before = store.life, store.vector, await digest(store)
    await store.close()
    again = await reopen(path)
    assert (again.life, again.vector, again.folded) == (life, vector, frozenset({BUSAN}))
    assert await digest(again) == before
    assert await again.bookmark("n2") == ("life", 7)
    assert len((await again.conversations_of(BORIS))[0]) == 1


async def test_a_store_made_anew_has_another_life(path: Path, reopen: Open) -> None:
    first = await reopen(path)
    await first.apply([Region(SEOUL).log(Pen().message("hello"))], NOW_MS)
    await first.close()
    discard(path)
    second = await reopen(path)
    assert second.life != first.life
    assert not second.vector


async def used(path: Path, reopen: Open) -> None:
    """A store that holds something."""
    store, pen = await reopen(path), Pen()
    await store.apply(Region(SEOUL).each(pen.conversation()), NOW_MS)
    await store.close()


async def test_a_store_that_holds_nothing_yet_takes_another_number_of_shards(path: Path, reopen: Open) -> None:
    """A first start with a wrong number that came to nothing must not spoil the next."""
    await (await reopen(path)).close()
    await (await SqliteStore.open(path, SystemIds(), SHARDS + 1)).close()


async def test_another_number_of_shards_is_refused(path: Path, reopen: Open) -> None:
    await used(path, reopen)
    with pytest.raises(StoreError, match=rf"{path}.* made with {SHARDS} shards"):
        await SqliteStore.open(path, SystemIds(), SHARDS + 1)


async def test_a_newer_schema_is_refused(path: Path, reopen: Open) -> None:
    await (await reopen(path)).close()
    with hands_on(path) as db:
        db.execute("PRAGMA user_version = 999")
    with pytest.raises(StoreError, match=rf"{path}.* newer"):
        await reopen(path)


def spoil(path: Path, damage: str) -> None:
    good = path.read_bytes()
    match damage:
        case "header":
            path.write_bytes(b"this is no database" + good[19:])
        case "pages":
            path.write_bytes(good[:4096] + b"\xff" * (len(good) - 4096))
        case _:
            path.write_bytes(good[:4096])


@pytest.mark.parametrize("damage", ["header", "pages", "cut"])
async def test_a_damaged_file_is_named(path: Path, reopen: Open, damage: str) -> None:
    store = await reopen(path)
    await store.apply(Region(SEOUL).each(*[Pen().message("x" * 5000) for _ in range(20)]), NOW_MS)
    await store.checkpoint()
    await store.close()
    spoil(path, damage)
    with pytest.raises(StoreError, match=str(path)):
        await reopen(path)


async def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, reopen: Open) -> None:
    with pytest.raises(StoreError, match="missing"):
        await reopen(tmp_path / "missing" / "store.db")
    with pytest.raises(StoreError, match=str(tmp_path)):
        await reopen(tmp_path)


async def test_somebody_elses_database_is_left_alone(path: Path, reopen: Open) -> None:
    with hands_on(path) as db:
        db.execute("CREATE TABLE outbox (seq INTEGER PRIMARY KEY)")
    with pytest.raises(StoreError, match="no Evertalk store"):
        await reopen(path)
    with hands_on(path) as db:
        assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("outbox",)]


async def test_opening_in_vain_leaves_no_thread_behind(path: Path, reopen: Open) -> None:
    await used(path, reopen)
    before = set(threading.enumerate())
    with pytest.raises(StoreError):
        await SqliteStore.open(path, SystemIds(), SHARDS + 1)
    for thread in set(threading.enumerate()) - before:
        await asyncio.to_thread(thread.join, 20)
        assert not thread.is_alive()


async def test_a_closed_store_says_so(path: Path, reopen: Open) -> None:
    store = await reopen(path)
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.history(ROOM, None, 10)


def test_migrations_are_part_of_the_package() -> None:
    assert len(sqlite_schema.migrations()) >= 1


# ---------------------------------------------------------------- failing and crashing


async def test_a_failed_batch_leaves_nothing_behind(path: Path, reopen: Open) -> None:
    pen, seoul = Pen(), Region(SEOUL)
    store = await reopen(path)
    await store.apply(seoul.each(pen.conversation(), pen.message("before")), NOW_MS)
    vector, page = store.vector, await store.export("", 0, 10)
    break_titles(path)
    batch = seoul.each(pen.message("1"), pen.edit(seoul.entries[1].records[0].event, "edited"), pen.title("tea"))
    with pytest.raises(StoreError, match=rf"{path}.*disk on fire"):
        await store.apply(batch, NOW_MS)
    assert store.vector is vector
    assert await shown(store) == ["before"]
    assert (await store.export(store.life, page.next_change, 10)).rows == []
    mend_titles(path)
    assert len(await store.apply(batch, NOW_MS)) == len(batch)
    later = await store.export(store.life, page.next_change, 10)
    assert len(later.rows) == len(batch)
    await store.close()
    assert await digest(await reopen(path)) == await digest(await fresh(reopen, path, seoul))


async def fresh(reopen: Open, path: Path, *regions: Region) -> SqliteStore:
    """Another store that read these logs without a fault."""
    store = await reopen(path.with_name("fresh.db"))
    for region in regions:
        await store.apply(region.entries, NOW_MS)
    return store


async def test_an_import_that_fails_in_the_middle_is_done_again(path: Path, reopen: Open) -> None:
    pen, seoul = Pen(), Region(SEOUL)
    source = await reopen(path.with_name("source.db"))
    await source.apply(seoul.each(pen.message("1"), pen.title("tea"), pen.message("2")), NOW_MS)
    target = await reopen(path)
    break_titles(path)
    with pytest.raises(StoreError):
        await pull(target, source)
    assert not target.vector
    assert await target.counts() == {}
    mend_titles(path)
    await pull(target, source)
    assert await digest(target) == await digest(source)


async def test_a_crash_keeps_what_was_committed(path: Path, reopen: Open) -> None:
    pen, seoul = Pen(), Region(SEOUL)
    store = await reopen(path)
    await store.apply(seoul.each(pen.message("checkpointed")), NOW_MS)
    await store.checkpoint()
    await store.apply(seoul.each(pen.message("in the WAL")), NOW_MS)
    # What a killed process leaves: the file and its WAL, never closed.
    crashed = path.with_name("crashed.db")
    shutil.copy(path, crashed)
    shutil.copy(f"{path}-wal", f"{crashed}-wal")
    again = await reopen(crashed)
    assert again.vector == store.vector
    assert await shown(again) == ["checkpointed", "in the WAL"]
    await again.apply(seoul.each(pen.message("next")), NOW_MS)
    assert len((await again.export("", 0, 10)).rows) == 3


async def test_what_comes_after_a_power_cut_is_not_taken_for_what_it_took(path: Path, reopen: Open) -> None:
    """Change numbers are given again that others have had: they must not count as had (R9)."""
    pen, seoul, busan = Pen(), Region(SEOUL), Region(BUSAN)
    store = await reopen(path)
    await store.apply(seoul.each(pen.message("checkpointed")), NOW_MS)
    await store.checkpoint()
    cut = path.with_name("cut.db")
    shutil.copy(path, cut)
    cut.with_name("cut.db-wal").touch()  # of what comes now nothing reaches the disk
    await store.apply(seoul.each(pen.message("taken"), pen.message("taken, too")), NOW_MS)
    had = await store.export("", 0, 10)
    again = await reopen(cut)
    assert await shown(again) == ["checkpointed"]
    await again.apply(busan.each(pen.message("instead")), NOW_MS)
    news = await again.export(had.life, had.next_change, 10)
    assert "instead" in texts(row.event for row in news.rows)


async def test_a_cancelled_caller_leaves_file_and_memory_in_step(path: Path, reopen: Open) -> None:
    store = await reopen(path)
    entries = Region(SEOUL).each(*[Pen().message(str(n)) for n in range(1500)])  # too many to be applied at once
    caller = asyncio.create_task(store.apply(entries, NOW_MS))
    await asyncio.sleep(0)  # it has handed its work over
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await store.pass_hole(Hole(BUSAN, 0, 1, 1))  # the next write waits for that one
    vector = store.vector
    assert vector[(SEOUL, entries[0].shard)] == 1500
    await store.close()
    assert (await reopen(path)).vector == vector


async def test_a_small_batch_is_applied_at_once_unless_the_writer_has_something_to_do(
    path: Path, reopen: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    pen, seoul, store = Pen(), Region(SEOUL), await reopen(path)
    first = asyncio.create_task(store.apply([seoul.log(pen.message("1"))], NOW_MS))
    await asyncio.sleep(0)
    assert first.done()
    gate, expire = threading.Event(), Writer.expire
    monkeypatch.setattr(Writer, "expire", lambda self, now_ms: gate.wait() and expire(self, now_ms))
    at_work = asyncio.create_task(store.expire(NOW_MS))
    await asyncio.sleep(0)
    at_work.cancel()  # it is done all the same
    second = asyncio.create_task(store.apply([seoul.log(pen.message("2"))], NOW_MS))
    await asyncio.sleep(0)
    assert not second.done()
    gate.set()
    await second
    assert await shown(store) == ["1", "2"]


async def test_a_second_process_on_the_file_is_noticed(path: Path, reopen: Open) -> None:
    pen, seoul = Pen(), Region(SEOUL)
    zombie, store = await reopen(path), await reopen(path)
    entries = seoul.each(pen.message("1"), pen.message("2"))
    await store.apply(entries[:1], NOW_MS)
    with pytest.raises(StoreError, match="another process"):
        await zombie.apply([Region(BUSAN).log(pen.message("stale"))], NOW_MS)
    await store.apply(entries[1:], NOW_MS)
    assert await shown(store) == ["1", "2"]


async def test_a_checkpoint_held_up_by_a_reader_claims_nothing(path: Path, reopen: Open) -> None:
    pen, seoul = Pen(), Region(SEOUL)
    store = await reopen(path)
    await store.apply([seoul.log(pen.message("1"))], NOW_MS)
    safe = await store.checkpoint()
    assert safe == at(ROOM, seoul=1)
    with hands_on(path) as db:
        await store.apply([seoul.log(pen.message("2"))], NOW_MS)
        db.execute("BEGIN")
        db.execute("SELECT * FROM facts").fetchall()
        await store.apply([seoul.log(pen.message("3"))], NOW_MS)
        assert await store.checkpoint() == safe
        db.execute("ROLLBACK")
    assert await store.checkpoint() == at(ROOM, seoul=3)
    assert path.with_name(path.name + "-wal").stat().st_size == 0


# ---------------------------------------------------------------- forgetting


def size(path: Path) -> int:
    return path.stat().st_size


def on_disk(path: Path) -> bytes:
    """Everything that lies in the store's files."""
    return b"".join(file.read_bytes() for file in sorted(path.parent.glob(path.name + "*")))


@pytest.mark.parametrize("seed", range(3))
async def test_deleted_and_expired_text_is_not_in_the_files(path: Path, reopen: Open, seed: int) -> None:
    chance = random.Random(seed)
    store = await reopen(path)
    pen, seoul, busan = Pen(), Region(SEOUL), Region(BUSAN)
    words = iter(f"secret{n:05d}!" for n in range(100_000))
    live: dict[str, Event] = {}
    gone: list[str] = []
    for round_ in range(12):
        for _ in range(60):
            word, edited = next(words), next(words)
            expires_at_ms = chance.choice([0, 0, 0, NOW_MS + chance.randrange(12)])
            message = pen.message(word * chance.choice([1, 3, 10, 60, 500]), expires_at_ms=expires_at_ms)
            edit = pen.edit(message, edited * chance.choice([1, 5, 100]))
            await store.apply(chance.sample([seoul.log(message)], 1), NOW_MS)
            if chance.random() < 0.5:
                await store.apply([seoul.log(edit)], NOW_MS)
                gone += [edited] if expires_at_ms else []
            if expires_at_ms:
                gone.append(word)
            else:
                live[word] = message
            if chance.random() < 0.3:
                await store.apply([busan.log(chance.choice([message, edit]))], NOW_MS)
            if live and chance.random() < 0.5:
                word = chance.choice(list(live))
                await store.apply([seoul.log(pen.deletion(live.pop(word)))], NOW_MS)
                gone.append(word)
        if round_ % 3 == 0:
            await store.checkpoint()
    await store.expire(NOW_MS + 12)
    assert await store.checkpoint() == store.vector
    found = on_disk(path)
    assert [word for word in gone if word.encode() in found] == []
    assert all(word.encode() in found for word in live)


async def test_a_file_of_emptied_texts_is_rewritten_when_it_is_opened(
    path: Path, reopen: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_schema, "COMPACT_BYTES", 100_000)
    pen, seoul = Pen(), Region(SEOUL)
    store = await reopen(path)
    messages = [pen.message("x" * 2000) for _ in range(200)]
    await store.apply(seoul.each(*messages, pen.message("stays")), NOW_MS)
    await store.apply(seoul.each(*[pen.deletion(message) for message in messages]), NOW_MS)
    await store.checkpoint()
    await store.close()
    large = size(path)
    again = await reopen(path)
    assert size(path) < large / 3
    assert await shown(again) == ["stays"]
    await again.apply([seoul.log(pen.message("next"))], NOW_MS)
    await again.close()
    assert await shown(await reopen(path)) == ["stays", "next"]


# ---------------------------------------------------------------- looking up


STATEMENTS = [
    (module, name, value)
    for module in (sqlite_read, sqlite_resume, sqlite_merge, sqlite_write)
    for name, value in sorted(vars(module).items())
    if isinstance(value, str) and " FROM facts" in value and name != "FACT"
]


#: Where another index would read a whole conversation.
LOOKED_UP_BY = {
    "HISTORY": "facts_message (scope=? AND (hlc,slot)<(?,?))",
    "MESSAGES": "facts_message (scope=?)",
    "NEWEST": "facts_message (scope=?)",
    "_HIGHEST": "facts_message (scope=?)",
    "RANGE": "facts_position (scope=? AND origin=? AND position>?)",
    "EXPIRED": "facts_expiry (expires_at>? AND expires_at<?)",
    "CHANGED": "INTEGER PRIMARY KEY (rowid>?)",
    "BY_CHANGE": "INTEGER PRIMARY KEY (rowid=?)",
    "OF_KIND": "facts_slot (scope=? AND kind=?)",
    "ONE": "facts_slot (scope=? AND kind=? AND slot=?)",
    "_OLD": "facts_slot (scope=? AND kind=? AND slot=?)",
}


@pytest.mark.parametrize(("module", "name", "sql"), STATEMENTS, ids=[name for _, name, _ in STATEMENTS])
async def test_every_look_up_of_facts_uses_an_index(
    path: Path, reopen: Open, module: object, name: str, sql: str
) -> None:
    await reopen(path)
    with hands_on(path) as db:
        slots = set(re.findall(r"\?\d", sql)) or range(sql.count("?"))
        plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", (1,) * len(slots))]
    assert any("facts" in step or " f " in step for step in plan)
    assert not [step for step in plan if step.startswith("SCAN") and ("facts" in step or step.split()[1] == "f")]
    wanted = LOOKED_UP_BY.get(name)
    assert wanted is None or any(wanted in step for step in plan)
    assert name == "RANGE" or not any("TEMP B-TREE" in step for step in plan)


def test_the_statements_are_found() -> None:
    assert LOOKED_UP_BY.keys() <= {name for _, name, _ in STATEMENTS}


async def test_reads_go_on_beside_a_write(path: Path, reopen: Open) -> None:
    pen, seoul = Pen(), Region(SEOUL)
    store = await reopen(path)
    await store.apply([seoul.log(pen.message("before"))], NOW_MS)
    with hands_on(path) as db:
        db.execute("BEGIN IMMEDIATE")  # somebody is writing
        page = await store.history(ROOM, None, 10)
        db.execute("ROLLBACK")
    assert texts(page.messages) == ["before"]
    assert await store.visible(ROOM, ANNA, page.messages[0].event.id)
