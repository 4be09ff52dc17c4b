"""Planted bugs: each replaces one decision or port by one that lacks a rule; and what shows that it is caught.

`python -m tests.sim.planted NAME START COUNT` looks for seeds that catch one; without arguments the recorded ones
are run and told as JSON. PYTHONHASHSEED must be 0, as for every run from a seed.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from evertalk.adapters import sqlite_merge
from evertalk.adapters.wire import decode_graves, decode_rows, decode_vector, encode_event
from evertalk.chatnode import accounts as node_accounts
from evertalk.chatnode.catchup import CatchUp
from evertalk.chatnode.session import Session as NodeSession
from evertalk.chatnode.tail import Tailer
from evertalk.client.failover import Failover
from evertalk.client.session import Session as SdkSession
from evertalk.core import clock, holdback, limits, merge, replication
from evertalk.core.errors import LogError, LogUnavailable, PeerUnavailable, Refused
from evertalk.core.model import Applied, Durability, Entry, Event, Kind, Row, Stream
from evertalk.core.vector import Vector
from evertalk.ports import ExportPage, MirrorBatch, RawEntry, Watermark
from evertalk.sim.disk import SimStore
from evertalk.sim.plan import Plan, plan_of
from evertalk.sim.redis import Lane, SimRedis
from evertalk.sim.redis_ports import SimLog
from evertalk.sim.run import run
from evertalk.v1 import cluster_pb2
from tests.sim import stories

Plant = Callable[[ExitStack], None]


def _put(stack: ExitStack, owner: Any, name: str, instead: Any) -> None:
    stack.enter_context(patch.object(owner, name, instead))


# ---------------------------------------------------------------- the rules, each taken out


def r1_node_stamps(stack: ExitStack) -> None:
    """The node stamps what it accepts, so a hedged or repeated send gets another stamp in another place."""
    submit = NodeSession._submit

    def stamped(self: NodeSession, event: Event, epoch: int, seq: int) -> None:
        stamp = self._node.hlc.tick(self._node.clock.wall_ms())
        submit(self, encode_event(event._replace(hlc=stamp)), epoch, seq)

    _put(stack, NodeSession, "_submit", stamped)


def r2_no_merging_of_stamps(stack: ExitStack) -> None:
    """Nobody takes note of others' stamps."""
    _put(stack, clock.HybridClock, "merge", lambda self, stamp: None)


def r3_an_origin_outlives_its_redis(stack: ExitStack) -> None:
    """A claim keeps the origin that `meta` names, whatever process this is."""
    claim = SimRedis.claim

    def kept(self: SimRedis, region: str, shards: int, fresh: str) -> tuple[str, str]:
        origin = self.data.meta.get("origin")
        if origin is not None and all(Stream(origin, s) in self.data.streams for s in range(shards)):
            return "kept", origin
        return claim(self, region, shards, fresh)

    _put(stack, SimRedis, "claim", kept)


def r4_a_mirror_append_names_no_predecessor(stack: ExitStack) -> None:
    """What comes goes in, behind whatever is there."""

    def append(self: SimRedis, batch: MirrorBatch, mark: Watermark) -> bool:
        stream = Stream(batch.origin, batch.shard, True)
        lane = self.data.streams.setdefault(stream, Lane())
        for _, payload in batch.entries:
            self.on_write(stream, lane.add(payload), payload)
        self._grown()
        if mark.position:
            self.publish([mark], False)
        return True

    _put(stack, SimRedis, "append_mirror", append)


def r5_trimming_asks_no_store(stack: ExitStack) -> None:
    """Streams are trimmed whether or not own stores hold them checkpointed."""
    _put(stack, replication, "held", lambda stores, region, key, floor=0: 10**18)


def r6_gaps_are_not_seen(stack: ExitStack) -> None:
    """XREAD below a trim silently returns what is left, and that is taken for everything."""
    offer = Tailer._offer

    def blind(self: Tailer, raw: RawEntry) -> None:
        key = (raw.stream.origin, raw.stream.shard)
        for missing in range(self._read.get(key, 0) + 1, raw.position):
            self._held.offer(Entry(*key, missing, ()), self._node.clock.monotonic())
            self._read[key] = missing
        offer(self, raw)

    _put(stack, Tailer, "_offer", blind)
    _put(stack, Tailer, "_note_gaps", lambda self, read: None)


