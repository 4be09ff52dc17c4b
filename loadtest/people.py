"""People on the SDK in a process of their own, for the locustfile: python -m loadtest.people

Locust replaces threads and sockets by gevent's, which gRPC's asyncio does not live with. So the SDK runs here. Each
line of JSON asks one thing, {"id", "do": "arrive", "endpoints": [[region, address], …]} or {"id", "do": "send", "who"},
and is answered by a line {"id", "ms", "error", "who"} whenever it is done.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

from evertalk.client import Client, Endpoint, register
from evertalk.core.errors import EvertalkError

_PASSWORD = "correct horse battery"
_PATIENCE_S = 60.0
_TEXT = "x" * 100


class People:
    """Everybody who talks here: each with somebody to talk to, who never comes online."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._talks: list[tuple[Client, bytes]] = []

    async def do(self, order: dict[str, Any]) -> int:
        """One thing; returns who did it.

        Raises:
            EvertalkError, TimeoutError
        """
        if order["do"] == "arrive":
            return await self._arrive([Endpoint(*each) for each in order["endpoints"]])
        who = int(order["who"])
        chat, talk = self._talks[who]
        await chat.send(talk, _TEXT)
        return who

    async def _arrive(self, endpoints: list[Endpoint]) -> int:
        names = [f"locust-{secrets.token_hex(8)}" for _ in range(2)]
        one, other = [await register(endpoints, name, _PASSWORD, timeout=_PATIENCE_S) for name in names]
        chat = await self._stack.enter_async_context(Client(endpoints, access_token=one.token))
        self._talks.append((chat, (await chat.direct(other.account)).id))
        return len(self._talks) - 1


async def _main() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        people = People(stack)

        async def answer(order: dict[str, Any]) -> None:
            began, error, who = time.perf_counter(), "", -1
            try:
                who = await people.do(order)
            except (EvertalkError, TimeoutError) as failed:
                error = repr(failed)
            ms = (time.perf_counter() - began) * 1000
            print(json.dumps({"id": order["id"], "ms": ms, "error": error, "who": who}), flush=True)

        while line := await reader.readline():
            group.create_task(answer(json.loads(line)))


if __name__ == "__main__":
    asyncio.run(_main())
