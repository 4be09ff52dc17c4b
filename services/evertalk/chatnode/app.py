"""Composition root of the chat node: the only place that builds its adapters."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import structlog

from evertalk.adapters.clock import SystemClock, SystemIds
from evertalk.adapters.grpc_server import Server
from evertalk.adapters.grpc_transport import GrpcTransport
from evertalk.adapters.redis_board import RedisBoard
from evertalk.adapters.redis_log import RedisLog
from evertalk.adapters.redis_tail import RedisTail
from evertalk.adapters.settings import NodeSettings
from evertalk.adapters.sqlite_store import SqliteStore
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
from evertalk.core.errors import Refused, StoreDamaged
from evertalk.core.replication import Watermarks

_DRAIN_S = 3.0
_FINISH_S = 1.0


async def run(settings: NodeSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then drain: NOT_SERVING, GOAWAY, finish, close.

    Raises:
        UnsafeRedis, ShardsMismatch, StoreError, OSError: it cannot serve; the sentence says why.
    """
    clock, ids = SystemClock(), SystemIds()
    async with AsyncExitStack() as stack:
        keyring = Keyring(settings.keys, settings.region)
        store = await _open_store(settings, ids)
        stack.push_async_callback(store.close)
        node = Node(settings, clock, ids, store, Watermarks(settings.copies))
        node.fanned = store.vector.copy()
        board = RedisBoard(settings.redis, settings.region)
        stack.push_async_callback(board.close)
        tail = RedisTail(settings.redis)
        stack.push_async_callback(tail.close)
        hub = Hub(node)
        batcher = Batcher(node, RedisLog(settings.redis, settings.region, settings.shards, ids), hub.cut_all)
        hub.batcher = batcher
        tailer = Tailer(node, tail, hub, batcher.suspect)
        batcher.unread = tailer.lag
        again = RedisTail(settings.redis)
        stack.push_async_callback(again.close)
        catch_up = CatchUp(node, tailer, GrpcTransport(), keyring, board, again)
        stack.push_async_callback(catch_up.close)
        batcher.catch_up = catch_up.start
        accounts = Accounts(node, batcher, keyring)
        upkeep = Upkeep(node, board, hub, accounts, tailer, catch_up)
        server = Server(settings.listen, Service(node, hub, accounts, Queries(node, hub, board), keyring))
        await server.start()
        stack.push_async_callback(server.stop)
        await _serve(node, batcher, tailer, catch_up, upkeep, hub, server, stop)


async def _open_store(settings: NodeSettings, ids: SystemIds) -> SqliteStore:
    """The store; one that is damaged is built anew (R8). An old one is kept: it may be all there is."""
    log = structlog.get_logger().bind(node=settings.node)
    path = settings.store
    try:
        return await SqliteStore.open(path, ids, settings.shards)
    except StoreDamaged as error:
        log.error("the store is damaged and is built anew", reason=str(error))
        SqliteStore.discard(path)
        return await SqliteStore.open(path, ids, settings.shards)


async def _serve(
    node: Node,
    batcher: Batcher,
    tailer: Tailer,
    catch_up: CatchUp,
    upkeep: Upkeep,
    hub: Hub,
    server: Server,
    stop: asyncio.Event,
) -> None:
    async with asyncio.TaskGroup() as group:
        work = (
            tailer.run(),
            upkeep.publish(),
            upkeep.checkpoint(),
            upkeep.watermarks(),
            hub.beat(),
            _commit(node, batcher, tailer, catch_up, upkeep, group),
            _show_health(node, server),
        )
        loops = [group.create_task(each) for each in work]
        await stop.wait()
        node.log.info("draining")
        node.draining = True
        await server.health(False)
        await hub.drain(_DRAIN_S)
        try:
            async with asyncio.timeout(_FINISH_S):
                await batcher.finish()
        except TimeoutError:
            node.log.warning("some sends were not written before the end: their clients send them again")
        for loop in loops:
            loop.cancel()


async def _commit(
    node: Node, batcher: Batcher, tailer: Tailer, catch_up: CatchUp, upkeep: Upkeep, group: asyncio.TaskGroup
) -> None:
    await batcher.claim()
    await catch_up.start()
    node.caught_up = True
    rounds = group.create_task(upkeep.catch_up())
    try:
        await batcher.run()
    finally:
        rounds.cancel()


async def _show_health(node: Node, server: Server) -> None:
    """Health follows the state; until cancelled."""
    shown: bool | None = None
    while True:
        serving = node.state is State.SERVING
        if serving != shown:
            await server.health(serving)
            shown = serving
        await asyncio.sleep(0.1)


__all__ = ["Refused", "run"]
