"""The durable outbox: what was posted survives the process."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from evertalk.adapters.sqlite_outbox import SqliteOutbox
from evertalk.client import What
from evertalk.core.errors import StoreError
from evertalk.core.sending import Changes, Copy
from evertalk.core.token import Token
from tests.client.world import ROOM, World


async def test_changes_are_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "outbox.db"
    store = SqliteOutbox(path)
    assert await store.load() == ([], b"")
    await store.write(Changes(added={1: b"one", 2: b"two", 3: b"three"}), b"t1")
    await store.write(Changes(acked={2: (Copy("seoul-1", 0, 7),)}, removed={1}), b"t2")
    await store.close()
    again = SqliteOutbox(path)
    assert await again.load() == ([(2, b"two", (Copy("seoul-1", 0, 7),)), (3, b"three", ())], b"t2")
    await again.close()


async def test_a_cancelled_write_leaves_no_half_and_the_next_one_works(tmp_path: Path) -> None:
    store = SqliteOutbox(tmp_path / "outbox.db")
    await store.load()
    for steps in range(12):
        writing = asyncio.create_task(store.write(Changes(added={steps: b"x"}), b"cut"))
        for _ in range(steps):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait([writing])
        await store.write(Changes(added={steps: b"y"}), b"whole")
    await store.close()
    again = SqliteOutbox(tmp_path / "outbox.db")
    saved, token = await again.load()
    await again.close()
    assert [raw for _, raw, _ in saved] == [b"y"] * 12
    assert token == b"whole"


async def test_a_second_process_is_refused(tmp_path: Path) -> None:
    store = SqliteOutbox(tmp_path / "outbox.db")
    await store.load()
    await store.write(Changes(), b"mine")
    with pytest.raises(StoreError, match="cannot be opened"):
        await SqliteOutbox(tmp_path / "outbox.db", wait_s=0).load()
    await store.close()


async def test_what_was_posted_and_not_accepted_is_sent_by_the_next_process(tmp_path: Path) -> None:
    world = World()
    async with world.client(outbox=tmp_path / "o.db") as chat:
        session = chat.session
        world["seoul-1"].hang()
        world["busan-1"].hang()
        for text in ("one", "two"):
            await chat.post(ROOM, text)
    assert not world.told(What.ACCEPTED)
    for node in world.nodes.values():
        node.hung = False
    async with world.client(outbox=tmp_path / "o.db") as again:
        assert again.session == session
        sent = await again.send(ROOM, "three")
    assert world.seoul.texts() == ["one", "two", "three"]
    stamps = [e.hlc for log in world.seoul.log.values() for e in log]
    assert stamps == sorted(stamps)
    assert stamps[-1] == sent.hlc


async def test_the_token_is_kept_before_an_ack_is_shown(tmp_path: Path) -> None:
    world = World()
    async with world.client(outbox=tmp_path / "o.db") as chat:
        sent = await chat.send(ROOM, "hello")
        for name in ("o.db", "o.db-wal"):  # what a crash would leave
            shutil.copy(tmp_path / name, tmp_path / f"crashed-{name}")
    store = SqliteOutbox(tmp_path / "crashed-o.db")
    saved, token = await store.load()
    await store.close()
    assert Token.from_bytes(token).need[(sent.origin, sent.shard)] == sent.position
    assert [copies for _, _, copies in saved] == [(Copy(sent.origin, sent.shard, sent.position),)]


async def test_what_is_replicated_leaves_the_file(tmp_path: Path) -> None:
    world = World()
    async with world.client(outbox=tmp_path / "o.db") as chat:
        posted = await chat.post(ROOM, "hello")
        await posted.accepted
        world.replicate()
        await posted.replicated
    store = SqliteOutbox(tmp_path / "o.db")
    assert (await store.load())[0] == []
    await store.close()
