"""`evertalk status`: regions, nodes, lag, positions, and whether redundancy is whole, from any live node."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from evertalk.adapters.clock import SystemClock
from evertalk.adapters.grpc_transport import GrpcTransport
from evertalk.adapters.tokens import CLUSTER, Keyring
from evertalk.adapters.wire import decode_vector
from evertalk.core.errors import PeerUnavailable, Refused
from evertalk.core.model import Stream
from evertalk.core.replication import Redundancy, redundancy
from evertalk.core.vector import Vector
from evertalk.ports import OriginInfo, StoreEntry, StreamState
from evertalk.v1 import cluster_pb2

_STATUS = "evertalk.v1.ClusterService/Status"
_CALL_S = 2.0
#: A node that says nothing for so long is silent: `status` answers within 3 s even when a whole region hangs.
_SILENT_S = 1.25
#: Between two looks: what was known at the first must be durable at the second.
_LOOK_AGAIN_S = 0.5


@dataclass(frozen=True, slots=True)
class Place:
    """A node as the operator reaches it."""

    region: str
    node: str
    address: str


@dataclass(frozen=True, slots=True)
class RegionLook:
    """A region as its nodes show it."""

    region: str
    origins: Mapping[str, OriginInfo]
    stores: Sequence[StoreEntry]
    streams: Mapping[Stream, StreamState]


@dataclass(slots=True)
class ClusterLook:
    """Everything `status` shows."""

    regions: Sequence[str]
    shards: int
    answers: dict[str, cluster_pb2.StatusResponse] = field(default_factory=dict)  # by node
    silent: dict[str, str] = field(default_factory=dict)  # node -> why
    region_of: dict[str, str] = field(default_factory=dict)  # of every node
    redundancy: Redundancy = field(default_factory=lambda: Redundancy(False, ["nothing was heard"]))


class Operator:
    """Asks nodes, with a token of the cluster's own.

    Args:
        keys: region -> directory with its signing key; the first is signed with.
        copies: regions that must hold an event.
        regions: configured ones, also those of which no node is known.
    """

    def __init__(
        self, places: Sequence[Place], keys: Mapping[str, str], copies: int = 2, regions: Iterable[str] = ()
    ) -> None:
        self._places = places
        self._regions = sorted({p.region for p in places} | set(regions))
        self._copies = copies
        region = next(iter(keys))
        self._keyring = Keyring(Path(keys[region]), region)
        # Connecting may take as long as a call, or a far region would look silent; clients rather try another node.
        self._transport = GrpcTransport([("grpc.min_reconnect_backoff_ms", int(_CALL_S * 1000))])
        self._peers = {p.node: self._transport.peer(p.address) for p in places}

    async def close(self) -> None:
        """Close all connections."""
        for peer in self._peers.values():
            await peer.close()

    async def call(self, node: str, method: str, request: Any, timeout_s: float = _CALL_S) -> Any:
        """A call of ClusterService on one node."""
        token, _ = self._keyring.mint("operator", CLUSTER, SystemClock().wall_ms(), 60)
        return await self._peers[node].call(f"evertalk.v1.ClusterService/{method}", request, timeout_s, token)

    async def _ask(self, look: ClusterLook, node: str) -> None:
        try:
            look.answers[node] = await self.call(node, "Status", cluster_pb2.StatusRequest(), _SILENT_S)
        except (PeerUnavailable, Refused) as error:
            look.silent[node] = str(error)

    async def ask_all(self, silent: Mapping[str, str] | None = None) -> ClusterLook:
        """One look at every node, at once.

        Args:
            silent: nodes that are not asked again, and why.
        """
        look = ClusterLook(self._regions, 0, silent=dict(silent or {}))
        look.region_of = {p.node: p.region for p in self._places}
        async with asyncio.TaskGroup() as group:
            for place in self._places:
                if place.node not in look.silent:
                    group.create_task(self._ask(look, place.node))
        look.shards = max((a.shards for a in look.answers.values()), default=0)
        return look

    async def look(self, without: Collection[str] = ()) -> ClusterLook:
        """Two looks, half a second apart, so that traffic in flight does not count against redundancy.

        Args:
            without: regions known to be away: whether those left are redundant among themselves.
        """
        before = await self.ask_all()
        await asyncio.sleep(_LOOK_AGAIN_S)
        now = await self.ask_all(before.silent)
        regions = [region for region in now.regions if region not in without]
        now.redundancy = redundancy(_views(now), regions, now.shards, self._copies, list(_views(before).values()))
        return now


def _views(look: ClusterLook) -> dict[str, RegionLook]:
    views: dict[str, RegionLook] = {}
    for region in look.regions:
        answers = [a for a in look.answers.values() if a.region == region]
        if not answers:
            continue
        seen = next((a for a in answers if a.log_reachable), answers[0])
        views[region] = RegionLook(
            region,
            {o.origin: OriginInfo(o.origin, o.region, o.state, tuple(o.last)) for o in seen.origins},
            [
                StoreEntry(a.node, a.region, a.life, a.state, decode_vector(a.vector), decode_vector(a.checkpointed))
                for a in answers
            ],
            {
                Stream(s.origin, s.shard, s.mirror): StreamState(s.last, s.length, s.bytes, s.floor, s.base)
                for s in seen.streams
            },
        )
    return views


def lag_of(look: ClusterLook) -> dict[str, int]:
    """Per node: how many entries, over all shards, it has not applied that some node has."""
    most = Vector()
    vectors = {n: decode_vector(a.vector) for n, a in look.answers.items()}
    for vector in vectors.values():
        most.merge(vector)
    return {n: sum(max(0, p - v[k]) for k, p in most) for n, v in vectors.items()}


def to_json(look: ClusterLook) -> dict[str, Any]:
    """The whole look, for programs."""
    lag = lag_of(look)
    return {
        "redundancy_whole": look.redundancy.whole,
        "reasons": look.redundancy.reasons,
        "regions": list(look.regions),
        "shards": look.shards,
        "nodes": {
            name: {
                "region": a.region,
                "state": a.state,
                "origin": a.origin,
                "sessions": a.sessions,
                "tasks": a.tasks,
                "lag_entries": lag[name],
                "live_peers": list(a.live_peers),
                "accepted": a.accepted,
                "applied": a.applied,
                "delivered": a.delivered,
                "log_reachable": a.log_reachable,
                "vector": {f"{o}/{s}": p for (o, s), p in decode_vector(a.vector)},
                "checkpointed": {f"{o}/{s}": p for (o, s), p in decode_vector(a.checkpointed)},
                "replicated": {f"{o}/{s}": p for (o, s), p in decode_vector(a.replicated)},
                "holes": [[h.origin, h.shard, h.first, h.last] for h in sorted(decode_vector(a.vector).holes)],
                "origins": {o.origin: o.state for o in a.origins},
                "streams": {
                    f"{'mirror' if s.mirror else 'log'}:{s.origin}:{s.shard}": {
                        "last": s.last, "length": s.length, "bytes": s.bytes, "floor": s.floor
                    }
                    for s in a.streams
                },
            }
            for name, a in sorted(look.answers.items())
        },
        "silent": dict(sorted(look.silent.items())),
    }  # fmt: skip


def _positions(look: ClusterLook) -> Table:
    """Per origin: the last position of each shard in every region's log or mirror, and what stores have applied."""
    table = Table("origin", "state", "region", "log or mirror, by shard", "applied, by shard")
    views = _views(look)
    for origin in sorted({o for view in views.values() for o in view.origins}):
        for region, view in views.items():
            if origin not in view.origins:
                continue
            mirror = view.origins[origin].region != region
            levels = [view.streams.get(Stream(origin, shard, mirror)) for shard in range(look.shards)]
            applied = [max((s.vector[(origin, shard)] for s in view.stores), default=0) for shard in range(look.shards)]
            table.add_row(
                origin,
                view.origins[origin].state,
                region,
                " ".join(str(level.last) if level else "–" for level in levels),
                " ".join(map(str, applied)),
            )
    return table


def show(look: ClusterLook) -> None:
    """A table for people."""
    from rich.console import Console

    console = Console()
    lag = lag_of(look)
    table = Table(title="Evertalk")
    for column in ("region", "node", "state", "sessions", "lag (entries)", "hears", "origin"):
        table.add_column(column)
    for name, a in sorted(look.answers.items()):
        state = a.state if a.log_reachable else f"{a.state}, no Redis"
        table.add_row(a.region, name, state, str(a.sessions), str(lag[name]), ", ".join(a.live_peers), a.origin)
    silent: list[str] = []
    for name, why in sorted(look.silent.items()):
        table.add_row(look.region_of[name], name, "[red]silent[/red]", "", "", "", "")
        silent.append(f"  {name}: {why}")
    console.print(table)
    for line in silent:
        console.print(line, markup=False, overflow="ellipsis", no_wrap=True)
    console.print(_positions(look))
    if look.redundancy.whole:
        console.print("[green]redundancy is whole:[/green] any one region may fall")
    else:
        console.print("[red]redundancy is not whole:[/red]")
        for reason in look.redundancy.reasons[:8]:
            console.print(f"  {reason}")
