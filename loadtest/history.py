"""W7: how long a page of history takes, by the length of the conversation."""

from __future__ import annotations

import time
from collections.abc import Mapping

from evertalk.adapters.grpc_transport import GrpcTransport
from evertalk.ports import Peer
from evertalk.v1 import chat_pb2
from loadtest.bench import REGIONS, Bench, Say, Setup
from loadtest.histogram import Histogram
from loadtest.measure import look, used
from loadtest.result import Figures, machine
from loadtest.seeding import User

#: One region with one node: a page is read from one store, and a million messages are soon there.
W7 = Setup(users=2, regions=1, env={"EVERTALK_COPIES": "1"})
_SIZES = (1_000, 10_000, 100_000, 1_000_000)
_PAGES = 200
_LIMIT = 50
_CALL_S = 10.0
_METHOD = "evertalk.v1.ChatService/History"


async def run(setup: Setup, floors: Mapping[str, float], say: Say) -> Figures:
    """Conversations of each size in one store, then pages of each: the newest one, and back from the middle."""
    sizes = [size for size in _SIZES if size < setup.history] + [setup.history]
    async with Bench(setup, say) as bench:
        talks: dict[int, tuple[User, bytes, tuple[int, bytes]]] = {}
        for size in sizes:
            one, other = await bench.seeder.users([REGIONS[0], REGIONS[0]])
            [scope] = await bench.seeder.pairs([(one, other)])
            middle = await bench.seeder.messages(scope, one, size, setup.size)
            talks[size] = (one, scope, middle)
            say(f"{size:,} messages are there")
        peer = GrpcTransport().peer(bench.cluster.file.endpoints[0].address)
        before = await look(bench.cluster)
        try:
            found = {size: await _pages(peer, *talks[size]) for size in sizes}
        finally:
            await peer.close()
        spent = used(bench.cluster, before, await look(bench.cluster, end=True))
    newest = [each["newest"]["p50"] for each in found.values()]
    older = [each["older"]["p50"] for each in found.values()]
    return {
        "deliveries_per_s": 0.0,
        "server_cpu_us_per_delivery": round(spent.server_cpu_s / (len(sizes) * 2 * _PAGES * _LIMIT) * 1e6, 1),
        "latency_ms": found[sizes[-1]]["newest"],
        "rss_kb_per_client": None,
        "floors": dict(floors),
        "nodes_per_region": setup.nodes,
        "page_ms": {str(size): each for size, each in found.items()},
        "page_growth": round(max(max(newest) / newest[0], max(older) / older[0]), 2),
        "page_messages": _LIMIT,
        "machine": machine(spent),
    }


async def _pages(peer: Peer, user: User, scope: bytes, middle: tuple[int, bytes]) -> dict[str, dict[str, float]]:
    newest, older = Histogram(), Histogram()
    before = chat_pb2.Cursor(hlc=middle[0], id=middle[1])
    for _ in range(_PAGES):
        await _page(peer, user, scope, None, newest)
        page = await _page(peer, user, scope, before, older)
        before = page.next if page.next.id else chat_pb2.Cursor(hlc=middle[0], id=middle[1])  # the short ones again
    return {"newest": newest.in_ms(), "older": older.in_ms()}


async def _page(
    peer: Peer, user: User, scope: bytes, before: chat_pb2.Cursor | None, into: Histogram
) -> chat_pb2.HistoryResponse:
    request = chat_pb2.HistoryRequest(conversation=scope, before=before, limit=_LIMIT)
    since = time.monotonic_ns()
    page: chat_pb2.HistoryResponse = await peer.call(_METHOD, request, _CALL_S, user.token)
    into.record((time.monotonic_ns() - since) // 1000)
    return page
