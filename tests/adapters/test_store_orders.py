"""Whatever the order of arrival, the batches and the way: stores that hold the same events are the same."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evertalk.core.ids import shard_of
from evertalk.core.merge import slot_of
from evertalk.core.model import Entry, Event, Kind, Role
from evertalk.ports import Store
from tests.adapters.store_helpers import (
    ANNA,
    BORIS,
    BUSAN,
    CHLOE,
    NOW_MS,
    ROOM,
    SEOUL,
    SHARDS,
    MakeStore,
    Pen,
    Region,
    at,
    digest,
    pull,
    resumed,
)

pytest_plugins = ["tests.adapters.store_fixtures"]

SHARD = shard_of(ROOM, SHARDS)
WHO = (ANNA, BORIS, CHLOE)
#: (what, which message, by whom, version)
OPS = st.tuples(
    st.sampled_from(
        [
            "message",
            "message",
            "edit",
            "deletion",
            "reaction",
            "title",
            "membership",
            "receipt",
            "conversation",
            "unknown",
        ]
    ),
    st.integers(0, 4),
    st.sampled_from(WHO),
    st.integers(1, 3),
)
few = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def write(pen: Pen, messages: list[Event], op: tuple[str, int, bytes, int]) -> Event:
    """The event of one operation on a small conversation."""
    what, number, who, version = op
    message = messages[number % len(messages)]
    match what:
        case "message":
            messages.append(pen.message(f"text {pen.number}", who))
            return messages[-1]
        case "edit":
            return pen.edit(message, f"edit {pen.number}", version)
        case "deletion":
            return pen.deletion(message, who)
        case "reaction":
            return pen.reaction(message, "👍", who, version)
        case "title":
            return pen.title(f"title {pen.number}", version, who)
        case "membership":
            return pen.membership(who, Role(version), number + 1)
        case "receipt":
            return pen.receipt(who, number + 1)
        case "conversation":
            return pen.conversation([ANNA, who], creator=who)
        case _:
            return pen.unknown(who)


def logs(
    ops: Sequence[tuple[str, int, bytes, int]], homes: Sequence[int], rivals: bool, first: Event | None = None
) -> tuple[Region, Region]:
    """Two origins' logs of these operations, each event in one or both; with `rivals` two texts under one id."""
    seoul, busan = Region(SEOUL, NOW_MS), Region(BUSAN, NOW_MS - 5)
    if first is not None:
        seoul.log(first)
    pen = Pen()
    messages = [pen.message("first")]
    events = [messages[0], *(write(pen, messages, op) for op in ops)]
    if rivals:
        rival = pen.message("rival text", messages[0].sender, id=messages[0].id)
        events.insert(len(events) // 2, rival)
    for event, home in zip(events, homes, strict=False):
        if home != 1:
            seoul.log(event)
        if home != 0:
            busan.log(event)
    if busan.entries:  # another order there
        reordered = Region(BUSAN, NOW_MS - 5)
        for entry in reversed(busan.entries):
            reordered.log(*[r.event for r in entry.records])
        busan = reordered
    return seoul, busan


def interleave(one: Sequence[Entry], other: Sequence[Entry], turns: Sequence[bool]) -> list[Entry]:
    """Both logs in their own order, taking turns."""
    left, right = list(one), list(other)
    merged = []
    for turn in turns:
        source = left if (turn and left) or not right else right
        if source:
            merged.append(source.pop(0))
    return merged + left + right


async def feed(store: Store, entries: Sequence[Entry], sizes: Sequence[int]) -> None:
    """Apply in batches of these sizes, then the rest."""
    rest = list(entries)
    for size in sizes:
        await store.apply(rest[:size], NOW_MS)
        rest = rest[size:]
    await store.apply(rest, NOW_MS)


async def rows(store: Store) -> dict[bytes, tuple[int, frozenset[tuple[str, int]]]]:
    """What is exported: bytes -> (accepted_at, copies)."""
    page = await store.export("", 0, 10_000)
    return {r.event.raw: (r.accepted_at, frozenset(r.copies)) for r in page.rows}


CASE = {
    "ops": st.lists(OPS, max_size=14),
    "homes": st.lists(st.integers(0, 2), min_size=20, max_size=20),
    "turns": st.lists(st.booleans(), max_size=20),
    "others": st.lists(st.booleans(), max_size=20),
    "sizes": st.lists(st.integers(0, 6), max_size=5),
    "rivals": st.booleans(),
}


@few
@given(**CASE)
async def test_any_order_and_any_batches_end_alike(
    make_store: MakeStore,
    ops: list[tuple[str, int, bytes, int]],
    homes: list[int],
    turns: list[bool],
    others: list[bool],
    sizes: list[int],
    rivals: bool,
) -> None:
    seoul, busan = logs(ops, homes, rivals)
    one, other = await make_store(), await make_store()
    await feed(one, interleave(seoul.entries, busan.entries, turns), sizes)
    await feed(other, interleave(busan.entries, seoul.entries, others), sizes[::-1])
    assert await digest(one) == await digest(other)
    assert one.vector == other.vector
    assert await one.conversation(ROOM) == await other.conversation(ROOM)
    if not rivals:  # a text that lost keeps no copies
        assert await rows(one) == await rows(other)
    await one.close()
    await other.close()


@few
@given(cut=st.integers(0, 20), limit=st.integers(1, 5), **CASE)
async def test_a_store_built_from_another_is_the_same(
    make_store: MakeStore,
    cut: int,
    limit: int,
    ops: list[tuple[str, int, bytes, int]],
    homes: list[int],
    turns: list[bool],
    others: list[bool],
    sizes: list[int],
    rivals: bool,
) -> None:
    seoul, busan = logs(ops, homes, rivals)
    source, target, third = await make_store(), await make_store(), await make_store()
    entries = interleave(seoul.entries, busan.entries, turns)
    mine = interleave(busan.entries, seoul.entries, others)
    await feed(source, entries[:cut], sizes)
    await feed(target, mine[: len(mine) // 2], sizes)
    await pull(target, source, limit)
    await feed(source, entries[cut:], sizes)
    await pull(third, target, limit)
    await pull(target, source, limit)
    await target.apply(mine, NOW_MS)
    await pull(third, source, limit)
    assert await digest(target) == await digest(source) == await digest(third)
    assert target.vector == source.vector == third.vector
    if not rivals:
        assert await rows(target) == await rows(source) == await rows(third)
    for store in (source, target, third):
        await store.close()


@few
@given(had=st.tuples(st.integers(1, 15), st.integers(0, 15)), limit=st.integers(1, 6), **CASE)
async def test_a_resume_delivers_what_has_no_copy_within_have(
    make_store: MakeStore,
    had: tuple[int, int],
    limit: int,
    ops: list[tuple[str, int, bytes, int]],
    homes: list[int],
    turns: list[bool],
    others: list[bool],
    sizes: list[int],
    rivals: bool,
) -> None:
    quiet = [op for op in ops if op[0] not in ("membership", "conversation")]  # boris is in from first to last
    seoul, busan = logs(quiet, homes, rivals, first=Pen(number=900).conversation())
    store = await make_store()
    await feed(store, interleave(seoul.entries, busan.entries, turns), sizes)
    have = at(ROOM, seoul=had[0], busan=had[1])
    page = await store.export("", 0, 10_000)
    expected = [
        row.event
        for row in page.rows
        if row.event.kind != Kind.UNKNOWN and not any(have[(o, SHARD)] >= p for o, p in row.copies)
    ]
    delivered = [new.event for new in await resumed(store, BORIS, have, limit)]
    assert [e.raw for e in delivered] == [e.raw for e in sorted(expected, key=lambda e: (e.hlc, e.kind, slot_of(e)))]
    await store.close()