def r7_one_vector(stack: ExitStack) -> None:
    """An own ack moves `have` too, so what others wrote just before it is never asked for again."""
    acks = SdkSession._acks

    def both(self: SdkSession, lane: int, told: Any) -> None:
        acks(self, lane, told)
        for shard, position in zip(told.shards, told.positions, strict=True):
            self._mark(Vector({(told.origin, shard): position}))

    _put(stack, SdkSession, "_acks", both)


def r8_nobody_is_asked(stack: ExitStack) -> None:
    """Stores import nothing."""

    async def nothing(self: CatchUp, vectors: object, wanted: object) -> bool:
        return False

    _put(stack, CatchUp, "_import_best", nothing)


def r9_cursors_move_with_the_first_page(stack: ExitStack) -> None:
    """An import that breaks off leaves cursors where the whole of it would have."""
    _put(stack, CatchUp, "import_from", _importing(finish_each=True))


def r10_no_order_after_a_refusal(stack: ExitStack) -> None:
    """After a refusal the rest of the stream epoch is accepted all the same."""
    refuse = NodeSession._refuse

    def forgetful(self: NodeSession, epoch: int, seq: int, refused: Refused) -> None:
        refuse(self, epoch, seq, refused)
        self._dead_epoch = -1

    _put(stack, NodeSession, "_refuse", forgetful)


def r11_parents_are_not_waited_for(stack: ExitStack) -> None:
    """Logs and mirrors are applied as they come."""
    _put(stack, holdback, "_lacking", lambda entry, reached, folded: [])


def r12_the_last_to_come_wins(stack: ExitStack) -> None:
    """Registers go by arrival."""
    _put(stack, sqlite_merge, "beats", lambda new, new_rank, old, old_rank: True)


def r13_joining_brings_no_page(stack: ExitStack) -> None:
    """Who becomes a member sees what comes from then on."""

    async def nothing(self: SimStore, scope: bytes, limit: int) -> list[Applied]:
        return []

    _put(stack, SimStore, "join_page", nothing)


def r14_creations_do_not_wait(stack: ExitStack) -> None:
    """An account is called REPLICATED as soon as it is accepted."""

    async def at_once(self: node_accounts.Accounts, need: Vector) -> Durability:
        return Durability.REPLICATED

    _put(stack, node_accounts.Accounts, "_durable", at_once)


def r16_folding_asks_nobody(stack: ExitStack) -> None:
    """A closed origin folds at once."""

    def closed(origin: Any, shards: int, regions: object, views: object) -> bool:
        return bool(origin.state == "closed")

    _put(stack, replication, "may_fold", closed)


# ---------------------------------------------------------------- and others


def the_sender_is_not_in_the_key(stack: ExitStack) -> None:
    """Two messages of one id are one, whoever sent them."""
    slot_of = merge.slot_of

    def without(event: Event) -> bytes:
        return event.id + bytes(16) if event.kind == Kind.MESSAGE else slot_of(event)

    _put(stack, sqlite_merge, "slot_of", without)
    for module in (merge, sqlite_merge):
        _put(stack, module, "target_slot", lambda target: target.id + bytes(16))


def deleted_texts_stay(stack: ExitStack) -> None:
    """A deleted message is not shown any more, and its text is left where it was."""
    _put(stack, sqlite_merge.Merger, "_empty", lambda self, text: None)


def nothing_disappears(stack: ExitStack) -> None:
    """The time of messages that disappear passes without effect."""

    async def nothing(self: SimStore, now_ms: int) -> int:
        return 0

    _put(stack, SimStore, "expire", nothing)


def holes_have_no_name(stack: ExitStack) -> None:
    """A gap that nobody can fill is passed as if it had been read."""
    _put(stack, Vector, "open_hole", lambda self, hole: None)


def nobody_hedges(stack: ExitStack) -> None:
    """A stream is left only when nothing was heard on it for long."""
    _put(stack, Failover, "_hedge", lambda self, group, primary, now: [])


