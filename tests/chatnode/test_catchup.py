"""Stories of a node that is behind: whom it asks, what it gives up on, and what it never gives up on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evertalk.adapters.clock import SystemIds
from evertalk.adapters.settings import PeerRegion
from evertalk.adapters.sqlite_store import SqliteStore
from evertalk.adapters.tokens import Keyring, make_keys
from evertalk.adapters.wire import decode_entry, encode_graves, encode_rows, encode_vector
from evertalk.chatnode.catchup import CatchUp
from evertalk.core import limits
from evertalk.core.board import StoreEntry, StreamState
from evertalk.core.errors import PeerUnavailable
from evertalk.core.model import Stream
from evertalk.core.vector import Hole, Vector
from evertalk.ports import RawEntry
from evertalk.v1 import cluster_pb2
from tests.adapters.store_helpers import ANNA, BORIS, NOW_MS, SHARDS, Pen
from tests.chatnode.world import Desk, Line

PEER = "busan-1"


class Elsewhere:
    """Another node's store, as Transport and Peer in one; `away`: it does not answer; `width`: the largest page, in
    rows, that gets through."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.away = False
        self.width = limits.EXPORT_PAGE
        self.asked: list[str] = []
        self.addresses: list[str] = []

    def peer(self, address: str) -> Elsewhere:
        self.addresses.append(address)
        return self

    async def call(self, method: str, request: Any, timeout_s: float, token: str = "") -> Any:
        if self.away:
            raise PeerUnavailable("it burned")
        self.asked.append(method.rpartition("/")[2])
        if isinstance(request, cluster_pb2.StatusRequest):
            return cluster_pb2.StatusResponse(vector=encode_vector(self.store.vector))
        if request.limit > self.width:
            raise PeerUnavailable("the page did not come through in time")
        page = await self.store.export(request.life, request.after_change, 3)
        return cluster_pb2.ExportResponse(
            life=page.life, rows=encode_rows(page.rows), next_change=page.next_change, last=page.last,
            vector=encode_vector(page.vector), folded=sorted(page.folded), graves=encode_graves(page.graves),
        )  # fmt: skip

    async def close(self) -> None: ...

    def entry(self, age_s: float = 0.0) -> StoreEntry:
        return StoreEntry(PEER, "busan", self.store.life, "SERVING", self.store.vector, Vector(), age_s)


class FakeBoard:
    """Streams of the region's Redis, as the story says."""

    def __init__(self) -> None:
        self.found: dict[Stream, StreamState] = {}
        self.meanwhile: Callable[[], None] = lambda: None  # what happens while it answers

    async def streams(self, wanted: Iterable[Stream]) -> dict[Stream, StreamState]:
        self.meanwhile()
        return {s: self.found[s] for s in wanted if s in self.found}


class Behind:
    """The desk's node with a way to catch up."""

    def __init__(self, desk: Desk, elsewhere: Elsewhere, board: FakeBoard, keys: Path) -> None:
        self.desk, self.elsewhere, self.board = desk, elsewhere, board
        peers = {"busan": PeerRegion(redis="redis://peer:x@127.0.0.1:1", nodes={PEER: "there"})}
        desk.node.settings = desk.node.settings.model_copy(update={"peers": peers})
        redis: Any = board  # of BoardReader, only what is asked here
        wan: Any = elsewhere  # of Transport and Peer, calls only
        self.catch_up = CatchUp(desk.node, desk.tailer, wan, Keyring(keys, "seoul"), redis, desk.region)

    async def rounds(self, count: int, age_s: float = 0.0) -> None:
        """So many seconds go by."""
        for _ in range(count):
            await self.catch_up.round([self.elsewhere.entry(age_s)])


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path, SystemIds(), SHARDS)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def behind(d: Desk, tmp_path: Path) -> AsyncIterator[Behind]:
    make_keys(tmp_path / "keys", ["seoul"])
    async with opened(tmp_path / "elsewhere.db") as store:
        await store.apply([decode_entry(e) for e in d.region.written], NOW_MS)
        yield Behind(d, Elsewhere(store), FakeBoard(), tmp_path / "keys")


async def gap_is_seen(d: Desk) -> None:
    while not d.tailer.gaps:
        await d.tailer.wait_for_gap()


async def hole_is_passed(behind: Behind, pen: Pen, text: str) -> tuple[Line, list[RawEntry], Hole]:
    """Nobody who lives holds a message, and what is behind it is shown: who watches, its entries, the hole."""
    d = behind.desk
    anna = await d.opened(ANNA)
    entries = d.region.write(pen.message(text, BORIS))
    d.region.written.remove(entries[0])
    stream, position = entries[0].stream, entries[0].position
    behind.elsewhere.away = True
    d.region.write(pen.message("behind the gap", BORIS))
    await gap_is_seen(d)
    await behind.rounds(6, age_s=30)
    await anna.sees("behind the gap")
    return anna, entries, Hole(stream.origin, stream.shard, position, position)


