"""What a fixed small workload asks of Redis, gRPC and SQLite, counted: the guard against costs that creep in.

There is no time in it. Two phases, two readers, one in each region: messages one by one, each sent when the one before
was heard by both; and bursts, each in one frame. Bytes between regions and in Redis are only budgeted for bursts: what
stores tell each other every second drowns them else.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from evertalk.cluster.processes import ProcessCluster, service_command
from evertalk.console.status import Operator, Place
from evertalk.core.ids import direct_scope, shard_of
from loadtest import counted, measure
from loadtest.bare import BareClient
from loadtest.bench import REGIONS
from loadtest.client import Shared, now_us
from loadtest.command import run
from loadtest.plan import ClientPlan, WorkerPlan
from loadtest.seeding import Seeder, User

SINGLES, BURSTS, BURST = 60, 15, 200
_SIZE = 100
_PATIENCE_S = 60.0
_EVER = 1 << 62
_CANDIDATES = 64
#: What a message causes. Stores that publish themselves and origins that are looked after are not of it.
_COMMANDS = ("xadd", "xread", "evalsha", "publish")

Counts = dict[str, float]


def command(kind: str, name: str) -> Sequence[str]:
    """As `service_command`, with a node that counts."""
    return [sys.executable, "-P", counted.__file__] if kind == "node" else service_command(kind, name)


class _Listener(BareClient):
    """Says when it has heard enough."""

    def __init__(self, plan: ClientPlan, shared: Shared) -> None:
        super().__init__(plan, shared)
        self.number = 0
        self.more = asyncio.Event()

    def heard(self, raw: bytes) -> None:
        super().heard(raw)
        self.number += 1
        self.more.set()

    async def until(self, number: int) -> None:
        """Until it has heard so many in all."""
        while self.number < number:
            self.more.clear()
            await self.more.wait()


async def count() -> dict[str, Counts]:
    """Counts per message of {"single", "burst"}, on a new cluster of two regions with one node each."""
    with tempfile.TemporaryDirectory(prefix="evertalk-count-") as place:
        async with await ProcessCluster.create(Path(place), REGIONS[:2], 1, commands=command) as cluster:
            file = cluster.file
            operator = Operator([Place(e.region, e.node, e.address) for e in file.endpoints], dict(file.keys))
            try:
                return await _phases(cluster, Seeder(cluster, operator))
            finally:
                await operator.close()


async def _phases(cluster: ProcessCluster, seeder: Seeder) -> dict[str, Counts]:
    teller, near, far = await _people(cluster, seeder)
    scopes = await seeder.pairs([(teller, near), (teller, far)])
    shared = Shared(WorkerPlan("bare", [], "coalesced", BURST, _SIZE, 0, []))
    shared.span.last_us = _EVER

    def plan(number: int, user: User, talks: list[tuple[int, str]]) -> ClientPlan:
        address = next(e.address for e in cluster.file.endpoints if e.region == user.region)
        return ClientPlan(number, user.account.hex(), user.token, REGIONS.index(user.region), address, talks)

    talks = [(n, scope.hex()) for n, scope in enumerate(scopes)]
    one = BareClient(plan(0, teller, talks), shared)
    listeners = [_Listener(plan(1, near, []), shared), _Listener(plan(2, far, []), shared)]
    for client in (one, *listeners):
        await client.connect()
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await _say(one, listeners, 1, 2)  # both conversations are known everywhere from here
            single = await _counted(cluster, shared, one, listeners, SINGLES, 2)
            burst = await _counted(cluster, shared, one, listeners, BURSTS, BURST)
            return {"single": single, "burst": burst}
    finally:
        for client in (one, *listeners):
            await client.close()


async def _people(cluster: ProcessCluster, seeder: Seeder) -> tuple[User, User, User]:
    """Who talks, a reader in the same region, and one in the other; each conversation in a shard of its own.

    Where both fall into one shard, half as many entries do.
    """
    teller, *others = await seeder.users([REGIONS[0]] + [REGIONS[n % 2] for n in range(_CANDIDATES)])
    near = others[0]
    shards = cluster.layout.shards

    def shard(user: User) -> int:
        return shard_of(direct_scope(teller.account, user.account), shards)

    far = next(user for user in others if user.region == REGIONS[1] and shard(user) != shard(near))
    return teller, near, far


async def _say(one: BareClient, listeners: Sequence[_Listener], times: int, number: int) -> None:
    """So often: so many messages at once, to both conversations in turn; the next when both have heard theirs."""
    for _ in range(times):
        wanted = [each.number + number // 2 for each in listeners]
        for _ in range(number):
            one.offer(now_us())
        for each, heard in zip(listeners, wanted, strict=True):
            await each.until(heard)


async def _counted(
    cluster: ProcessCluster, shared: Shared, one: BareClient, listeners: Sequence[_Listener], times: int, number: int
) -> Counts:
    before, shared.tally.counts = await measure.look(cluster), Counter()
    rows = _statements(cluster)
    await _say(one, listeners, times, number)
    statements, transactions = (now - then for now, then in zip(_statements(cluster), rows, strict=True))
    used = measure.used(cluster, before, await measure.look(cluster, end=True))
    tally, messages = shared.tally.counts, times * number
    found = {f"redis_{name}": float(used.calls[name]) for name in _COMMANDS}
    found |= {
        "sqlite_statements": statements,
        "sqlite_transactions": transactions,
        "grpc_messages": tally["frames_in"] + tally["frames_out"],
        "client_bytes": tally["bytes_in"] + tally["bytes_out"],
        "redis_bytes": used.redis_in + used.redis_out,
        "wan_bytes": used.wan,
    }
    return {name: round(value / messages, 3) for name, value in found.items()}


def _statements(cluster: ProcessCluster) -> tuple[int, int]:
    found = [counted.read(node.directory) for node in cluster.layout.nodes()]
    return sum(each[0] for each in found), sum(each[1] for each in found)


def over(found: dict[str, Counts], budget: dict[str, Counts]) -> list[str]:
    """A sentence for each count above its budget."""
    return [
        f"{phase}: {name} is {found[phase][name]:g} a message, its budget {most:g}"
        for phase, counts in budget.items()
        for name, most in counts.items()
        if found[phase][name] > most
    ]


if __name__ == "__main__":
    print(json.dumps(run(count()), indent=1))