def ack_before_append(stack: ExitStack) -> None:
    """Positions are told before they are written."""
    append = SimLog.append

    async def early(self: SimLog, entries: Sequence[tuple[int, bytes]]) -> list[int | LogError]:
        link = self._link
        if link is None or not link.is_open:
            raise LogUnavailable("not claimed")
        lasts = [self._station.redis._last_of(stream) for stream in self._streams]
        guesses: list[int | LogError] = []
        for shard, _ in entries:
            lasts[shard] += 1
            guesses.append(lasts[shard])
        self._station.process.start(_quietly(append(self, entries)))
        return guesses

    _put(stack, SimLog, "append", early)


async def _quietly(work: Any) -> None:
    try:
        await work
    except LogError:
        return


def cursor_outside_the_transaction(stack: ExitStack) -> None:
    """The cursor is written first, the rows in a transaction of their own."""
    apply = SimStore.apply

    async def split(
        self: SimStore, entries: Sequence[Entry], now_ms: int, missing: frozenset[tuple[str, int, int]] = frozenset()
    ) -> list[Applied]:
        fresh = [e for e in entries if e.position > self.vector[(e.origin, e.shard)]]
        await apply(self, [e._replace(records=()) for e in entries], now_ms, missing)
        rows = [Row(r.event, r.accepted_at, ((e.origin, e.position),)) for e in fresh for r in e.records]
        return await self.import_rows(rows, now_ms)

    _put(stack, SimStore, "apply", split)


def resume_one_too_far(stack: ExitStack) -> None:
    """A session resumes behind the position after the one it has."""
    resume = SimStore.resume

    async def further(self: SimStore, account: bytes, have: Vector, after: Any, limit: int) -> Any:
        return await resume(self, account, Vector({k: p + 1 for k, p in have}, have.holes), after, limit)

    _put(stack, SimStore, "resume", further)


def trim_one_too_far(stack: ExitStack) -> None:
    """Off by one."""
    trim_to = replication.trim_to

    def further(level: Any, *rest: Any, **named: Any) -> int:
        target = trim_to(level, *rest, **named)
        return target + 1 if target > level.floor else target

    _put(stack, replication, "trim_to", further)


def tombstones_stay_at_home(stack: ExitStack) -> None:
    """Export leaves deletions out."""
    export = SimStore.export

    async def without(self: SimStore, life: str, after_change: int, limit: int) -> ExportPage:
        page = await export(self, life, after_change, limit)
        return dataclasses.replace(page, rows=[r for r in page.rows if r.event.kind != Kind.DELETION])

    _put(stack, SimStore, "export", without)


def finally_confirms(stack: ExitStack) -> None:
    """An import that broke off is booked as done, in a `finally`."""
    _put(stack, CatchUp, "import_from", _importing(finish_each=False))


def unknown_is_called_written(stack: ExitStack) -> None:
    """An append whose reply was lost is answered with the position it would have had."""
    append = SimLog.append

    async def sure(self: SimLog, entries: Sequence[tuple[int, bytes]]) -> list[int | LogError]:
        outcomes: list[int | LogError] = []
        lasts = [self._station.redis._last_of(stream) for stream in self._streams]
        try:
            outcomes = await append(self, entries)
        finally:
            for shard, _ in entries[len(outcomes) :]:
                lasts[shard] += 1
                outcomes.append(lasts[shard])
        return [
            one if isinstance(one, int) else lasts[shard] + 1 for one, (shard, _) in zip(outcomes, entries, strict=True)
        ]

    _put(stack, SimLog, "append", sure)


def _importing(finish_each: bool) -> Any:
    """CatchUp.import_from with cursors moved by the first page, or in any case at the end."""

    async def import_from(self: CatchUp, name: str) -> bool:
        node, store = self._node, self._node.store
        life, change = await store.bookmark(name)
        start: Vector | None = None
        folded: Sequence[str] = ()

        async def finish() -> None:
            if start is not None:
                async with node.writing:
                    await store.finish_import(name, life, change, start, folded)
                    await self._tailer.import_finished()

        try:
            while True:
                request = cluster_pb2.ExportRequest(life=life, after_change=change, limit=limits.EXPORT_PAGE)
                try:
                    page: Any = await self._call(name, "Export", request)
                except (PeerUnavailable, Refused):
                    return False
                life, change, folded = page.life, page.next_change, page.folded
                start = start or decode_vector(page.vector)
                async with node.writing:
                    await self._tailer.import_rows(decode_rows(page.rows), decode_graves(page.graves))
                if finish_each or page.last:
                    await finish()
                if page.last:
                    return True
        finally:
            if not finish_each:
                await finish()

    return import_from


