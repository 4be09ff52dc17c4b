"""Each second: publish the store, read the others', catch up; now and then: checkpoint. And listen to watermarks."""

from __future__ import annotations

import asyncio

from evertalk.chatnode.accounts import Accounts
from evertalk.chatnode.catchup import CatchUp
from evertalk.chatnode.hub import Hub
from evertalk.chatnode.node import Node
from evertalk.chatnode.tail import Tailer
from evertalk.core import limits
from evertalk.core.clock import ms_of
from evertalk.core.errors import LogError, Refused, StoreDamaged, StoreError
from evertalk.ports import Board, StoreEntry

_RETRY_S = 0.2
_SKEW_S = 5.0


class Upkeep:
    """The slow loops of a node."""

    def __init__(
        self, node: Node, board: Board, hub: Hub, accounts: Accounts, tailer: Tailer, catch_up: CatchUp
    ) -> None:
        self._node = node
        self._board = board
        self._hub = hub
        self._accounts = accounts
        self._tailer = tailer
        self._catch_up = catch_up
        self._skewed = False

    async def publish(self) -> None:
        """Publish this store and read all others, once a second (R8), until cancelled."""
        while True:
            try:
                await self.publish_once()
            except LogError as error:
                if self._node.stores:
                    self._node.log.warning("board unavailable", reason=str(error))
                self._node.stores = []
                self._hub.beat_all()
            await asyncio.sleep(limits.PUBLISH_S)

    async def publish_once(self) -> None:
        """Hear where the other stores are, say where this one is."""
        node = self._node
        before = node.live_peers()
        node.stores, node.stores_read_ms = await self._board.stores(), node.region_time_ms()
        node.published.moved()
        self._mind_skew()
        if node.live_peers() != before:
            self._hub.beat_all()  # creations wait for a peer only while one is live (R14)
        await self._board.publish_store(
            StoreEntry(
                node.settings.node,
                node.settings.region,
                node.store.life,
                node.state.value,
                node.store.vector.copy(),
                node.checkpointed,
            )
        )

    def _mind_skew(self) -> None:
        """No node stops for a region whose clock is fast, but somebody should hear of it (R2)."""
        node = self._node
        ahead_s = (ms_of(node.highest_accepted) - node.clock.wall_ms()) / 1000
        if (ahead_s > _SKEW_S) != self._skewed:
            self._skewed = ahead_s > _SKEW_S
            node.log.warning("another region's clock is ahead" if self._skewed else "clocks agree", seconds=ahead_s)

    async def catch_up(self) -> None:
        """A catch-up round each second, or at once over a gap; until cancelled."""
        while True:
            try:
                async with asyncio.timeout(limits.PUBLISH_S):
                    await self._tailer.wait_for_gap()
            except TimeoutError:
                pass
            try:
                await self._catch_up.round(self._node.stores)
            except StoreDamaged:
                raise
            except (StoreError, LogError, Refused) as error:  # Refused: an entry that does not parse
                self._node.log.error("catching up failed", reason=str(error))
                await asyncio.sleep(limits.PUBLISH_S)

    async def checkpoint(self) -> None:
        """Truncating checkpoints, so that what was deleted leaves the disk (P9); until cancelled."""
        while True:
            await asyncio.sleep(self._node.settings.checkpoint_s)
            try:
                await self._node.store.expire(self._node.region_time_ms())
                self._node.checkpointed = await self._node.store.checkpoint()
            except StoreDamaged:
                raise
            except StoreError as error:
                self._node.log.error("checkpoint failed", reason=str(error))

    async def watermarks(self) -> None:
        """Listen to what the replicator announces; until cancelled."""
        told = False  # once for each time that it goes silent
        while True:
            try:
                async for watermarks in self._board.watermarks(relayed=True):
                    told = False
                    moved = {(w.origin, w.shard) for w in watermarks if self._node.marks.note(w)}
                    if moved:
                        self._hub.watermarks_moved(moved)
                        async with self._accounts.replicated:
                            self._accounts.replicated.notify_all()
            except LogError as error:
                if not told:
                    self._node.log.warning("watermarks unavailable", reason=str(error))
                told = True
            await asyncio.sleep(_RETRY_S)
