"""The replicator put together: one pull, one listener and one carrier for each peer, and the upkeep."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

import structlog

from evertalk.adapters.clock import SystemIds, clock_of
from evertalk.adapters.grpc_server import HealthServer
from evertalk.adapters.redis_board import RedisBoard, RedisBoardReader
from evertalk.adapters.redis_pushed import PushedTail
from evertalk.adapters.settings import ReplicatorSettings
from evertalk.ports import Board, Clock, Ids
from evertalk.replicator.pull import Pull
from evertalk.replicator.region import Peer, Region
from evertalk.replicator.retry import Retry, keep_on
from evertalk.replicator.upkeep import Carry, Upkeep
from evertalk.replicator.watermarks import Listener

_log = structlog.get_logger()


class Replicator:
    """Every loop of one region's replicator. Any number of them may run in a region (R4)."""

    def __init__(
        self, settings: ReplicatorSettings, board: Board, peers: Sequence[Peer], clock: Clock, ids: Ids
    ) -> None:
        names = [peer.region for peer in peers]
        self.region = Region(settings.region, settings.shards, settings.copies, names, board, clock)
        self.upkeep = Upkeep(
            self.region, names, settings.log_cap_bytes, settings.log_keep, settings.rewrite_s, settings.log_keep_s
        )
        self.pulls = {peer.region: Pull(self.region, peer) for peer in peers}
        self._peers = peers
        self._ids = ids

    async def run(self) -> None:
        """Replicate until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            own = self.region.name
            tasks.create_task(keep_on(self.upkeep.attempt, Retry("upkeep", own, self._ids)))
            for peer in self._peers:
                for name, attempt in (
                    ("pull", self.pulls[peer.region].attempt),
                    ("listen", Listener(self.region, peer).attempt),
                    ("carry", Carry(self.region, peer).attempt),
                ):
                    tasks.create_task(keep_on(attempt, Retry(name, peer.region, self._ids)))


async def serve(settings: ReplicatorSettings) -> None:
    """Build the adapters and replicate until cancelled."""
    async with AsyncExitStack() as stack:
        board = RedisBoard(settings.redis, settings.region)
        stack.push_async_callback(board.close)
        peers = []
        for name, where in settings.peers.items():
            reader, tail = RedisBoardReader(where.redis), PushedTail(where.redis)
            stack.push_async_callback(reader.close)
            stack.push_async_callback(tail.close)
            peers.append(Peer(name, reader, tail))
        if settings.listen:
            server = HealthServer(settings.listen)
            await server.start()
            stack.push_async_callback(server.stop)
            await server.health(True)
        _log.info("replicating", region=settings.region, peers=sorted(settings.peers))
        await Replicator(settings, board, peers, clock_of(settings.clock_file), SystemIds()).run()