async def test_a_gap_is_filled_from_whoever_is_ahead_and_told_to_who_is_here(behind: Behind, pen: Pen) -> None:
    d = behind.desk
    anna = await d.opened(ANNA)
    lost = [pen.message(f"trimmed {n}", BORIS) for n in range(5)]
    written = d.region.write(*lost)
    for entry in written:
        d.region.written.remove(entry)
    await behind.elsewhere.store.apply([decode_entry(e) for e in written], NOW_MS)
    d.region.write(pen.message("behind the gap", BORIS))
    await gap_is_seen(d)
    await behind.rounds(2)
    await anna.sees("behind the gap")
    assert anna.texts() == [f"trimmed {n}" for n in range(5)] + ["behind the gap"]
    assert anna.skipped(*lost) == []
    assert not d.store.vector.holes


async def test_a_gap_that_nobody_can_fill_becomes_a_hole_and_the_holder_fills_it_when_it_returns(
    behind: Behind, pen: Pen
) -> None:
    d = behind.desk
    anna, entries, hole = await hole_is_passed(behind, pen, "only in busan")
    assert d.store.vector.holes == {hole}

    behind.elsewhere.away = False
    await behind.elsewhere.store.apply([decode_entry(e) for e in entries], NOW_MS)
    await behind.rounds(2)
    await anna.sees("only in busan")
    assert not d.store.vector.holes


async def test_of_a_folded_origin_only_what_is_left_is_replicated(behind: Behind, pen: Pen) -> None:
    """Whoever sent what was lost must not be told that it is safe: it sends it again."""
    d = behind.desk
    _, _, hole = await hole_is_passed(behind, pen, "burned before it was mirrored")
    key, position = (hole.origin, hole.shard), hole.first
    assert not d.node.is_replicated(key, position + 1), "the origin may still be heard from"

    await d.store.fold({key[0]})
    assert d.node.is_replicated(key, position + 1)
    assert not d.node.is_replicated(key, position)
    told = d.node.replicated_of({key: d.node.replicated(key)})
    assert not told.covers_range(*key, position, position)


async def test_what_is_lost_for_good_holds_nothing_up_while_its_origin_is_open(behind: Behind, pen: Pen) -> None:
    """Its region lost its stores, and its log was trimmed: what is not found is not there, and nobody may be told that
    what burned is replicated."""
    d = behind.desk
    _, _, hole = await hole_is_passed(behind, pen, "burned before it was mirrored")
    key, position = (hole.origin, hole.shard), hole.first

    since = d.node.region_time_ms()
    there = Vector({**d.store.vector.positions})
    d.node.stores, d.node.stores_read_ms = [replace(behind.elsewhere.entry(), vector=there)], since + 1
    assert not d.node.knows_all_since(since), "another store has it"
    there.open_hole(Hole(*key, position, position))
    assert d.node.knows_all_since(since)
    told = d.node.replicated_of({key: position + 1})
    assert told.holds(*key, position + 1)
    assert not told.holds(*key, position)


async def test_what_another_store_lacks_is_not_called_replicated(behind: Behind) -> None:
    """A disk came back with it, here first."""
    d = behind.desk
    key = next(iter(d.store.vector.positions))
    d.node.stores = [replace(behind.elsewhere.entry(), vector=Vector({key: 2}, [Hole(*key, 1, 1)]))]
    assert not d.node.replicated_of({key: 1}).holds(*key, 1)


async def test_nothing_is_definitely_not_there_while_a_gap_is_seen(behind: Behind, pen: Pen) -> None:
    """Not only while a hole is open: the stores of the region that wrote it may have lost it as well."""
    d = behind.desk
    since = d.node.region_time_ms()
    d.node.stores, d.node.stores_read_ms = [behind.elsewhere.entry()], since + 1
    assert d.node.knows_all_since(since)
    entries = d.region.write(pen.message("who was added", BORIS))
    d.region.written.remove(entries[0])
    d.region.write(pen.message("behind the gap", BORIS))
    await gap_is_seen(d)
    d.node.stores_read_ms = since + 2
    assert not d.node.knows_all_since(since)


async def test_a_gap_is_not_passed_while_its_holder_lives(behind: Behind, pen: Pen) -> None:
    d = behind.desk
    entries = d.region.write(pen.message("only in busan", BORIS))
    d.region.written.remove(entries[0])
    await behind.elsewhere.store.apply([decode_entry(e) for e in entries], NOW_MS)
    d.region.write(pen.message("behind the gap", BORIS))
    await gap_is_seen(d)
    await behind.rounds(6)
    assert not d.store.vector.holes
    assert "Export" in behind.elsewhere.asked


