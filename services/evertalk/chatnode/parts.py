"""The parts of a chat node, put together over whatever adapters it is given, and run until told to stop."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from evertalk.adapters.settings import NodeSettings
from evertalk.adapters.tokens import Keyring
from evertalk.chatnode.accounts import Accounts
from evertalk.chatnode.batcher import Batcher
from evertalk.chatnode.catchup import CatchUp
from evertalk.chatnode.hub import Hub
from evertalk.chatnode.node import Node, State
from evertalk.chatnode.queries import Queries
from evertalk.chatnode.service import Service
from evertalk.chatnode.tail import Tailer
from evertalk.chatnode.upkeep import Upkeep
from evertalk.core.replication import Watermarks
from evertalk.ports import Board, Clock, Ids, Log, Passwords, Store, Tail, Transport

_DRAIN_S = 3.0
_FINISH_S = 1.0


class Health(Protocol):
    """What says to the world whether clients are served."""

    async def health(self, serving: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class World:
    """Everything a node is given. `again` reads ranges that `tail` has passed."""

    clock: Clock
    ids: Ids
    store: Store
    log: Log
    tail: Tail
    again: Tail
    board: Board
    transport: Transport
    keyring: Keyring
    passwords: Passwords


class Parts:
    """A node's loops and its service, wired together. Whoever made the adapters closes them."""

    def __init__(self, settings: NodeSettings, world: World) -> None:
        self.node = node = Node(settings, world.clock, world.ids, world.store, Watermarks(settings.copies))
        node.fanned = world.store.vector.copy()
        self.hub = Hub(node)
        self.batcher = Batcher(node, world.log, self.hub.cut_all)
        self.hub.batcher = self.batcher
        self.tailer = Tailer(node, world.tail, self.hub, self.batcher.suspect)
        self.batcher.read_to = self.tailer.read_to
        self.catch_up = CatchUp(node, self.tailer, world.transport, world.keyring, world.board, world.again)
        self.batcher.catch_up = self.catch_up.start
        accounts = Accounts(node, self.batcher, world.keyring, world.passwords)
        self.upkeep = Upkeep(node, world.board, self.hub, accounts, self.tailer, self.catch_up)
        self.service = Service(node, self.hub, accounts, Queries(node, self.hub, world.board), world.keyring)

    async def run(self, server: Health, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then drain: NOT_SERVING, GOAWAY, finish.

        Raises:
            UnsafeRedis, ShardsMismatch, StoreDamaged: it cannot serve; the sentence says why.
        """
        node, hub, upkeep = self.node, self.hub, self.upkeep
        async with asyncio.TaskGroup() as group:
            work = (
                self.tailer.run(),
                upkeep.publish(),
                upkeep.checkpoint(),
                upkeep.watermarks(),
                hub.beat(),
                self._commit(group),
                self._show_health(server),
            )
            loops = [group.create_task(each) for each in work]
            await stop.wait()
            node.log.info("draining")
            node.draining = True
            await server.health(False)
            await hub.drain(_DRAIN_S)
            try:
                async with asyncio.timeout(_FINISH_S):
                    await self.batcher.finish()
            except TimeoutError:
                node.log.warning("some sends were not written before the end: their clients send them again")
            for loop in loops:
                loop.cancel()

    async def _commit(self, group: asyncio.TaskGroup) -> None:
        await self.batcher.claim()
        await self.catch_up.start()
        self.node.caught_up = True
        rounds = group.create_task(self.upkeep.catch_up())
        try:
            await self.batcher.run()
        finally:
            rounds.cancel()

    async def _show_health(self, server: Health) -> None:
        """Health follows the state; until cancelled."""
        shown: bool | None = None
        while True:
            serving = self.node.state is State.SERVING
            if serving != shown:
                await server.health(serving)
                shown = serving
            await asyncio.sleep(0.1)
