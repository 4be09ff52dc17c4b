"""Thousands of clients that only listen, in a process of their own, so that people's clients are not slowed by them.

    python -m evertalk.drill.stampede

reads one line of JSON, {"endpoints": [[region, address], …], "region", "tokens": [access token, …]}, and opens a
session for each token; then prints every half second {"served": {region: sessions}, "heard": {text: sessions}},
until stdin ends.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from evertalk.adapters import wire
from evertalk.client import Endpoint
from evertalk.core import limits
from evertalk.core.errors import PeerUnavailable, Refused
from evertalk.core.model import Message
from evertalk.core.vector import Vector
from evertalk.drill.bare import BareStream
from evertalk.drill.plan import DrillFailed
from evertalk.v1 import chat_pb2

_ARRIVING_AT_ONCE = 50  # at the beginning; later all come at once
_HELLO_S = 10.0
_AGAIN_S = 0.25
_AGAIN_MAX_S = 8.0
_EVERY_S = 0.5
_TOLD_MAX = 64 * 1024


class _Herd:
    """The child's side: bare sessions (`drill/bare.py`), each on a connection of its own."""

    def __init__(self, endpoints: Sequence[Endpoint], region: str) -> None:
        self.served: Counter[str] = Counter()
        self.heard: Counter[str] = Counter()
        self._homes = [e for e in endpoints if e.region == region]
        self._others = [e for e in endpoints if e.region != region]
        self._first = asyncio.Semaphore(_ARRIVING_AT_ONCE)

    async def one(self, token: str) -> None:
        """One client that comes back whenever its session ends, home first, then elsewhere; until cancelled."""
        listener = _Listener(self, token)
        self.served[""] += 1
        async with self._first:
            await listener.arrive(random.choice(self._homes))
        tries = 0
        while True:
            served = await listener.stay()
            if listener.later_s:  # told when to come again: there, and no try in vain
                await asyncio.sleep(listener.later_s * (1 + random.random() / 4))
            else:
                tries = 0 if served else tries + 1
                await asyncio.sleep(random.random() * min(_AGAIN_MAX_S, _AGAIN_S * 2**tries))
            await listener.arrive(random.choice(self._others if tries % 2 else self._homes))

    async def tell(self) -> None:
        """Print the counts, until cancelled."""
        while True:
            print(json.dumps({"served": self.served, "heard": self.heard}), flush=True)
            await asyncio.sleep(_EVERY_S)


class _Listener:
    """One session over all its connections."""

    def __init__(self, herd: _Herd, token: str) -> None:
        self._herd = herd
        self._token = token
        self._session = random.randbytes(limits.SESSION_BYTES)
        self._have: Vector | None = None
        self._shards = 0
        self._stream: BareStream | None = None
        self._region = ""
        self.later_s = 0.0  # a node that was too busy said when to come again

    async def arrive(self, endpoint: Endpoint) -> None:
        """Try one node; `stay` says what came of it."""
        have, self._stream, self.later_s = self._have, None, 0.0
        hello = chat_pb2.Hello(
            session=self._session, fresh=have is None, have=wire.encode_vector(have or Vector()), hlc=1
        )
        try:
            async with asyncio.timeout(_HELLO_S):
                self._stream = await BareStream.open(endpoint.address, self._token, hello)
                first = await self._stream.read()
        except (PeerUnavailable, TimeoutError):
            return
        except Refused as refused:
            self.later_s = refused.retry_after_ms / 1000
            return
        if first is None:
            return
        self._shards = first.hello.shards
        self._have = have or wire.decode_vector(first.hello.marker)
        self._move(first.hello.region)
        self._take(first)

    async def stay(self) -> bool:
        """Listen until the session ends; True if there was one."""
        served, beating = bool(self._region), None
        try:
            if served and self._stream is not None:
                beating = asyncio.create_task(self._beat(self._stream))
                while (frame := await self._stream.read()) is not None:
                    self._take(frame)
        except (PeerUnavailable, Refused):
            pass  # it comes back
        finally:
            self._move("")
            if beating is not None:
                beating.cancel()
                await asyncio.gather(beating, return_exceptions=True)
            if self._stream is not None:
                self._stream.cancel()
        return served

    async def _beat(self, stream: BareStream) -> None:
        while True:
            await asyncio.sleep(limits.HEARTBEAT_S)
            await stream.write(chat_pb2.SessionRequest(heartbeat=chat_pb2.Heartbeat()))

    def _move(self, region: str) -> None:
        self._herd.served[self._region] -= 1
        self._herd.served[region] += 1
        self._region = region

    def _take(self, frame: chat_pb2.SessionResponse) -> None:
        for delivery in frame.deliveries:
            body = wire.decode_delivery(delivery, self._shards).event.body
            if isinstance(body, Message):
                self._herd.heard[body.text] += 1
        if frame.HasField("marker") and self._have is not None:
            self._have.absorb(wire.decode_vector(frame.marker))


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
    """The controller's side: some processes, and what they said last. Use as a context manager.

    Args:
        tokens: an access token for each client.
        region: where they want to be.
        processes: that share the clients.
    """

    def __init__(self, endpoints: Sequence[Endpoint], region: str, tokens: Sequence[str], processes: int = 1) -> None:
        self.size = len(tokens)
        self._wanted = [
            {
                "endpoints": [[each.region, each.address] for each in endpoints],
                "region": region,
                "tokens": list(tokens[n::processes]),
            }
            for n in range(processes)
        ]
        self._said: list[dict[str, dict[str, int]]] = [{"served": {}, "heard": {}} for _ in self._wanted]
        self._children: list[asyncio.subprocess.Process] = []

    @property
    def served(self) -> Counter[str]:
        """Region ("" for none) -> how many it serves."""
        return sum((Counter(said["served"]) for said in self._said), Counter())

    @property
    def heard(self) -> Counter[str]:
        """Text -> how many were shown it."""
        return sum((Counter(said["heard"]) for said in self._said), Counter())

    async def __aenter__(self) -> Self:
        for wanted in self._wanted:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "evertalk.drill.stampede",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_TOLD_MAX,
            )  # fmt: skip
            self._children.append(child)
            assert child.stdin is not None
            child.stdin.write(json.dumps(wanted).encode() + b"\n")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            if child.returncode is None:
                child.kill()  # its sessions end as those of any client that dies
            await child.wait()

    async def until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Listen to what they say until the condition holds.

        Raises:
            DrillFailed: not in time, or one has ended.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    self._said = list(await asyncio.gather(*(_line(child) for child in self._children)))
        except TimeoutError:
            raise DrillFailed(f"{what}: not within {timeout_s:g} s; {dict(self.served)}, {dict(self.heard)}") from None


async def _line(child: asyncio.subprocess.Process) -> dict[str, dict[str, int]]:
    assert child.stdout is not None
    line = await child.stdout.readline()
    if not line:
        raise DrillFailed(f"a process of the stampede ended with exit code {await child.wait()}")
    found: dict[str, dict[str, int]] = json.loads(line)
    return found


if __name__ == "__main__":
    asyncio.run(_main())
