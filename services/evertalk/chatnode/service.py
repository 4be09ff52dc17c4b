"""The gRPC surface of a node, without gRPC: every call authorized, then handed to whom it concerns."""

from __future__ import annotations

from collections.abc import AsyncIterator

from evertalk.adapters.grpc_server import WriteFrame
from evertalk.adapters.tokens import CLUSTER, USER, Claims, Keyring
from evertalk.chatnode.accounts import Accounts
from evertalk.chatnode.hub import Hub
from evertalk.chatnode.node import Node
from evertalk.chatnode.queries import Queries
from evertalk.v1 import accounts_pb2, chat_pb2, cluster_pb2


class Service:
    """What `adapters.grpc_server.Server` serves; every method may raise Refused."""

    def __init__(self, node: Node, hub: Hub, accounts: Accounts, queries: Queries, keyring: Keyring) -> None:
        self._node = node
        self._hub = hub
        self._accounts = accounts
        self._queries = queries
        self._keyring = keyring

    def _user(self, token: str) -> Claims:
        return self._keyring.verify(token, self._node.clock.wall_ms(), USER)

    def _cluster(self, token: str) -> None:
        self._keyring.verify(token, self._node.clock.wall_ms(), CLUSTER)

    async def session(self, token: str, requests: AsyncIterator[chat_pb2.SessionRequest], write: WriteFrame) -> None:
        self._hub.door.knock()  # a token costs a quarter of a millisecond to check
        await self._hub.serve(self._user(token).account, requests, write)

    async def history(self, token: str, request: chat_pb2.HistoryRequest) -> chat_pb2.HistoryResponse:
        return await self._queries.history(self._user(token).account, request)

    async def list_conversations(
        self, token: str, request: chat_pb2.ListConversationsRequest
    ) -> chat_pb2.ListConversationsResponse:
        return await self._queries.conversations(self._user(token).account, request)

    async def register(self, token: str, request: accounts_pb2.RegisterRequest) -> accounts_pb2.RegisterResponse:
        return await self._accounts.register(request)

    async def sign_in(self, token: str, request: accounts_pb2.SignInRequest) -> accounts_pb2.SignInResponse:
        return await self._accounts.sign_in(request)

    async def refresh(self, token: str, request: accounts_pb2.RefreshRequest) -> accounts_pb2.RefreshResponse:
        return self._accounts.refresh(self._user(token))

    async def look_up(self, token: str, request: accounts_pb2.LookUpRequest) -> accounts_pb2.LookUpResponse:
        self._user(token)
        return await self._accounts.look_up(request)

    async def status(self, token: str, request: cluster_pb2.StatusRequest) -> cluster_pb2.StatusResponse:
        self._cluster(token)
        return await self._queries.status()

    async def export(self, token: str, request: cluster_pb2.ExportRequest) -> cluster_pb2.ExportResponse:
        self._cluster(token)
        return await self._queries.export(request)

    async def digests(self, token: str, request: cluster_pb2.DigestsRequest) -> cluster_pb2.DigestsResponse:
        self._cluster(token)
        return await self._queries.digests(request)
