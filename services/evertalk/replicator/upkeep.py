"""Once a second: carry peers' stores here, trim, fold, tell all watermarks again; now and then rewrite the AOF."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import structlog

from evertalk.core import limits, replication
from evertalk.core.model import Stream
from evertalk.core.vector import Key
from evertalk.ports import StreamState
from evertalk.replicator.region import Peer, Region
from evertalk.replicator.retry import Retry

_log = structlog.get_logger(loop="upkeep")  # bound only when first used, after it is configured


class Carry:
    """Carries one peer's store entries into the own board (R8), and keeps its board in view."""

    def __init__(self, region: Region, peer: Peer) -> None:
        self._region = region
        self._peer = peer

    async def attempt(self, retry: Retry) -> None:
        """Carry once, then wait a second.

        Raises:
            LogUnavailable, LogFull.
        """
        view = await self._region.watch(self._peer)
        for store in replication.counted(view.stores, self._peer.region):
            await self._region.board.publish_store(store)
        retry.worked()
        await asyncio.sleep(limits.PUBLISH_S)


class Upkeep:
    """Keeps the own Redis in bounds.

    Args:
        peers: names of the configured peers.
        cap_bytes, keep: of each stream, as in the settings.
        rewrite_s: seconds between rewrites of the append-only file.
        keep_s: retention; what is older goes, whoever is behind (P9).
    """

    def __init__(
        self, region: Region, peers: Iterable[str], cap_bytes: int, keep: int, rewrite_s: float, keep_s: float
    ) -> None:
        self._region = region
        self._peers = list(peers)
        self._cap = cap_bytes
        self._keep = keep
        self._rewrite_s = rewrite_s
        self._ages = replication.Ages(keep_s)
        self._rewritten_at = region.clock.monotonic()

    async def attempt(self, retry: Retry) -> None:
        """One round, then wait a second.

        Raises:
            LogUnavailable, LogFull.
        """
        await self.round()
        retry.worked()
        await asyncio.sleep(limits.PUBLISH_S)

    async def round(self) -> None:
        """Everything there is to do each second; trimming first, for it makes room for the rest."""
        region = self._region
        await region.refresh()
        await self._trim()
        await self._record()
        await self._fold()
        own = region.own_marks()
        await region.board.announce(own, relayed=False)
        # Own mirrors' too: who came from a region that died waits for those. Between, nodes are not woken for them.
        await region.board.announce([*own, *region.peers_marks()], relayed=True)
        if region.clock.monotonic() - self._rewritten_at >= self._rewrite_s:
            await region.board.rewrite_aof()
            self._rewritten_at = region.clock.monotonic()

    async def _trim(self) -> None:
        region = self._region
        pressed = replication.under_pressure(*await region.board.memory())
        stopped = set()
        for stream, level in region.view.streams.items():
            key = (stream.origin, stream.shard)
            held = replication.held(region.view.stores, region.name, key, level.floor)
            peers = None if stream.mirror else self._peers_hold(stream)
            old = self._ages.old(stream, level.last, region.clock.monotonic())
            target = replication.trim_to(level, held, self._keep, self._cap, peers, pressed, old)
            if target > level.floor:
                await region.board.trim(stream, target)
            if stream.mirror and replication.held_back(level, held, self._cap):
                stopped.add(key)
        self._ages.only(region.view.streams)
        self._stop(stopped, pressed)

    def _peers_hold(self, log: Stream) -> int:
        """The lowest position among the configured peers' mirrors of an own log; 0 for one never heard from."""
        mirror = Stream(log.origin, log.shard, True)
        nothing = StreamState(0, 0, 0, 0)
        views = [self._region.views.get(peer) for peer in self._peers]
        return min((v.streams.get(mirror, nothing).last if v else 0 for v in views), default=10**18)

    def _stop(self, stopped: set[Key], pressed: bool) -> None:
        region = self._region
        for origin, shard in stopped - region.stopped:
            _log.warning("mirroring stops: own stores hold a full mirror back", origin=origin, shard=shard)
        for origin, shard in region.stopped - stopped:
            _log.info("mirroring goes on", origin=origin, shard=shard)
        if pressed != region.pressed:
            _log.warning("mirroring stops: Redis is short of memory" if pressed else "memory suffices again")
        region.stop(stopped, pressed)

    async def _record(self) -> None:
        region = self._region
        if found := replication.unrecorded(region.name, region.view, region.shards, region.clock.wall_ms()):
            await region.board.carry_origins(found)
            _log.warning("origins that only stores name are recorded", origins=[o.origin for o in found])

    async def _fold(self) -> None:
        region = self._region
        views = region.fresh_views()
        configured = [region.name, *self._peers]
        for info in region.view.origins.values():
            if replication.may_fold(info, region.shards, configured, views):
                await region.board.fold(info.origin)
                _log.info("an origin folds", origin=info.origin)
            elif replication.outlived(info, region.view.origins, region.clock.wall_ms()):
                await region.board.forget_folded(info.origin)
