"""Tail this region's logs and mirrors, apply in order, hand what is new to the fan-out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Protocol

from evertalk.adapters.wire import decode_batch
from evertalk.chatnode.node import Node
from evertalk.core import limits
from evertalk.core.errors import Code, LogUnavailable, Refused, StoreDamaged, StoreError
from evertalk.core.holdback import Holdback, parents_lacking
from evertalk.core.ids import shard_of
from evertalk.core.model import Applied, Entry, Event, Grave, Record, Row, Stream
from evertalk.core.replication import born_ms
from evertalk.core.vector import Hole, Key, Vector
from evertalk.ports import RawEntry, Read, Tail

_BLOCK_S = 1.0
_RETRY_S = 0.1
_STORE_RETRY_S = 1.0
#: Entries of one (origin, shard) that may wait here for parents before it is read no further.
_HELD_MAX = 256
#: Events of an import that wait for its end, so that parents come first whatever page they are on.
_BROUGHT_MAX = 5000


class Audience(Protocol):
    """Who hears of what is applied: the hub."""

    async def members_of(self, events: Iterable[Event]) -> dict[bytes, set[bytes]]: ...

    async def fan_out(self, applied: list[Applied], were_in: dict[bytes, set[bytes]]) -> None: ...

    def watermarks_moved(self, keys: set[Key]) -> None: ...

    def anybody(self) -> bool: ...

    def import_finished(self) -> None: ...

    def moved(self) -> None: ...

    def cut_all(self, refused: Refused) -> None: ...


class Tailer:
    """The one loop that moves the store forward by reading; imports move it beside, under the same lock."""

    def __init__(
        self,
        node: Node,
        tail: Tail,
        audience: Audience,
        suspect: Callable[[], None],
    ) -> None:
        self._node = node
        self._tail = tail
        self._audience = audience
        self._suspect = suspect
        self._held = Holdback()
        self._read: dict[Key, int] = {}  # read up to here, applied or held
        self.gaps = node.gaps
        self._gap_seen = asyncio.Event()
        self._started = False
        self._complained = False
        self._brought: dict[bytes, Applied] = {}  # by its bytes; by an import, and not yet handed out
        self._were_in: dict[bytes, set[bytes]] = {}
        self._half: set[str] = set()  # sources of imports that have begun and not come to their end

    async def wait_for_gap(self) -> None:
        """Until a gap is seen that reading cannot fill."""
        await self._gap_seen.wait()
        self._gap_seen.clear()

    async def run(self) -> None:
        """Read, apply and fan out until cancelled."""
        while True:
            try:
                await self._round()
            except StoreDamaged:
                raise  # the next start throws it away and builds it again
            except StoreError as error:
                await self._store_failed(error)
            else:
                self._node.store_failed = False

    async def _round(self) -> None:
        read = await self._read_on()
        if read is not None:
            await self._note_origins(read)
            self._note_gaps(read)
            for raw in read.entries:
                self._offer(raw)
            self._started = True
        await self.settle()  # also without Redis: what waited long enough goes
        if read is None:
            await asyncio.sleep(_RETRY_S)

    async def _read_on(self) -> Read | None:
        """The next entries; None while Redis cannot be reached."""
        due = self._held.next_due_s(self._node.clock.monotonic())
        block = _BLOCK_S if due is None else min(_BLOCK_S, max(due, 0.01))
        try:
            read = await self._tail.read(self._cursors(), block if self._started else 0.01)
        except LogUnavailable as error:
            if not self._complained:
                self._node.log.warning("tail unavailable", reason=str(error))
            self._complained = True
            self._suspect()
            return None
        self._complained = False
        return read

    async def _store_failed(self, error: StoreError) -> None:
        """A full disk, say: serve nobody, and try again with what was read last thrown away."""
        if not self._node.store_failed:
            self._node.log.error("store failed", reason=str(error))
        self._node.store_failed = True
        self._held = Holdback()
        self._read.clear()
        self._audience.cut_all(
            Refused(Code.CATCHING_UP, "this node's store does not work right now: use another", 1000)
        )
        await asyncio.sleep(_STORE_RETRY_S)

    # ------------------------------------------------------------ reading

    def _cursors(self) -> dict[Stream, int]:
        node, vector = self._node, self._node.store.vector
        cursors: dict[Stream, int] = {}
        for origin, info in node.origins.items():
            if info.state == "folded":
                continue
            mirror = info.region != node.settings.region
            for shard in range(node.settings.shards):
                key = (origin, shard)
                applied = vector[key]
                if applied >= self._read.get(key, 0):
                    self._read[key] = applied
                if key not in self.gaps and self._held.queued(key) < _HELD_MAX:
                    cursors[Stream(origin, shard, mirror)] = self._read[key]
        return cursors

    async def _note_origins(self, read: Read) -> None:
        node = self._node
        node.origins = read.origins
        folded = {o for o, info in read.origins.items() if info.state == "folded"} - node.store.folded
        if folded:
            async with node.writing:
                await node.store.fold(folded)
            node.marks.drop(folded)
            self._audience.watermarks_moved({(o, shard) for o in folded for shard in range(node.settings.shards)})
            for key in [k for k in self._read if k[0] in folded]:
                del self._read[key]
                self.gaps.pop(key, None)
                self._held.drop(key)
            self._audience.moved()
        if node.store.folded:
            await self._forget(read)
        own_open = [o for o, i in read.origins.items() if i.region == node.settings.region and i.state == "open"]
        if node.origin and node.origin not in own_open:
            self._suspect()  # also where none is open: an emptied Redis is noticed without a send

    async def _forget(self, read: Read) -> None:
        """Let go of folded origins that everybody's tokens have outlived."""
        node = self._node
        too_old = node.region_time_ms() - limits.MAX_AGE_MS
        forgotten = {
            origin
            for origin in (node.store.folded & node.store.vector.origins()) - read.origins.keys()
            if (born_ms(origin) or too_old) < too_old
        }
        if forgotten:
            async with node.writing:
                await node.store.forget(forgotten)
                node.fanned.drop(forgotten)

    def _note_gaps(self, read: Read) -> None:
        """A floor above the cursor, or a closed origin's missing stream, is a gap (R6)."""
        first: dict[Stream, int] = {}
        for raw in read.entries:
            first.setdefault(raw.stream, raw.position)
        for stream, floor in read.floors.items():
            key = (stream.origin, stream.shard)
            cursor = self._read.get(key, 0)
            if stream in first or floor <= cursor:
                continue
            self._gap(key, floor + 1)
        for stream in read.missing:
            key = (stream.origin, stream.shard)
            info = read.origins.get(stream.origin)
            last = info.last[stream.shard] if info and stream.shard < len(info.last) else 0
            if stream.mirror and info and info.region in self._node.live_peers():
                continue  # its replicator is about to make it
            if info and info.state == "closed" and last > self._read.get(key, 0):
                self._gap(key, last + 1)

    def _gap(self, key: Key, beyond: int) -> None:
        self.gaps[key] = max(self.gaps.get(key, 0), beyond)
        self._gap_seen.set()

    def _offer(self, raw: RawEntry) -> None:
        key = (raw.stream.origin, raw.stream.shard)
        cursor = self._read.get(key, 0)
        if raw.position <= cursor or key in self.gaps:
            return
        if raw.position > cursor + 1:
            self._gap(key, raw.position)
            return
        self._held.offer(Entry(*key, raw.position, self._decode(raw)), self._node.clock.monotonic())
        self._read[key] = raw.position

    def _decode(self, raw: RawEntry) -> tuple[Record, ...]:
        try:
            return decode_batch(raw.payload, here=not raw.stream.mirror)
        except Refused as error:
            # Bytes that no node writes; passing them by name is better than stopping every reader.
            self._node.log.error("entry does not parse", stream=str(raw.stream), position=raw.position, why=str(error))
            return ()

    def read_to(self, origin: str, shard: int) -> float:
        """Position up to which (origin, shard) was read; infinite where entries wait for parents: nobody is to wait for
        those (R11)."""
        key = (origin, shard)
        return inf if self._held.queued(key) else max(self._read.get(key, 0), self._node.store.vector[key])

    # ------------------------------------------------------------ applying

    def _held_elsewhere(self, origin: str, shard: int, position: int) -> bool:
        me = self._node.settings.node
        return any(
            s.node != me and s.age_s <= limits.STORE_LIVE_S and s.vector.covers(origin, shard, position)
            for s in self._node.stores
        )

    async def settle(self) -> None:
        """Apply everything that may go now."""
        node = self._node
        while True:
            async with node.writing:
                entries, gave_up = self._held.take(
                    node.store.vector, node.met, node.clock.monotonic(), self._held_elsewhere
                )
                if not entries:
                    if waiting := len(self._held):
                        node.log.debug("entries wait for their parents", entries=waiting)
                    return
                were_in = await self._audience.members_of(r.event for e in entries for r in e.records)
                applied = await node.store.apply(entries, node.region_time_ms(), gave_up)
                for entry in entries:
                    for record in entry.records:
                        node.noticed(record.event, record.accepted_at)
                node.counters.applied += len(applied)
                await self._audience.fan_out(self._with_brought(entries, applied), were_in | self._were_in)
                self._forget_brought()
                self._note_fanned((e.origin, e.shard, e.position) for e in entries)
                self._audience.moved()
            node.progress.moved()

    def _note_fanned(self, positions: Iterable[tuple[str, int, int]]) -> None:
        for origin, shard, position in positions:
            self._node.fanned.advance(origin, shard, position)

    async def import_rows(
        self, rows: list[Row], graves: Sequence[Grave] = (), coming: Vector | None = None, source: str = ""
    ) -> None:
        """Rows came in by Export (the caller holds `writing`); `hand_out` or `import_finished` must follow.

        Args:
            coming: what the store will have at the import's end; a parent beyond that is marked as missing (R11).
        """
        node = self._node
        reached = node.store.vector.copy()
        reached.merge(coming or Vector())
        rows = [row._replace(parent_missing=self._is_orphan(row, reached)) for row in rows]
        for scope, members in (await self._audience.members_of(row.event for row in rows)).items():
            self._were_in.setdefault(scope, members)
        applied = await node.store.import_rows(rows, node.region_time_ms(), graves)
        self._half.add(source)
        node.importing = True
        for one in applied:
            node.noticed(one.event, one.accepted_at)
        node.counters.applied += len(applied)
        self._brought |= {one.event.raw: one for one in applied}
        self._forget_brought()
        if len(self._brought) > _BROUGHT_MAX:
            await self.hand_out()

    def _forget_brought(self) -> None:
        """Nobody is here: who comes is brought it by the store, and `_were_in` would not be kept up to date."""
        if not self._audience.anybody():
            self._brought, self._were_in = {}, {}

    def _is_orphan(self, row: Row, reached: Vector) -> bool:
        origins = [origin for origin, _ in row.copies]
        shard = shard_of(row.event.scope, self._node.settings.shards)
        return bool(parents_lacking(row.event, origins, shard, reached, self._node.met))

    def _with_brought(self, entries: Iterable[Entry], applied: list[Applied]) -> list[Applied]:
        """Also what an import has brought before the log did and not handed out yet: a marker is about to pass it."""
        if not self._brought:
            return applied
        new = {one.event.raw: one for one in applied}
        found: list[Applied] = []
        for entry in entries:
            for record in entry.records:
                brought = self._brought.pop(record.event.raw, None)
                if one := new.pop(record.event.raw, None):
                    found.append(one)
                elif brought:
                    copy = (entry.origin, entry.position)
                    found.append(brought._replace(further=(*brought.further, copy)))
        return found

    async def hand_out(self) -> None:
        """What was imported is told to who is here, all pages together (the caller holds `writing`).

        Rows come by change number, and a parent that got another copy comes behind its answers; stamps are causal.
        """
        brought, were_in = self._brought.values(), self._were_in
        self._brought, self._were_in = {}, {}
        reached = self._node.store.vector
        told = [self._marked(one, reached) for one in sorted(brought, key=lambda one: (one.event.hlc, one.event.id))]
        try:
            await self._audience.fan_out(told, were_in)
        except StoreDamaged:
            raise
        except StoreError as error:
            self._node.log.error("an import was not handed out", reason=str(error))
            self._audience.cut_all(Refused(Code.CATCHING_UP, "this node's store does not work right now", 1000))

    def _marked(self, one: Applied, reached: Vector) -> Applied:
        """The import has broken off, and its parent may be on a page that never comes (R11)."""
        origins = [one.origin, *(origin for origin, _ in one.further)]
        lacking = parents_lacking(one.event, origins, one.shard, reached, self._node.met)
        return one._replace(parent_missing=True) if lacking else one

    async def import_finished(self, source: str = "") -> None:
        """The store's vector jumped (the caller holds `writing`): markers may follow, gaps below it are filled."""
        await self.hand_out()
        self._audience.import_finished()
        self._half.discard(source)
        self._node.importing = bool(self._half)
        self._node.fanned = self._node.store.vector.copy()
        self._audience.moved()
        self._close_gaps(self._node.store.vector)
        self._node.progress.moved()

    def _close_gaps(self, vector: Vector) -> None:
        for key, beyond in list(self.gaps.items()):
            if vector[key] >= beyond - 1:
                del self.gaps[key]

    async def pass_gap(self, key: Key) -> None:
        """Nobody holds it: pass it as a named hole (the caller holds `writing`)."""
        if self._held.queued(key):
            return  # what was read before the gap comes first
        first, last = self._node.store.vector[key] + 1, self.gaps[key] - 1
        if first <= last:
            hole = Hole(*key, first, last)
            await self._node.store.pass_hole(hole)
            self._node.log.error("hole passed", origin=key[0], shard=key[1], first=first, last=last)
        await self.import_finished()
