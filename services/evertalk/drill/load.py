"""`evertalk load`: simulated people who go on talking, whatever happens to the regions, until they are stopped."""

from __future__ import annotations

import asyncio
import random
import secrets
import signal
import time
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from evertalk.client import Endpoint, Notice, Registered, What, register
from evertalk.console.endpoints import find_endpoints, regions_of
from evertalk.console.signals import when_asked_to_stop
from evertalk.core import history
from evertalk.core.errors import RETRY, EvertalkError, PeerUnavailable, Refused
from evertalk.drill import traffic
from evertalk.drill.people import Person, Tally, sentence_of
from evertalk.drill.recorder import Recorder

_PASSWORD = "correct horse battery"
_PATIENCE_S = 60.0  # for the first node that serves
_QUIET_S = 1.0  # waiting for it is mentioned after so long
_REGISTER_AT_ONCE = 4
_EVERY_S = 2.0  # a line
_SLICE_S = 10.0  # of the plan of turns
_BEHIND_S = 1.0  # a generator further behind its plan (stopped, or too slow) lets the plan wait
_SETTLE_S = 3.0  # with the client's own two: within the 5 s that a stopped container has
_TIMED_CAP = 8_192
_SENTENCES = 100
_GAP_S = 1.0  # P6


class LoadFailed(EvertalkError):
    """The load cannot begin; the sentence says why."""


class _Forgetful(Recorder):
    """Takes nothing down: a load has no end, and nobody judges it afterwards."""

    def _add(self, word: str, *values: Any) -> None:
        return None


class _Newest(OrderedDict[bytes, float]):
    """The last _TIMED_CAP entries: while a region is away nothing is replicated, and all of it waits."""

    def __setitem__(self, key: bytes, value: float) -> None:
        super().__setitem__(key, value)
        if len(self) > _TIMED_CAP:
            self.popitem(last=False)


class Patience:
    """How long one client goes without an acknowledged send while it has something to send (P6)."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self.worst_s = 0.0
        self.waiting: set[bytes] = set()  # sends without an answer; an outbox bounds them
        self._longest_s = 0.0
        self._since: float | None = None

    def note(self, notice: Notice) -> None:
        """Take a step of the client's in."""
        match notice.what:
            case What.INVOKED:
                self.waiting.add(notice.id)
                if self._since is None:
                    self._since = notice.at_s
            case What.ACCEPTED | What.REPLICATED if notice.id in self.waiting:
                self.acknowledged += 1
                self.waiting.discard(notice.id)
                self._end(notice.at_s)
            case What.REFUSED | What.UNKNOWN:
                self.waiting.discard(notice.id)
                if not self.waiting:
                    self._end(notice.at_s)
            case _:
                pass

    def _end(self, at_s: float) -> None:
        if self._since is not None:
            self._see(at_s - self._since)
        self._since = at_s if self.waiting else None

    def _see(self, gap_s: float) -> None:
        self._longest_s = max(self._longest_s, gap_s)
        self.worst_s = max(self.worst_s, gap_s)

    def take_s(self, now_s: float) -> float:
        """The longest since the last call, what still goes on included."""
        if self._since is not None:
            self._see(now_s - self._since)
        longest, self._longest_s = self._longest_s, 0.0
        return longest


@dataclass(frozen=True, slots=True)
class Plan:
    """Who talks, how fast (sends per second, all together) and how long (seconds; 0 = until stopped)."""

    endpoints: Sequence[Endpoint]
    users: int
    rate: float
    seconds: float
    seed: int

    def check(self) -> None:
        """Raises: LoadFailed."""
        if self.users < 2 or self.rate <= 0 or self.seconds < 0:
            raise LoadFailed("a load needs at least 2 users, a rate above 0, and no negative length")


