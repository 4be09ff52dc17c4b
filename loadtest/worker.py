"""A generator process: python -m loadtest.worker

It reads a plan (a line of JSON), connects its clients and says how many there are; then it does what each further
line asks: {"do": "run", "at", "warm_s", "seconds", "goes_on"} (`at`: of the monotonic clock), {"do": "progress"},
{"do": "result"} ("region": whose clients' gaps count), {"do": "return", "at"}; it ends with its input.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import json
import random
import sys
import time
import traceback
from typing import Any

from loadtest.bare import BareClient
from loadtest.client import Client, Shared, now_us
from loadtest.crowd import CrowdClient
from loadtest.plan import Generator, Tally, WorkerPlan
from loadtest.sdk import SdkClient

_LAST_ACKS_S = 20.0
_POLL_S = 0.02
_MICRO = 1_000_000
_KINDS: dict[Generator, type[Client]] = {"bare": BareClient, "sdk": SdkClient, "crowd": CrowdClient}


class Worker:
    """All clients of this process."""

    def __init__(self, plan: WorkerPlan) -> None:
        self._plan = plan
        self._shared = Shared(plan)
        kind = _KINDS[plan.generator]
        self._clients = [kind(each, self._shared) for each in plan.clients]
        self._returning = asyncio.Event()
        self._rng = random.Random(f"load/{plan.seed}")

    async def connect(self) -> int:
        """Everybody; returns how many."""
        slots = asyncio.Semaphore(self._plan.at_once)

        async def one(client: Client) -> None:
            async with slots:
                await client.connect()

        async with asyncio.TaskGroup() as group:
            for client in self._clients:
                group.create_task(one(client))
        gc.collect()
        gc.freeze()
        return len(self._clients)

    async def do(self, order: dict[str, Any]) -> dict[str, Any]:
        """One order; the answer."""
        tally = self._shared.tally
        match order["do"]:
            case "run":
                if not order["goes_on"]:
                    self._shared.tally = Tally()
                await self._run(order["at"], order["warm_s"], order["seconds"])
                return {"open": sum(client.open for client in self._clients)}
            case "progress":
                acked = {talk: len(numbers) for talk, numbers in tally.acked.items()}
                return {
                    "acked": acked,
                    "heard": sum(counted.total() for counted in tally.heard.values()),
                    "astray": sum(client.astray for client in self._clients),
                }
            case "result":
                for client in self._clients:
                    if client.plan.talks and order.get("region") in (None, client.plan.region):
                        tally.histograms["gap"].record(client.silence_us())
                return tally.to_json()
            case "return":
                return {"seconds": await self._return(order["at"])}
        raise ValueError(f"unknown order {order!r}")

    async def _run(self, at_s: float, warm_s: float, seconds: float) -> None:
        """Open loop: each send at its time, whether earlier ones were answered or not; then the last answers."""
        start = int(at_s * _MICRO)
        span = self._shared.span
        span.first_us, span.last_us = start + int(warm_s * _MICRO), start + int((warm_s + seconds) * _MICRO)
        for client in self._clients:
            client.longest_us = 0
        await asyncio.sleep(max(0, start - now_us()) / _MICRO)
        span.sending = True
        for client in self._clients:
            client.fill()
        await self._pace(start, span.last_us)
        await asyncio.sleep(max(0, span.last_us - now_us()) / _MICRO)
        span.sending = False
        last = now_us() + int(_LAST_ACKS_S * _MICRO)
        while any(client.open for client in self._clients) and now_us() < last:  # noqa: ASYNC110  many, once a run
            await asyncio.sleep(_POLL_S)

    async def _return(self, at_s: float) -> list[float]:
        """Everybody leaves, and at `at_s` comes back, all at once; seconds that each took."""
        self._returning.set()
        await asyncio.gather(*(client.close() for client in self._clients))
        await asyncio.sleep(max(0.0, at_s - time.monotonic()))

        async def one(client: Client) -> float:
            await client.connect()
            return time.monotonic() - at_s

        took = await asyncio.gather(*(one(client) for client in self._clients))
        self._returning.clear()
        return list(took)

    async def _pace(self, start: int, end: int) -> None:
        due = [(start + self._gap(client), n) for n, client in enumerate(self._clients) if client.plan.rate]
        heapq.heapify(due)
        while due and due[0][0] < end:
            at, n = due[0]
            if (ahead := at - now_us()) > 0:
                await asyncio.sleep(ahead / _MICRO)
            self._clients[n].offer(at)
            heapq.heapreplace(due, (at + self._gap(self._clients[n]), n))

    def _gap(self, client: Client) -> int:
        return int(self._rng.expovariate(client.plan.rate) * _MICRO)

    async def watch(self) -> None:
        """Until a client's session ends, which none may.

        Raises:
            Refused, PeerUnavailable, ConnectionError …: how it ended.
        """
        while True:
            tasks = [task for client in self._clients for task in client.ended()]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not self._returning.is_set():
                for task in done:
                    task.result()
            await asyncio.sleep(_POLL_S)


async def _main() -> None:
    reader = asyncio.StreamReader(limit=1 << 28)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    worker = Worker(WorkerPlan.from_json(json.loads(await reader.readline())))
    say({"ready": await worker.connect()})
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(worker.watch())
        while line := await reader.readline():
            say(await worker.do(json.loads(line)))
        watching.cancel()


def say(what: dict[str, Any]) -> None:
    """A line to whoever started this process."""
    print(json.dumps(what, separators=(",", ":")), flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(_main())
    except Exception as error:  # noqa: BLE001 told to the controller by name, and the run has failed
        traceback.print_exc()
        say({"failed": repr(error)})
        sys.exit(1)
