"""A client on the real SDK: it does all that an application's does, moving to another region included."""

from __future__ import annotations

import asyncio

from evertalk.adapters.grpc_transport import GrpcTransport
from evertalk.client import Client as Sdk
from evertalk.client import Endpoint, Notice, What
from evertalk.core.model import Applied, Message
from loadtest.client import Client, Due, Shared
from loadtest.plan import ClientPlan


class SdkClient(Client):
    """One session. `frames` is the SDK's own business: it coalesces what waits."""

    def __init__(self, plan: ClientPlan, shared: Shared, receipts: bool = False) -> None:
        super().__init__(plan, shared)
        endpoints = [Endpoint(*each) for each in shared.plan.endpoints]
        home = next(each.region for each in endpoints if each.address == plan.address)
        endpoints.sort(key=lambda each: (each.address != plan.address, each.region != home))
        self._chat = Sdk(
            endpoints, region=home, access_token=plan.token, receipts=receipts, watch=self._watch,
            start_timeout=30.0, transport=GrpcTransport(),
        )  # fmt: skip
        self._home = home
        self._due: dict[bytes, Due] = {}  # by event id, until it is acknowledged
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> None:
        await self._chat.__aenter__()
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._send_all())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._chat.__aexit__(None, None, None)

    @property
    def astray(self) -> bool:
        return self._chat.region != self._home

    def ended(self) -> list[asyncio.Task[None]]:
        return self._tasks

    def wake(self) -> None:
        self._wake.set()

    async def _send_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self.queue and self.room > 0:
                due = self.queue.popleft()
                posted = await self._chat.post(due.scope, self.text(due))
                self._due[posted.event.id] = due
                self.left(due)

    def _watch(self, notice: Notice) -> None:
        if notice.what in (What.ACCEPTED, What.REPLICATED):
            due = self._due.pop(notice.id, None)
            if due is not None:
                self.acked(due)
                self.fill()
                self._wake.set()
        elif notice.what in (What.REFUSED, What.UNKNOWN) and self._due.pop(notice.id, None) is not None:
            self.in_flight -= 1
            self.shared.tally.counts["refused"] += 1
            self._wake.set()

    async def _listen(self) -> None:
        async for happening in self._chat.events():
            if isinstance(happening, Applied) and isinstance(happening.event.body, Message):
                self.heard(happening.event.body.text.encode())
