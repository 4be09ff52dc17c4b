"""Accounts, conversations and history, put into a region's log as its nodes do it, and not through the front door:
5,000 passwords would take minutes to hash, and a million messages longer. None of it is measured."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from evertalk.adapters.clock import SystemIds
from evertalk.adapters.redis_log import RedisLog
from evertalk.adapters.tokens import USER, Keyring
from evertalk.adapters.wire import decode_vector, encode_batch, encode_event
from evertalk.cluster.processes import ProcessCluster
from evertalk.console.status import Operator
from evertalk.core.clock import pack
from evertalk.core.errors import LogError, PeerUnavailable, Refused
from evertalk.core.ids import account_of, direct_scope, group_scope, shard_of
from evertalk.core.model import Account, Body, Conversation, ConversationKind, Event, Kind, Message, Record
from evertalk.core.vector import Vector
from evertalk.v1 import cluster_pb2

T = TypeVar("T")

_BATCH = 200  # events an entry
_PIPELINE = 16  # entries at once
_POLL_S = 0.1
_PAUSE_EVENTS = 20_000  # then nodes are waited for, or the log's cap would let peers go
_SESSION = bytes(8)
_NO_PASSWORD = "$argon2id$v=19$m=65536,t=3,p=4$bm9ib2R5c2lnbnNpbg$bm9ib2R5c2lnbnNpbg"


class SeedingFailed(RuntimeError):
    """The log took something not, or nodes did not apply it in time."""


@dataclass(frozen=True, slots=True)
class User:
    """An account, and a token for it."""

    account: bytes
    token: str
    region: str


class Seeder:
    """Writes to the logs of a running cluster."""

    def __init__(self, cluster: ProcessCluster, operator: Operator) -> None:
        self._cluster = cluster
        self._operator = operator
        self._ids = SystemIds()
        self._stamp = 0

    async def users(self, regions: Sequence[str]) -> list[User]:
        """An account for each name of a region, that nobody can sign in to, with a minted token."""
        plan = self._cluster.layout
        rings = {name: Keyring(region.keys, name) for name, region in plan.regions.items()}
        found = []
        events = []
        for region in regions:
            account = account_of(secrets.token_bytes(32))
            token, _ = rings[region].mint(account.hex(), USER, time.time_ns() // 1_000_000)
            found.append(User(account, token, region))
            body = Account(f"load-{account.hex()[:12]}", "load", _NO_PASSWORD)
            events.append(self._event(account, account, Kind.ACCOUNT, body))
        await self.write(events)
        return found

    async def pairs(self, pairs: Sequence[tuple[User, User]]) -> list[bytes]:
        """A direct conversation of each pair; their ids."""
        events = []
        for one, other in pairs:
            scope = direct_scope(one.account, other.account)
            members = tuple(sorted((one.account, other.account)))
            body = Conversation(ConversationKind.DIRECT, "", members)
            events.append(self._event(scope, one.account, Kind.CONVERSATION, body))
        await self.write(events)
        return [event.scope for event in events]

    async def groups(self, groups: Sequence[Sequence[User]]) -> list[bytes]:
        """A group of each list of people; their ids."""
        events = []
        for people in groups:
            id_ = self._ids.uuid7()
            scope = group_scope(people[0].account, id_)
            members = tuple(sorted(user.account for user in people))
            body = Conversation(ConversationKind.GROUP, "load", members)
            events.append(self._event(scope, people[0].account, Kind.CONVERSATION, body, id_))
        await self.write(events)
        return [event.scope for event in events]

    async def messages(self, scope: bytes, user: User, count: int, size: int) -> tuple[int, bytes]:
        """So many messages of `size` bytes in a conversation; returns the sort key (hlc, id) of the one amid them."""
        text, middle = "x" * size, (0, b"")

        def made() -> Iterator[Event]:
            nonlocal middle
            for number in range(count):
                event = self._event(scope, user.account, Kind.MESSAGE, Message(text))
                middle = event.key if number == count // 2 else middle
                yield event

        await self.write(made())
        return middle

    def _event(self, scope: bytes, sender: bytes, kind: Kind, body: Body, id_: bytes = b"") -> Event:
        self._stamp = max(pack(time.time_ns() // 1_000_000), self._stamp + 1)
        return encode_event(Event(id_ or self._ids.uuid7(), scope, sender, _SESSION, self._stamp, kind, body))

    async def write(self, events: Iterable[Event]) -> None:
        """Append to the first region's log, and wait until every node has applied it.

        Raises:
            SeedingFailed
        """
        plan = self._cluster.layout
        region = next(iter(plan.regions.values()))
        log = RedisLog(region.redis_url("node"), region.name, plan.shards, self._ids)
        origin = await log.claim()
        try:
            reached = Vector()
            for part in _parts(events, _PAUSE_EVENTS):
                batches: list[tuple[int, bytes]] = []
                by_shard: dict[int, list[Record]] = {}
                for event in part:
                    by_shard.setdefault(shard_of(event.scope, plan.shards), []).append(Record(event, event.hlc))
                for shard, records in by_shard.items():
                    batches += [(shard, encode_batch(some)) for some in _parts(records, _BATCH)]
                for some in _parts(batches, _PIPELINE):
                    for (shard, _), position in zip(some, await log.append(some), strict=True):
                        if isinstance(position, LogError):
                            raise SeedingFailed(f"the log refused an entry: {position}")
                        reached.advance(origin, shard, position)
                await self._applied(reached)
        finally:
            await log.close()

    async def _applied(self, reached: Vector, timeout_s: float = 60.0) -> None:
        nodes = [node.name for node in self._cluster.layout.nodes()]
        try:
            async with asyncio.timeout(timeout_s):
                for node in nodes:
                    while not await self._has(node, reached):  # noqa: ASYNC110  it says so when asked only
                        await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise SeedingFailed(f"the nodes did not apply what was seeded within {timeout_s:g} s") from error

    async def _has(self, node: str, reached: Vector) -> bool:
        try:
            status = await self._operator.call(node, "Status", cluster_pb2.StatusRequest())
        except (PeerUnavailable, Refused):
            return False
        return decode_vector(status.vector).reaches(reached)


def _parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    part: list[T] = []
    for item in items:
        part.append(item)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
