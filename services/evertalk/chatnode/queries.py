"""What is read from a node: history, conversations, status, digests, Export."""

from __future__ import annotations

import asyncio

from evertalk.adapters.wire import decode_vector, encode_delivery, encode_graves, encode_rows, encode_vector
from evertalk.chatnode.hub import Hub
from evertalk.chatnode.node import Node
from evertalk.core import limits
from evertalk.core.errors import Code, LogError, Refused
from evertalk.core.merge import target_of
from evertalk.core.model import Role, Stream
from evertalk.core.vector import Vector
from evertalk.ports import Board, ConversationState, HistoryPage
from evertalk.v1 import chat_pb2, cluster_pb2

#: Half of what gRPC takes, for what hangs on messages comes on top.
_ANSWER_BYTES = limits.MAX_GRPC_BYTES // 2


class Queries:
    """The reading half of ChatService, and ClusterService."""

    def __init__(self, node: Node, hub: Hub, board: Board) -> None:
        self._node = node
        self._hub = hub
        self._board = board

    async def history(self, account: bytes, request: chat_pb2.HistoryRequest) -> chat_pb2.HistoryResponse:
        """A page of a conversation, newest page first; waits up to 300 ms for `need`, then says `gap`.

        Raises:
            Refused: UNKNOWN_CONVERSATION, NOT_A_MEMBER or NOT_YET.
        """
        self._need_serving()
        gap = bool(await self._node.wait_for(decode_vector(request.need), limits.NEED_WAIT_S))
        if wrong := await self._forbidden(account, request.conversation):
            refused = await self._node.until_known(wrong)
            if await self._forbidden(account, request.conversation):
                raise refused
        before = (request.before.hlc, request.before.id) if request.HasField("before") else None
        limit = min(request.limit or limits.JOIN_PAGE, limits.HISTORY_PAGE_MAX)
        page = _fitting(await self._node.store.history(request.conversation, before, limit))
        return chat_pb2.HistoryResponse(
            messages=[encode_delivery(m) for m in page.messages],
            registers=[encode_delivery(r) for r in page.registers],
            vector=encode_vector(page.vector),
            next=chat_pb2.Cursor(hlc=page.next[0], id=page.next[1]) if page.next else None,
            gap=gap,
        )

    async def _forbidden(self, account: bytes, conversation: bytes) -> Refused | None:
        if len(conversation) != limits.ID_BYTES:
            return Refused(Code.MALFORMED, f"a conversation's id has {limits.ID_BYTES} bytes, not {len(conversation)}")
        rights = await self._node.rights(conversation)
        if rights is None:
            return Refused(Code.UNKNOWN_CONVERSATION, f"there is no conversation {conversation.hex()}")
        if rights.members.get(account, Role.NONE) == Role.NONE:
            return Refused(Code.NOT_A_MEMBER, f"you are not a member of conversation {conversation.hex()}")
        return None

    async def conversations(
        self, account: bytes, request: chat_pb2.ListConversationsRequest
    ) -> chat_pb2.ListConversationsResponse:
        """The conversations of an account, the liveliest first."""
        self._need_serving()
        gap = bool(await self._node.wait_for(decode_vector(request.need), limits.NEED_WAIT_S))
        states, vector = await self._node.store.conversations_of(account)
        at = next((i for i, s in enumerate(states, 1) if s.scope == request.after), 0)
        states, more = _first(states[at:])
        return chat_pb2.ListConversationsResponse(
            next=states[-1].scope if more else b"",
            conversations=[
                chat_pb2.ConversationView(
                    conversation=s.scope,
                    kind=s.kind,
                    title=s.title,
                    title_version=s.title_version,
                    last_hlc=s.last_hlc,
                    members=[
                        chat_pb2.MemberView(account=a, role=role, version=version)
                        for a, (role, version) in s.members.items()
                    ],
                )
                for s in states
            ],
            vector=encode_vector(vector),
            gap=gap,
        )

    def _need_serving(self) -> None:
        if not self._node.caught_up:
            raise self._hub.not_serving()

    # ------------------------------------------------------------ cluster

    async def status(self) -> cluster_pb2.StatusResponse:
        """This node, as operators and other nodes see it."""
        node = self._node
        streams, reachable = await self._streams()
        return cluster_pb2.StatusResponse(
            node=node.settings.node,
            region=node.settings.region,
            origin=node.origin,
            state=node.state.value,
            shards=node.settings.shards,
            sessions=len(self._hub),
            life=node.store.life,
            vector=encode_vector(node.store.vector),
            checkpointed=encode_vector(node.checkpointed),
            replicated=encode_vector(Vector({k: node.marks.replicated(*k) for k, _ in node.store.vector})),
            live_peers=node.live_peers(),
            origins=[
                cluster_pb2.OriginView(origin=i.origin, region=i.region, state=i.state, last=i.last)
                for i in sorted(node.origins.values(), key=lambda i: i.origin)
            ],
            region_time_ms=node.region_time_ms(),
            accepted=node.counters.accepted,
            applied=node.counters.applied,
            delivered=node.counters.delivered,
            streams=streams,
            log_reachable=reachable,
            tasks=len(asyncio.all_tasks()),
        )

    async def _streams(self) -> tuple[list[cluster_pb2.StreamView], bool]:
        node = self._node
        wanted = [
            Stream(i.origin, shard, i.region != node.settings.region)
            for i in node.origins.values()
            if i.state != "folded"
            for shard in range(node.settings.shards)
        ]
        try:
            states = await self._board.streams(wanted)
        except LogError:
            return [], False  # said by the flag: status must answer without its Redis, too
        return [
            cluster_pb2.StreamView(
                origin=s.origin,
                shard=s.shard,
                mirror=s.mirror,
                last=state.last,
                length=state.length,
                bytes=state.bytes,
                floor=state.floor,
                base=state.base,
            )
            for s, state in states.items()
        ], True

    async def export(self, request: cluster_pb2.ExportRequest) -> cluster_pb2.ExportResponse:
        """A page of everything this store knows (R9)."""
        limit = min(max(request.limit, 1), limits.EXPORT_PAGE)
        page = await self._node.store.export(request.life, request.after_change, limit)
        return cluster_pb2.ExportResponse(
            life=page.life,
            rows=encode_rows(page.rows),
            next_change=page.next_change,
            last=page.last,
            vector=encode_vector(page.vector),
            folded=sorted(page.folded),
            graves=encode_graves(page.graves),
        )

    async def digests(self, request: cluster_pb2.DigestsRequest) -> cluster_pb2.DigestsResponse:
        """Digests of conversations, all from one snapshot."""
        digests, vector = await self._node.store.digests(list(request.conversations) or None)
        return cluster_pb2.DigestsResponse(
            digests=[
                cluster_pb2.ConversationDigest(
                    conversation=d.scope, sha256=bytes.fromhex(d.sha256), messages=d.messages
                )
                for d in digests
            ],
            vector=encode_vector(vector),
        )


def _fitting(page: HistoryPage) -> HistoryPage:
    """The newest part of a page that goes into one answer; `next` leads to the rest."""
    size, start = 0, len(page.messages)
    while start and (size < _ANSWER_BYTES or start == len(page.messages)):
        start -= 1
        size += len(page.messages[start].event.raw)
    if start == 0:
        return page
    kept = page.messages[start:]
    ids = {(m.event.sender, m.event.id) for m in kept}
    targets = [(r, target_of(r.event)) for r in page.registers]
    registers = [r for r, target in targets if target and (target.sender, target.id) in ids]
    return HistoryPage(kept, registers, page.vector, kept[0].event.key)


def _first(states: list[ConversationState]) -> tuple[list[ConversationState], bool]:
    """As many conversations as go into one answer, and whether there are more."""
    size = 0
    for number, state in enumerate(states):
        size += 64 + len(state.title) * 4 + len(state.members) * 32
        if number and size > _ANSWER_BYTES:
            return states[:number], True
    return states, False
