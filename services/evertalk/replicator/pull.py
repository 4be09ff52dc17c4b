"""Pulls one peer's logs into this region's mirrors, and mirrors of third regions it cannot ask (R4, R8)."""

from __future__ import annotations

import structlog

from evertalk.core import replication
from evertalk.core.model import Stream
from evertalk.core.replication import Step
from evertalk.ports import MirrorBatch, OriginInfo, Read
from evertalk.replicator.region import Peer, Region
from evertalk.replicator.retry import Retry

CATCHING_UP = "CATCHING_UP"
LIVE = "LIVE"
COUNT = 100  # entries per stream and read
BLOCK_S = 1.0
CATCH_UP_BLOCK_S = 0.01

_log = structlog.get_logger()


class Pull:
    """One peer's reader. Starts, and starts over after every failure, CATCHING_UP."""

    def __init__(self, region: Region, peer: Peer) -> None:
        self._region = region
        self._peer = peer
        self._log = _log.bind(loop="pull", peer=peer.region)
        self._theirs: dict[str, OriginInfo] = {}
        self._compared: tuple[dict[str, OriginInfo], dict[str, OriginInfo]] | None = None
        self._streams: list[Stream] = []
        self._chosen_at = -1
        self.state = CATCHING_UP

    async def attempt(self, retry: Retry) -> None:
        """Pull until something fails.

        Raises:
            LogUnavailable: either side; LogFull: own Redis.
        """
        self._become(CATCHING_UP)
        await self._region.refresh()
        await self.take_origins(await self._peer.board.origins())
        while True:
            await self.round()
            retry.worked()

    async def round(self) -> None:
        """One read, and what follows from it."""
        cursors = {s: self._region.last((s.origin, s.shard)) for s in self._choose()}
        block_s = BLOCK_S if self.state == LIVE else CATCH_UP_BLOCK_S
        read = await self._peer.tail.read(cursors, block_s, COUNT)
        self._region.heard(self._peer.region)
        sizes = await self._act(cursors, read)
        # Behind the entries: whoever sees an origin closed here sees all of it that was read with that.
        await self.take_origins(read.origins)
        self._note_gone(read)
        if max(sizes.values(), default=0) < COUNT:
            self._become(LIVE)

    async def take_origins(self, theirs: dict[str, OriginInfo]) -> None:
        """Carry what the peer knows of origins into the own board, and fold what it has folded (R16)."""
        ours = self._region.view.origins
        if self._compared == (theirs, ours):
            return
        board = self._region.board
        news = [
            OriginInfo(*new)
            for new in replication.news_of_origins(self._region.name, ours, theirs, self._region.clock.wall_ms())
        ]
        for info in news:
            if info.state == "folded" and info.origin in ours:
                await board.fold(info.origin)
        if news:
            await board.carry_origins(news)
            await self._region.refresh()
        self._theirs, self._chosen_at = theirs, -1
        self._compared = (theirs, ours)  # not with what was read since: that may be another Redis's life

    def _choose(self) -> list[Stream]:
        region = self._region
        if self._chosen_at != region.looks:
            wanted = replication.streams_to_pull(
                self._peer.region, region.name, self._theirs, region.view.origins, region.shards,
                region.orphans(self._theirs),
            )  # fmt: skip
            self._streams = [s for s in wanted if region.mirrors_now((s.origin, s.shard))]
            self._chosen_at = region.looks
        return self._streams

    def _note_gone(self, read: Read) -> None:
        lost = {stream.origin for stream in read.missing if not stream.mirror}
        self._region.gone[self._peer.region] = {
            origin for origin in lost if origin in self._theirs and self._theirs[origin].state != "open"
        }

    async def _act(self, cursors: dict[Stream, int], read: Read) -> dict[Stream, int]:
        """Append and jump; returns how many entries each stream gave."""
        entries: dict[Stream, list[tuple[int, bytes]]] = {}
        for entry in read.entries:
            entries.setdefault(entry.stream, []).append((entry.position, entry.payload))
        steps: dict[Stream, Step] = {}
        for stream, cursor in cursors.items():
            key, floor = (stream.origin, stream.shard), read.floors.get(stream, 0)
            if (stream in entries or floor > cursor) and self._region.mirrors_now(key):
                last = self._region.last(key)
                steps[stream] = replication.plan(cursor, last, floor, entries.get(stream, ()))
        await self._append({stream: step for stream, step in steps.items() if step.append})
        await self._jump({stream: step.jump for stream, step in steps.items() if step.jump})
        return {stream: len(some) for stream, some in entries.items()}

    async def _append(self, steps: dict[Stream, Step]) -> None:
        if not steps:
            return
        region = self._region
        batches, marks = [], []
        for stream, step in steps.items():
            key = (stream.origin, stream.shard)
            batches.append(MirrorBatch(stream.origin, stream.shard, region.last(key), step.append))
            marks.append(region.watermark(key, step.append[-1][0]))
        done = await region.board.append_mirror(batches, marks)
        for batch, appended in zip(batches, done, strict=True):
            if appended:
                region.appended((batch.origin, batch.shard), batch.entries[-1][0])
        if not all(done):  # somebody else appended, or the mirror was emptied: see where it stands
            await region.refresh()

    async def _jump(self, jumps: dict[Stream, int]) -> None:
        if not jumps:
            return
        region = self._region
        jumped = False
        for stream, position in jumps.items():
            key = (stream.origin, stream.shard)
            if region.may_jump(key):
                await region.board.jump_mirror(stream.origin, stream.shard, position)
                self._log.info("a mirror jumps", origin=stream.origin, shard=stream.shard, base=position)
                jumped = True
            else:
                self._log.info("a jump waits for own stores", origin=stream.origin, shard=stream.shard)
                region.stalled.add(key)
                self._chosen_at = -1
        if jumped:
            await region.refresh()

    def _become(self, state: str) -> None:
        if state != self.state:
            self._log.info("state", state=state)
            self.state = state
