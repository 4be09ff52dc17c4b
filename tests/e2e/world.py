"""A world for stories: a real cluster of processes, and people with real clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from evertalk.adapters.grpc_transport import GrpcTransport
from evertalk.client import Client, Endpoint, register
from evertalk.cluster.layout import Options
from evertalk.cluster.processes import ProcessCluster, ProcessRegion
from evertalk.console.status import Operator, Place
from evertalk.core.model import Applied, Message
from evertalk.drill.finals import wait_until_equal

PASSWORD = "correct horse battery"


class Friend:
    """A person at a client, and everything they have been shown."""

    def __init__(self, client: Client, account: bytes, token: str) -> None:
        self.client = client
        self.account = account
        self.access = token
        self.shown: list[Applied] = []
        self._moved = asyncio.Event()

    async def listen(self) -> None:
        """Take every event, until cancelled."""
        async for happening in self.client.events():
            if isinstance(happening, Applied):
                self.shown.append(happening)
                self._moved.set()

    def texts(self) -> list[str]:
        """Texts of the messages shown, in the order shown."""
        return [a.event.body.text for a in self.shown if isinstance(a.event.body, Message)]

    async def until(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Until the condition holds; looked at whenever something is shown."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._moved.clear()
                await self._moved.wait()

    async def sees(self, text: str, timeout_s: float = 20.0) -> None:
        """Until that message was shown."""
        await self.until(lambda: text in self.texts(), timeout_s)


class World:
    """The cluster as a story tells it."""

    def __init__(self, cluster: ProcessCluster) -> None:
        self.cluster = cluster
        self.transport = GrpcTransport()
        file = cluster.file
        self.operator = Operator([Place(e.region, e.node, e.address) for e in file.endpoints], dict(file.keys))

    def region(self, name: str) -> ProcessRegion:
        return self.cluster.region(name)

    def endpoints(self, region: str = "", only: bool = False) -> list[Endpoint]:
        """Where clients go, the named region's first, or only those."""
        found = [Endpoint(e.region, e.address) for e in self.cluster.file.endpoints]
        if only:
            return [e for e in found if e.region == region]
        return sorted(found, key=lambda e: e.region != region)

    async def heard(self) -> None:
        """Until every node has heard of every region: the first to start serves before that, and says ACCEPTED."""
        regions = {e.region for e in self.cluster.file.endpoints}
        async with asyncio.timeout(30):
            while True:
                answers = (await self.operator.ask_all()).answers.values()
                if len(answers) == len(self.cluster.file.endpoints) and all(
                    regions == {a.region, *a.live_peers} for a in answers
                ):
                    return
                await asyncio.sleep(0.05)

    async def join(self, handle: str, region: str) -> tuple[bytes, str]:
        """A new account, made in that region: (account, access token)."""
        made = await register(self.endpoints(region), handle, PASSWORD, region=region)
        return made.account, made.token

    @asynccontextmanager
    async def friend(self, handle: str, region: str, **options: Any) -> AsyncIterator[Friend]:
        """A new person, connected and listening."""
        account, token = await self.join(handle, region)
        client = Client(self.endpoints(region), region=region, access_token=token, **options)
        async with client:
            friend = Friend(client, account, token)
            listening = asyncio.create_task(friend.listen())
            try:
                yield friend
            finally:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)

    async def equal(self, timeout_s: float = 60.0) -> bool:
        """True once all nodes have equal digests."""
        return await wait_until_equal(self.operator, [e.node for e in self.cluster.file.endpoints], timeout_s)

    async def call(self, address: str, method: str, request: Any, token: str = "") -> Any:
        """One unary call to one node."""
        peer = self.transport.peer(address)
        try:
            return await peer.call(method, request, 10.0, token)
        finally:
            await peer.close()


@asynccontextmanager
async def world(directory: Path, **given: Any) -> AsyncIterator[World]:
    """A cluster of two regions; `env` for more settings of nodes and replicators."""
    options = Options(env=given.pop("env", {}))
    async with await ProcessCluster.create(directory, options=options, **given) as cluster:
        found = World(cluster)
        try:
            await found.heard()
            yield found
        finally:
            await found.operator.close()