class Load:
    """One run. Handles are new ones each time, so that a cluster can be loaded again and again."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self.plan = plan
        self.regions = regions_of(plan.endpoints)
        self._console = console
        self._run = secrets.token_hex(3)
        self._tally = Tally(accepted_at=_Newest())
        self._people: list[Person] = []
        self._patience: list[Patience] = []
        self._failures: Counter[str] = Counter()  # by sentence
        self._scopes: list[bytes] = []
        self._began = time.monotonic()
        self._recent: deque[tuple[float, int]] = deque(maxlen=2)  # (time, invoked) of the last two lines

    async def run(self) -> int:
        """Until it is asked to stop or time is up; 0 if every send was acknowledged.

        Raises:
            LoadFailed, EvertalkError: it could not begin.
        """
        await self._register()
        async with self._clients():
            talks = traffic.talks(len(self._people), self.plan.seed)
            await self._make(talks)
            self._say(f"{len(self._people)} people in {len(self._scopes)} conversations begin to talk")
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._show())
                await self._talk_until_asked(talks)
                watching.cancel()
            await self._settle()
        return self._summary()

    # ------------------------------------------------------------ people

    async def _register(self) -> None:
        names = [f"{traffic.name_of(i)}-{self._run}" for i in range(self.plan.users)]
        slots = asyncio.Semaphore(_REGISTER_AT_ONCE)

        async def one(index: int) -> Registered:
            async with slots:
                return await register(self._home(index), names[index], _PASSWORD, timeout=_PATIENCE_S)

        made = [await self._first(names[0])]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(i)) for i in range(1, len(names))]
        made += [task.result() for task in tasks]
        recorder = _Forgetful(_header(self.plan))
        for index, (name, account) in enumerate(zip(names, made, strict=True)):
            home = self._home(index)
            self._people.append(
                Person(
                    name, account.account, account.token, home, home[0].region, recorder, self._tally, self.plan.seed
                )
            )
            self._patience.append(Patience())
        self._say(f"{len(names)} people registered, as NAME-{self._run}")

    def _home(self, index: int) -> list[Endpoint]:
        region = self.regions[index % len(self.regions)]
        return sorted(self.plan.endpoints, key=lambda e: e.region != region)

    async def _first(self, name: str) -> Registered:
        """The first account, as soon as any node serves."""
        saying = asyncio.create_task(self._say_waiting())
        try:
            return await register(self._home(0), name, _PASSWORD, timeout=_PATIENCE_S)
        except (PeerUnavailable, Refused) as error:
            if isinstance(error, Refused) and error.code not in RETRY:
                raise
            raise LoadFailed(f"no node served within {_PATIENCE_S:.0f} s: {error}") from error
        finally:
            saying.cancel()
            await asyncio.gather(saying, return_exceptions=True)

    async def _say_waiting(self) -> None:
        await asyncio.sleep(_QUIET_S)
        where = ", ".join(f"{e.region}={e.address}" for e in self.plan.endpoints)
        self._say(f"waiting up to {_PATIENCE_S:.0f} s for a node that serves: {where}")

    @asynccontextmanager
    async def _clients(self) -> AsyncIterator[None]:
        """Everybody connected and listening; at the end they leave side by side, or each would wait in turn."""
        leave = asyncio.Event()
        ready = [asyncio.Event() for _ in self._people]

        async def live(person: Person, patience: Patience, here: asyncio.Event) -> None:
            async with person.client as client:
                first = client.watch

                def watch(notice: Notice) -> None:
                    patience.note(notice)
                    if first is not None:
                        first(notice)

                client.watch = watch
                here.set()
                async with asyncio.TaskGroup() as group:
                    doing = [group.create_task(person.listen()), group.create_task(person.read_back(time.monotonic))]
                    await leave.wait()
                    for task in doing:
                        task.cancel()

        async with asyncio.TaskGroup() as group:
            for person, patience, here in zip(self._people, self._patience, ready, strict=True):
                group.create_task(live(person, patience, here))
            for here in ready:
                await here.wait()
            yield
            leave.set()

    async def _make(self, talks: Sequence[traffic.Talk]) -> None:
        async def one(talk: traffic.Talk) -> bytes:
            maker, others = self._people[talk.people[0]], [self._people[i] for i in talk.people[1:]]
            if talk.title:
                made = await maker.client.create_group(talk.title, [p.account for p in others], timeout=_PATIENCE_S)
            else:
                made = await maker.client.direct(others[0].account, timeout=_PATIENCE_S)
            for person in (maker, *others):
                person.talks.append(made.id)
            return made.id

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(talk)) for talk in talks]
        self._scopes = [task.result() for task in tasks]

    # ------------------------------------------------------------ talk

    async def _talk_until_asked(self, talks: list[traffic.Talk]) -> None:
        talking = asyncio.create_task(self._talk(talks))
        with when_asked_to_stop(talking.cancel):
            try:
                async with asyncio.timeout(self.plan.seconds or None):
                    await asyncio.wait((talking,))
            except TimeoutError:
                pass  # time is up, as planned
            finally:
                talking.cancel()
                with suppress(asyncio.CancelledError):
                    await talking

    async def _talk(self, talks: list[traffic.Talk]) -> None:
        """Open loop, slice by slice: every turn at its time, whether earlier ones were answered or not."""
        plan, part, began = self.plan, 0, time.monotonic()
        while True:
            for turn in traffic.turns(talks, plan.rate, _SLICE_S, hash((plan.seed, part))):
                await asyncio.sleep(max(0.0, began + turn.at_s - time.monotonic()))
                try:
                    await self._people[turn.person].take(turn, self._scopes[turn.talk])
                except Refused as refused:  # the outbox is full
                    self._failed(sentence_of(refused))
            part += 1
            began = max(began + _SLICE_S, time.monotonic() - _BEHIND_S)

    async def _settle(self) -> None:
        """A moment for what was said last to be replicated."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_S):
                await asyncio.gather(*(person.client.drained() for person in self._people))

    # ------------------------------------------------------------ what is shown

    async def _show(self) -> None:
        self._recent.append((time.monotonic(), self._tally.invoked))
        while True:
            await asyncio.sleep(_EVERY_S)
            self._show_line()

    def _show_line(self) -> None:
        now, tally = time.monotonic(), self._tally
        self._recent.append((now, tally.invoked))
        (then, before), (now, after) = self._recent[0], self._recent[-1]
        span = now - then
        self._collect_failures()
        line = Text(f"{now - self._began:7.1f} s  {(after - before) / span if span else 0:.0f} sends/s, ")
        line.append(
            f"{self._acknowledged} acknowledged, {tally.replicated} replicated, {tally.delivered} delivered, "
            f"{sum(len(p.open) for p in self._people)} open"
        )
        for region in self.regions:
            here = sum(1 for p in self._people if p.where == region)
            line.append("; " if region == self.regions[0] else ", ")
            line.append(f"{region} {here}", style="" if here else "bold red")
        if nowhere := sum(1 for p in self._people if not p.where):
            line.append(f", nowhere {nowhere}", style="bold red")
        gap_s = max(patience.take_s(now) for patience in self._patience)
        line.append("; ").append(f"longest gap {gap_s * 1000:.0f} ms", style="bold red" if gap_s >= _GAP_S else "")
        lags = tally.replication_ms
        line.append(f"; replication {f'{sum(lags) / len(lags):.0f} ms' if lags else '–'}")
        lags.clear()
        if self._failures:
            line.append(f"; {self._failures.total()} FAILED", style="bold red")
        self._console.print(line, soft_wrap=True)

    @property
    def _acknowledged(self) -> int:
        return sum(patience.acknowledged for patience in self._patience)

    def _collect_failures(self) -> None:
        """Count what failed by its sentence; people keep no list of it."""
        for person in self._people:
            for failure in person.failures:
                self._failed(failure.partition(": ")[2])
            person.failures.clear()

    def _failed(self, sentence: str) -> None:
        known = sentence in self._failures or len(self._failures) < _SENTENCES
        self._failures[sentence if known else "other reasons"] += 1

    def _summary(self) -> int:
        self._collect_failures()
        tally, failed = self._tally, self._failures.total()
        worst_ms = max(patience.worst_s for patience in self._patience) * 1000
        said = "every send was acknowledged" if not failed else f"{failed} SENDS WERE NOT ACKNOWLEDGED"
        self._say(
            f"{tally.invoked} sends: {said}; {tally.replicated} replicated, {tally.delivered} delivered, "
            f"longest gap {worst_ms:.0f} ms"
        )
        for sentence, times in self._failures.most_common(5):
            self._say(f"  {times} times: {sentence}")
        return 1 if failed else 0

    def _say(self, line: str) -> None:
        self._console.print(f"{time.monotonic() - self._began:7.1f} s  {line}", markup=False, soft_wrap=True)


def _header(plan: Plan) -> history.Header:
    nowhere = history.Cluster((), {}, 0)
    return history.Header("load", "", plan.seed, "", nowhere, history.Load(plan.users, plan.rate, 0.0, ""), {}, "")


async def run_load(
    given: Sequence[str],
    directory: Path | None,
    default: Path,
    users: int,
    rate: float,
    seconds: float,
    seed: int,
    plain: bool,
) -> int:
    """Load a cluster until Ctrl-C, SIGTERM or `seconds`; 0 only if every send was acknowledged.

    Args:
        given, directory, default: as `find_endpoints`.
        seed: 0 = a new one.
        plain: no colours.
    """
    seed = seed or random.SystemRandom().randrange(1, 1_000_000)
    plan = Plan(find_endpoints(given, directory, default), users, rate, seconds, seed)
    plan.check()
    task = asyncio.current_task()
    assert task is not None
    # Until people talk there is nothing to finish: either signal just ends it.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await Load(plan, Console(no_color=plain, highlight=False)).run()
