"""Equal digests, and the final reads of every replica."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from evertalk.adapters.wire import decode_delivery, decode_vector
from evertalk.cluster.verbs import Endpoint
from evertalk.console.status import Operator
from evertalk.core.errors import PeerUnavailable, Refused
from evertalk.core.model import Event
from evertalk.drill.recorder import Recorder
from evertalk.ports import Transport
from evertalk.v1 import chat_pb2, cluster_pb2

_POLL_S = 0.25
_PAGE = 500
_CALL_S = 20.0
_SERVING = "SERVING"
_HISTORY = "evertalk.v1.ChatService/History"


async def _digests(operator: Operator, node: str) -> dict[bytes, bytes] | None:
    """What a node that serves has; None from one that does not."""
    try:
        status = await operator.call(node, "Status", cluster_pb2.StatusRequest(), _CALL_S)
        if status.state != _SERVING:
            return None
        answer = await operator.call(node, "Digests", cluster_pb2.DigestsRequest(), _CALL_S)
    except (PeerUnavailable, Refused):
        return None
    return {d.conversation: d.sha256 for d in answer.digests}


async def wait_until_equal(operator: Operator, nodes: Sequence[str], timeout_s: float) -> bool:
    """Until every node serves and all have equal digests of the same conversations; False if that takes too long."""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                found = await asyncio.gather(*(_digests(operator, node) for node in nodes))
                if found[0] is not None and all(one == found[0] for one in found):
                    return True
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        return False


async def record_finals(
    recorder: Recorder,
    operator: Operator,
    transport: Transport,
    endpoints: Sequence[Endpoint],
    readers: Mapping[bytes, str],
    shards: int,
) -> None:
    """Read every conversation from every node, as one of its members would, and record it.

    Args:
        readers: conversation -> access token of a member.
    """
    for endpoint in endpoints:
        answer = await operator.call(endpoint.node, "Digests", cluster_pb2.DigestsRequest(), _CALL_S)
        digests = {d.conversation: d.sha256.hex() for d in answer.digests}
        peer = transport.peer(endpoint.address)
        try:
            for scope, token in readers.items():
                messages: list[Event] = []
                before: chat_pb2.Cursor | None = None
                while True:
                    request = chat_pb2.HistoryRequest(conversation=scope, limit=_PAGE, before=before)
                    page = await peer.call(_HISTORY, request, _CALL_S, token)
                    messages[:0] = [decode_delivery(m, shards).event for m in page.messages]
                    if not page.HasField("next"):
                        break
                    before = page.next
                recorder.record_final(
                    endpoint.node, endpoint.region, scope, messages, digests.get(scope, ""), decode_vector(page.vector)
                )
        finally:
            await peer.close()
