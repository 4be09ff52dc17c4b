"""Composition root of the chat node: the only place that builds its adapters."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import structlog

from evertalk.adapters import launch
from evertalk.adapters.clock import SystemIds, clock_of
from evertalk.adapters.grpc_server import Server
from evertalk.adapters.grpc_transport import GrpcTransport
from evertalk.adapters.passwords import Argon2
from evertalk.adapters.redis_board import RedisBoard
from evertalk.adapters.redis_log import RedisLog
from evertalk.adapters.redis_pushed import PushedTail
from evertalk.adapters.redis_tail import RedisTail
from evertalk.adapters.settings import NodeSettings
from evertalk.adapters.sqlite_store import SqliteStore
from evertalk.adapters.tokens import Keyring
from evertalk.chatnode.node import Node
from evertalk.chatnode.parts import Parts, World
from evertalk.core.errors import Refused, StoreDamaged


async def run(settings: NodeSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set, then drain: NOT_SERVING, GOAWAY, finish, close.

    Raises:
        UnsafeRedis, ShardsMismatch, StoreError, OSError: it cannot serve; the sentence says why.
    """
    try:
        await _run(settings, stop)
    except* StoreDamaged as damaged:
        SqliteStore.discard(settings.store)  # closed by now; the next start builds it anew
        structlog.get_logger().error("the damaged store was thrown away", node=settings.node)
        raise damaged from None


async def _run(settings: NodeSettings, stop: asyncio.Event) -> None:
    clock, ids = clock_of(settings.clock_file), SystemIds()
    async with AsyncExitStack() as stack:
        keyring = Keyring(settings.keys, settings.region)
        store = await _open_store(settings, ids)
        stack.push_async_callback(store.close)
        board = RedisBoard(settings.redis, settings.region)
        stack.push_async_callback(board.close)
        tail, again = PushedTail(settings.redis, mirrors=True), RedisTail(settings.redis)
        stack.push_async_callback(tail.close)
        stack.push_async_callback(again.close)
        log = RedisLog(settings.redis, settings.region, settings.shards, ids)
        world = World(clock, ids, store, log, tail, again, board, GrpcTransport(), keyring, Argon2())
        parts = Parts(settings, world)
        stack.push_async_callback(parts.catch_up.close)
        server = Server(settings.listen, parts.service)
        await server.start()
        stack.push_async_callback(server.stop)
        async with asyncio.TaskGroup() as group:
            watching = [group.create_task(_follow(parts.node, keyring)), group.create_task(_mind(store, settings))]
            try:
                await parts.run(server, stop)
            finally:
                for task in watching:
                    task.cancel()


async def _mind(store: SqliteStore, settings: NodeSettings) -> None:
    """Until a call, of whomever, finds the store damaged: then this node serves nobody any more.

    Raises:
        StoreDamaged
    """
    await store.damaged.wait()
    raise StoreDamaged(f"the store {settings.store} is damaged")


async def _follow(node: Node, keyring: Keyring) -> None:
    """Regions that join while this node runs are known without a restart; until cancelled."""

    def take() -> None:
        fresh = launch.load(NodeSettings)
        keyring.read()
        node.settings = node.settings.model_copy(update={"peers": fresh.peers, "endpoints": fresh.endpoints})
        node.log.info("the configuration has changed", peers=sorted(fresh.peers))

    await launch.follow(take)


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


__all__ = ["Refused", "run"]
