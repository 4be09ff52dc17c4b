"""The controller's side of the generator processes."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from evertalk.cluster import child
from loadtest.plan import ClientPlan, Tally, WorkerPlan

_LINE = 1 << 28
_ROOT = Path(__file__).parents[1]
_START_S = 0.5  # from the order to the start, so that all processes have heard it
_LAST_S = 10.0
_HOME_S = 120.0
_POLL_S = 0.1


class LoadFailed(RuntimeError):
    """A generator process failed; the sentence says how."""


class Fleet:
    """Generator processes that share the clients of a plan, each every so-many-th. Use as a context manager."""

    def __init__(self, plan: WorkerPlan, processes: int) -> None:
        self._plans = [replace(plan, clients=_share(plan.clients, n, processes)) for n in range(processes)]
        self._children: list[asyncio.subprocess.Process] = []

    @property
    def cpu_s(self) -> float:
        """Processor seconds of all of them."""
        return sum(child.cpu_s(each.pid) or 0.0 for each in self._children)

    async def __aenter__(self) -> Self:
        try:
            for plan in self._plans:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "loadtest.worker",
                    stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_LINE, cwd=_ROOT,
                )  # fmt: skip
                self._children.append(process)
                await _write(process, plan.to_json())
            await asyncio.gather(*(_read(each) for each in self._children))
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        for each in self._children:
            if each.returncode is None:
                each.kill()
            await each.wait()

    async def ask(self, order: dict[str, Any]) -> list[dict[str, Any]]:
        """One order to all; their answers.

        Raises:
            LoadFailed
        """
        for each in self._children:
            await _write(each, order)
        return list(await asyncio.gather(*(_read(each) for each in self._children)))

    async def run(self, warm_s: float, seconds: float, goes_on: bool = False) -> Run:
        """Begin a run; the answer says when it is measured and how to wait for its end.

        Args:
            goes_on: what was counted so far stays.
        """
        at = time.monotonic() + _START_S
        order = {"do": "run", "at": at, "warm_s": warm_s, "seconds": seconds, "goes_on": goes_on}
        return Run(self, at + warm_s, at + warm_s + seconds, asyncio.create_task(self.ask(order)))

    async def settle(self, readers: Mapping[int, int]) -> None:
        """Until everything acknowledged has come to every reader (their number by conversation), or time is up."""
        last = time.monotonic() + _LAST_S
        while time.monotonic() < last:
            said = await self.ask({"do": "progress"})
            wanted = sum(number * readers[int(talk)] for each in said for talk, number in each["acked"].items())
            if sum(each["heard"] for each in said) >= wanted:
                return
            await asyncio.sleep(_POLL_S)

    async def until_home(self) -> None:
        """Until every client is served by its own region.

        Raises:
            LoadFailed: one is not within two minutes.
        """
        last = time.monotonic() + _HOME_S
        while astray := sum(each["astray"] for each in await self.ask({"do": "progress"})):
            if time.monotonic() > last:
                raise LoadFailed(f"{astray} clients have not come home within {_HOME_S:g} s")
            await asyncio.sleep(_POLL_S)

    async def result(self, region: int | None = None) -> Tally:
        """What all clients have seen in the last run; `region`: whose clients' gaps count, None for all."""
        total = Tally()
        for each in await self.ask({"do": "result", "region": region}):
            total.merge(Tally.from_json(each))
        return total


class Run:
    """A run under way; measured from `first_s` to `last_s` of the monotonic clock."""

    def __init__(self, fleet: Fleet, first_s: float, last_s: float, task: asyncio.Task[list[dict[str, Any]]]) -> None:
        self._fleet = fleet
        self.first_s = first_s
        self.last_s = last_s
        self._task = task

    async def until(self, at_s: float) -> None:
        """Until a moment; a generator that fails meanwhile is heard at once."""
        rest = at_s - time.monotonic()
        if rest > 0:
            done, _ = await asyncio.wait((self._task,), timeout=rest)
            if done:
                self._task.result()

    async def finish(self) -> int:
        """Until every send was answered, or time is up; how many were not."""
        return sum(each["open"] for each in await self._task)


def _share(clients: Sequence[ClientPlan], n: int, processes: int) -> list[ClientPlan]:
    return list(clients[n::processes])


async def _write(process: asyncio.subprocess.Process, what: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(what).encode() + b"\n")
    try:
        await process.stdin.drain()
    except ConnectionError:
        return  # it has ended; reading says why


async def _read(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise LoadFailed(f"a generator ended with exit code {await process.wait()}")
    found: dict[str, Any] = json.loads(line)
    if "failed" in found:
        raise LoadFailed(f"a generator failed: {found['failed']}")
    return found