# ---------------------------------------------------------------- which seeds catch them

#: What catches each bug: a hand-built story, or a seed; so many from 1 on suffice. docs/simulation.md has it too.
CAUGHT_BY: dict[str, int | Callable[[], Plan]] = {
    "r1_node_stamps": 1,
    "r2_no_merging_of_stamps": 4,
    "r3_an_origin_outlives_its_redis": 14,
    "r4_a_mirror_append_names_no_predecessor": stories.replicators_race,
    "r5_trimming_asks_no_store": stories.only_copy_is_trimmed,
    "r6_gaps_are_not_seen": 21,
    "r7_one_vector": stories.streams_break_between_ack_and_delivery,
    "r8_nobody_is_asked": 1,
    "r9_cursors_move_with_the_first_page": stories.an_import_breaks_off,
    "r10_no_order_after_a_refusal": stories.redis_is_full_now_and_then,
    "r11_parents_are_not_waited_for": stories.a_reply_overtakes_its_parent,
    "r12_the_last_to_come_wins": 35,
    "r13_joining_brings_no_page": 3,
    "r14_creations_do_not_wait": stories.somebody_registers_where_it_burns,
    "r16_folding_asks_nobody": stories.a_tail_that_nobody_else_has,
    "ack_before_append": 9,
    "cursor_outside_the_transaction": stories.nodes_crash_while_they_apply,
    "resume_one_too_far": 1,
    "tombstones_stay_at_home": 82,
    "trim_one_too_far": 107,
    "finally_confirms": stories.an_import_breaks_off,
    "unknown_is_called_written": 3,
    "the_sender_is_not_in_the_key": stories.somebody_uses_anothers_ids,
    "deleted_texts_stay": stories.whispers_in_a_region_that_burns,
    "nothing_disappears": stories.whispers_in_a_region_that_burns,
    "holes_have_no_name": stories.a_disk_comes_back_as_it_was,
    "nobody_hedges": stories.a_region_stands_still_while_people_talk,
}

PLANTS: dict[str, Plant] = {
    plant.__name__: plant
    for plant in (
        r1_node_stamps, r2_no_merging_of_stamps, r3_an_origin_outlives_its_redis,
        r4_a_mirror_append_names_no_predecessor, r5_trimming_asks_no_store, r6_gaps_are_not_seen, r7_one_vector,
        r8_nobody_is_asked, r9_cursors_move_with_the_first_page, r10_no_order_after_a_refusal,
        r11_parents_are_not_waited_for, r12_the_last_to_come_wins, r13_joining_brings_no_page,
        r14_creations_do_not_wait, r16_folding_asks_nobody, ack_before_append, cursor_outside_the_transaction,
        resume_one_too_far, trim_one_too_far, tombstones_stay_at_home, finally_confirms, unknown_is_called_written,
        the_sender_is_not_in_the_key, deleted_texts_stay, nothing_disappears, holes_have_no_name, nobody_hedges,
    )
}  # fmt: skip


@contextmanager
def planted(name: str) -> Iterator[None]:
    """With this bug in."""
    with ExitStack() as stack:
        PLANTS[name](stack)
        yield


def caught(name: str, by: int | Callable[[], Plan]) -> list[str]:
    """What a seed or a story says of it."""
    with planted(name):
        return run(plan_of(by) if isinstance(by, int) else by()).violations


def main() -> int:
    """Look for seeds, or run the recorded ones."""
    if len(sys.argv) > 1:
        name, start, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
        for seed in range(start, start + count):
            if found := caught(name, seed):
                print(f"{name} seed {seed} ({seed - start + 1} tried): {found[0]}", flush=True)
                return 0
        print(f"{name} not caught by {count} seeds from {start}", flush=True)
        return 1
    told = {
        "stories": {story.__name__: run(story()).violations for story in stories.STORIES},
        "bugs": {name: caught(name, by) for name, by in CAUGHT_BY.items()},
    }
    print(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