async def test_a_hole_that_an_own_stream_holds_by_now_is_read_from_there(behind: Behind, pen: Pen) -> None:
    d = behind.desk
    anna, entries, hole = await hole_is_passed(behind, pen, "came late")
    stream, position = entries[0].stream, hole.first
    assert d.store.vector.holes

    d.region.written.insert(0, entries[0])
    behind.board.found[stream] = StreamState(last=position + 1, length=2, bytes=100, floor=position - 1)
    await behind.rounds(1, age_s=30)
    await anna.sees("came late")
    assert not d.store.vector.holes


async def test_of_a_hole_a_store_and_an_own_stream_each_fill_their_part(behind: Behind, pen: Pen) -> None:
    """What nobody has any more keeps nobody from what somebody has."""
    d = behind.desk
    anna = await d.opened(ANNA)
    entries = d.region.write(*(pen.message(f"lost {n}", BORIS) for n in range(4)))
    stream, first = entries[0].stream, entries[0].position
    for entry in entries:
        d.region.written.remove(entry)
    behind.elsewhere.away = True
    d.region.write(pen.message("behind the gap", BORIS))
    await gap_is_seen(d)
    await behind.rounds(6, age_s=30)
    await anna.sees("behind the gap")
    assert d.store.vector.holes == {Hole(stream.origin, stream.shard, first, first + 3)}

    d.region.written.insert(0, entries[2])  # from a disk as it was
    behind.board.found[stream] = StreamState(last=first + 2, length=1, bytes=100, floor=first + 1)
    await behind.rounds(1, age_s=30)
    await anna.sees("lost 2")
    left = {Hole(stream.origin, stream.shard, n, m) for n, m in ((first, first + 1), (first + 3, first + 3))}
    assert d.store.vector.holes == left, "what was not read is not had"

    behind.elsewhere.away = False
    await behind.elsewhere.store.apply([decode_entry(entries[0])], NOW_MS)
    await behind.rounds(2)
    await anna.sees("lost 0")
    assert d.store.vector.holes == {Hole(stream.origin, stream.shard, n, n) for n in (first + 1, first + 3)}


async def test_a_gap_that_closes_while_it_is_looked_at_is_no_longer_one(behind: Behind, pen: Pen) -> None:
    d = behind.desk
    entries = d.region.write(pen.message("here after all", BORIS))
    d.region.written.remove(entries[0])
    stream, position = entries[0].stream, entries[0].position
    behind.elsewhere.away = True
    d.region.write(pen.message("behind the gap", BORIS))
    await gap_is_seen(d)
    behind.board.found[stream] = StreamState(last=position + 1, length=2, bytes=100, floor=position - 1)
    behind.board.meanwhile = d.tailer.gaps.clear  # an import has filled it
    await behind.rounds(4, age_s=30)
    assert not d.store.vector.holes


async def test_a_node_that_starts_takes_what_its_reachable_peers_have_before_clients_may_come(
    behind: Behind, pen: Pen
) -> None:
    d = behind.desk
    entries = d.region.write(*(pen.message(f"while it was away {n}") for n in range(7)))
    for entry in entries:
        d.region.written.remove(entry)
    await behind.elsewhere.store.apply([decode_entry(e) for e in entries], NOW_MS)
    d.node.stores = [behind.elsewhere.entry()]
    await behind.catch_up.start()
    assert d.store.vector.reaches(behind.elsewhere.store.vector)


async def test_pages_get_smaller_until_they_come_through_a_narrow_link(behind: Behind, pen: Pen) -> None:
    d = behind.desk
    await behind.elsewhere.store.apply([decode_entry(e) for e in d.region.write(pen.message("far away"))], NOW_MS)
    behind.elsewhere.width = limits.EXPORT_PAGE // 3
    tries = [await behind.catch_up.import_from(PEER) for _ in range(4)]
    assert tries == [False, False, True, False]  # and then they try to grow again


async def test_a_neighbour_is_asked_before_a_store_beyond_the_wan_that_has_more(behind: Behind) -> None:
    settings = behind.desk.node.settings
    behind.desk.node.settings = settings.model_copy(update={"neighbours": {"seoul-2": "near"}})
    some, more = Vector({("busan-01B", 0): 5}), Vector({("busan-01B", 0): 6, ("busan-01B", 1): 1})
    assert await behind.catch_up._import_best({PEER: more, "seoul-2": some}, more)
    assert behind.elsewhere.addresses == ["near"]


async def test_a_node_that_starts_waits_for_nobody_who_does_not_answer(behind: Behind) -> None:
    behind.elsewhere.away = True
    await behind.catch_up.start()
    assert behind.elsewhere.asked == []
