"""Thousands of clients that only listen, in a process of their own, so that people's clients are not slowed by them.

    python -m evertalk.drill.stampede

reads one line of JSON, {"endpoints": [[region, address], …], "region", "tokens": [access token, …]}, and opens a
session for each token; then prints every half second {"served": {region: sessions}, "heard": {text: sessions}},
until stdin ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from evertalk.client import Client, Endpoint, Notice, What
from evertalk.core.model import Applied, Message
from evertalk.drill.plan import DrillFailed

_ARRIVING_AT_ONCE = 50
_START_S = 300.0
_EVERY_S = 0.5
_TOLD_MAX = 64 * 1024


class _Herd:
    """The child's side."""

    def __init__(self, endpoints: Sequence[Endpoint], region: str) -> None:
        self.served: Counter[str] = Counter()
        self.heard: Counter[str] = Counter()
        self._endpoints = endpoints
        self._region = region
        self._slots = asyncio.Semaphore(_ARRIVING_AT_ONCE)

    async def one(self, token: str) -> None:
        """One client, until cancelled."""
        where = ""

        def watch(notice: Notice) -> None:
            nonlocal where
            if notice.what in (What.CONNECTED, What.MOVED, What.DISCONNECTED):
                self.served[where] -= 1
                where = "" if notice.what is What.DISCONNECTED else notice.region
                self.served[where] += 1

        self.served[where] += 1
        client = Client(
            self._endpoints, region=self._region, access_token=token, receipts=False, watch=watch,
            start_timeout=_START_S,
        )  # fmt: skip
        await self._slots.acquire()
        async with client:
            self._slots.release()
            async for happening in client.events():
                if isinstance(happening, Applied) and isinstance(happening.event.body, Message):
                    self.heard[happening.event.body.text] += 1

    async def tell(self) -> None:
        """Print the counts, until cancelled."""
        while True:
            print(json.dumps({"served": self.served, "heard": self.heard}), flush=True)
            await asyncio.sleep(_EVERY_S)


async def _main() -> None:
    loop = asyncio.get_running_loop()
    wanted = json.loads(await loop.run_in_executor(None, sys.stdin.readline))
    herd = _Herd([Endpoint(*each) for each in wanted["endpoints"]], wanted["region"])
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(herd.tell()), *(group.create_task(herd.one(t)) for t in wanted["tokens"])]
        await loop.run_in_executor(None, sys.stdin.read)
        for task in tasks:
            task.cancel()


class Stampede:
    """The controller's side: the process, and what it said last. Use as a context manager.

    Args:
        tokens: an access token for each client.
        region: where they want to be.
    """

    def __init__(self, endpoints: Sequence[Endpoint], region: str, tokens: Sequence[str]) -> None:
        self.size = len(tokens)
        self.served: Counter[str] = Counter()
        self.heard: Counter[str] = Counter()
        self._wanted = {
            "endpoints": [[each.region, each.address] for each in endpoints],
            "region": region,
            "tokens": list(tokens),
        }
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "evertalk.drill.stampede",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_TOLD_MAX,
        )  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(self._wanted).encode() + b"\n")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()  # its sessions end as those of any client that dies
            await self._process.wait()

    async def until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Read what it says until the condition holds.

        Raises:
            DrillFailed: not in time, or it has ended.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._take(await self._line())
        except TimeoutError:
            raise DrillFailed(f"{what}: not within {timeout_s:g} s; {dict(self.served)}, {dict(self.heard)}") from None

    async def _line(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise DrillFailed(f"the stampede's process ended with exit code {await self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found

    def _take(self, said: dict[str, Any]) -> None:
        self.served, self.heard = Counter(said["served"]), Counter(said["heard"])


if __name__ == "__main__":
    asyncio.run(_main())
