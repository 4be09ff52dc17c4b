"""One seed from its plan to its verdict."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog

from evertalk.core import limits
from evertalk.core.checker import check
from evertalk.core.history import KINDS, Cluster, Header, History, Load, Record, Shown
from evertalk.core.model import Event
from evertalk.drill.recorder import Recorder, shown_of
from evertalk.sim.faults import Breaker
from evertalk.sim.loop import SimLoop, Stuck, play
from evertalk.sim.people import Person
from evertalk.sim.plan import Plan
from evertalk.sim.verdict import residue, unkept, unshown, waited, waits
from evertalk.sim.world import World

_SETUP_S = 60.0
_CONVERGE_S = 60.0
_QUIET_S = 1.2  # receipts are sent once a second
_SHOWN_S = 45.0  # a stream that hangs without a send to show it is given up after SUSPECT_S
_POLL_S = 0.25
_START_POLL_S = 0.05
_THOROUGH = 8  # every so many seeds each replica is read row by row; else those of equal digests once


@dataclass
class Outcome:
    """What became of a seed. `violations` are sentences; `trace` is the hash of everything that was recorded."""

    seed: int
    violations: list[str]
    counts: Counter[str]
    trace: str
    history: History
    log: list[str] = field(default_factory=list)


class SimRecorder(Recorder):
    """The drill's recorder without the way over JSON. `said_at`: when each event was invoked."""

    def __init__(self, header: Header, monotonic: Callable[[], float]) -> None:
        super().__init__(header, monotonic)
        self.said_at: dict[bytes, float] = {}

    def record_send(self, client: str, event: Event) -> None:
        self.said_at[event.id] = self.now()
        super().record_send(client, event)

    def history(self) -> History:
        records: list[Record] = [KINDS[word]._make(_plain(v) for v in values) for word, *values in self._records]
        return History(self.header, records)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return tuple(_plain(v) for v in value)
    return value


def run(plan: Plan, trace: bool = False) -> Outcome:
    """Play a plan to its end; deterministic, given PYTHONHASHSEED.

    Args:
        trace: keep what the processes log, for people.
    """
    counts: Counter[str] = Counter()
    log: list[str] = []
    violations: list[str] = []
    stage = _Stage(plan, counts, violations, log if trace else None)
    with _logging(counts, log if trace else None, stage), _smaller(plan.shape.limits):
        try:
            play(stage.story(), lambda context: violations.append(f"asyncio: {_context(context)}"))
        except Stuck as error:
            violations.append(str(error))
    return stage.outcome(log)


def _context(context: dict[str, Any]) -> str:
    return f"{context.get('message')} {context.get('exception')!r}"


@contextmanager
def _smaller(constants: tuple[tuple[str, float], ...]) -> Iterator[None]:
    """Some limits made smaller, so that what takes a month or a megabyte happens within a run."""
    before = {name: getattr(limits, name) for name, _ in constants}
    try:
        for name, value in constants:
            setattr(limits, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(limits, name, value)


@contextmanager
def _logging(counts: Counter[str], kept: list[str] | None, stage: _Stage) -> Iterator[None]:
    """What processes log is counted, and kept if wanted."""
    before = structlog.get_config()

    def take(logger: Any, method: str, event: MutableMapping[str, Any]) -> Any:
        counts[f"log: {event['event']}"] += 1
        if kept is not None:
            rest = " ".join(f"{k}={v}" for k, v in event.items() if k != "event")
            kept.append(f"{stage.now():9.4f} {event['event']} {rest}")
        raise structlog.DropEvent

    structlog.configure(processors=[take], cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)


class _Stage:
    """The cluster, its people, and the order of things."""

    def __init__(self, plan: Plan, counts: Counter[str], violations: list[str], log: list[str] | None) -> None:
        self._plan, self._counts, self._violations, self._log = plan, counts, violations, log
        self._recorder: SimRecorder | None = None
        self._loop: SimLoop | None = None
        self.people: list[Person] = []
        self.talks: list[bytes] = []
        self._moved: dict[bytes, set[bytes]] = {}
        self._founders: dict[bytes, set[bytes]] = {}
        self._outsiders: dict[bytes, list[bytes]] = {}

    def now(self) -> float:
        return self._loop.time() - 1000.0 if self._loop else 0.0

    def _fail(self, sentence: str) -> None:
        if len(self._violations) < 50:
            self._violations.append(sentence)

    async def story(self) -> None:
        """Set up, live through it, heal, compare."""
        plan = self._plan
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        self._loop = loop
        world = World(loop, plan.seed, plan.shape, self._fail)
        nodes = {h.name: h.region for h in world.hosts()}
        cluster = Cluster(plan.shape.regions, nodes, plan.shape.shards)
        header = Header("simulation", "sim", plan.seed, "", cluster, Load(len(plan.users), 0.0, plan.seconds), {}, "")
        self._recorder = recorder = SimRecorder(header, loop.time)
        try:
            if await self._set_up(world):
                breaker = Breaker(world, plan, recorder, self.people, self._counts)
                await self._live(world, breaker)
                self._judge_waits(breaker)
                breaker.heal()
                await self._compare(world)
        finally:
            for person in self.people:
                if person.process is not None:
                    person.process.kill()
            world.close()
            self._counts.update(world.counts())

    async def _set_up(self, world: World) -> bool:
        assert self._recorder is not None
        world.start()
        self.people = [Person(world, user, self._recorder) for user in self._plan.users]
        try:
            async with asyncio.timeout(_SETUP_S):
                while not world.up():  # noqa: ASYNC110 else people would ask again and again, and be refused
                    await asyncio.sleep(_START_POLL_S)
                await asyncio.gather(*(person.join() for person in self.people))
                for person in self.people:
                    person.begin()
                await asyncio.gather(*(person.ready.wait() for person in self.people))
                self.talks = list(await asyncio.gather(*map(self._create, self._plan.talks)))
        except TimeoutError:
            self._fail("the cluster did not come up within a minute")
            return False
        self._moved = {scope: set() for scope in self.talks}
        for scope, talk in zip(self.talks, self._plan.talks, strict=True):
            self._founders[scope] = {self.people[n].account for n in talk}
            self._outsiders[scope] = [p.account for n, p in enumerate(self.people) if n not in talk]
        return True

    async def _create(self, members: tuple[int, ...]) -> bytes:
        maker, *others = (self.people[n] for n in members)
        assert maker.process is not None
        client = maker.up
        assert client is not None
        if len(others) == 1:
            created = await maker.process.start(client.direct(others[0].account, timeout=_SETUP_S))
        else:
            accounts = [p.account for p in others]
            created = await maker.process.start(client.create_group("group", accounts, timeout=_SETUP_S))
        return created.id

    async def _live(self, world: World, breaker: Breaker) -> None:
        """Acts and faults, each at its time."""
        plan = self._plan
        began = world.loop.time()
        todo: list[tuple[float, int, Any]] = [(a.at_s, n, a) for n, a in enumerate(plan.acts)]
        todo += [(at, 10_000_000 + n, step) for n, (at, step) in enumerate(breaker.steps())]
        accounts = [p.account for p in self.people]
        for at, _, what in sorted(todo, key=lambda one: one[:2]):
            await _until(world.loop, began + at)
            if callable(what):
                what()
            else:
                if what.what == "remove":
                    self._moved[self.talks[what.talk]].update(accounts)
                scope = self.talks[what.talk]
                self.people[what.who].do(what, scope, accounts, self._outsiders[scope])
        await _until(world.loop, began + plan.seconds)

    # ------------------------------------------------------------ the end

    def _judge_waits(self, breaker: Breaker) -> None:
        assert self._recorder is not None
        found = waits(self.people, breaker.troubles, self._recorder.now(), self._moved)
        for least in (1, 2, 4):
            self._counts[f"waits over {least} s"] += sum(one.until - one.since > least for _, one in found)
        for sentence in waited(found):
            self._fail(sentence)

    async def _compare(self, world: World) -> None:
        """Until everybody has answered and all replicas are equal; then what they show."""
        assert self._recorder is not None
        for person in self.people:
            if person.process is None or not person.process.alive:
                person.begin()
        if not await self._until_settled(world):
            return
        left = world.loop.time() + _SHOWN_S
        await asyncio.sleep(_QUIET_S)
        while (missing := self._unshown(world)) and world.loop.time() < left:  # noqa: ASYNC110 this time costs nothing
            await asyncio.sleep(_QUIET_S)
        for sentence in missing:
            self._fail(sentence)
        if await self._until_settled(world):  # receipts came meanwhile
            self._recorder.record_converged()
            self._record_finals(world)
            self._counts["same message in two entries"] += world.hosts()[0].in_two_entries()
            for sentence in (*unkept(self.people, world.hosts()), *residue(self.people, world.hosts())):
                self._fail(sentence)

    async def _until_settled(self, world: World) -> bool:
        left = world.loop.time() + _CONVERGE_S
        while why := self._unsettled(world):
            if world.loop.time() > left:
                assert self._recorder is not None
                self._recorder.record_converged(timed_out=True)
                self._fail(f"no convergence within {_CONVERGE_S:.0f} s: {why}")
                return False
            await asyncio.sleep(_POLL_S)
        return True

    def _unsettled(self, world: World) -> str:
        """Why the end has not come yet; empty when everybody has an answer and all replicas are equal."""
        hosts = world.hosts()
        for host in hosts:
            if not host.serves:
                return f"{host.name} does not serve"
            if host.disappearing():
                return f"{host.name} holds a message that is to disappear"
        for person in self.people:
            if person.up is None:
                return f"{person.name} is not connected"
            if person.open:
                return f"{person.name} waits for {len(person.open)} sends"
        vectors = [host.vector for host in hosts]
        for one, host in zip(vectors, hosts, strict=True):
            if not all(one.reaches(other) for other in vectors):
                return f"{host.name} is behind"
        digests = [host.digests() for host in hosts]
        return "" if all(one == digests[0] for one in digests) else "digests differ"

    def _record_finals(self, world: World) -> None:
        assert self._recorder is not None
        read: dict[tuple[bytes, str], list[Shown]] = {}
        thorough = self._plan.seed % _THOROUGH == 0
        for host in world.hosts():
            digests = host.digests()
            for scope in self.talks:
                digest = digests.get(scope, "")
                shown = read.get((scope, digest))
                if shown is None or thorough:
                    shown = read[scope, digest] = [shown_of(world.told_apart(m.event)) for m in host.messages(scope)]
                self._recorder.record_final(host.name, host.region, scope, shown, digest, host.vector)

    def _unshown(self, world: World) -> list[str]:
        assert self._recorder is not None
        host = world.hosts()[0]
        finals = {
            scope: [m._replace(event=world.told_apart(m.event)) for m in host.messages(scope)] for scope in self.talks
        }
        members = {scope: host.members(scope) for scope in self.talks}
        return list(unshown(self.people, finals, members, self._recorder.said_at, self._moved, self._founders))

    def outcome(self, log: list[str]) -> Outcome:
        """The verdict."""
        assert self._recorder is not None
        history = self._recorder.history()
        report = check(history)
        for violation in report.found:
            lines = ", ".join(map(str, violation.lines))
            self._fail(f"{violation.kind}: {violation.sentence} (lines {lines})")
        if not self._violations and report.verdict != "held":
            self._fail("; ".join(report.reasons))
        self._count(report.counts)
        digest = hashlib.sha256()
        for record in history.records:
            digest.update(repr(record).encode())
        digest.update(repr(self._violations).encode())
        return Outcome(self._plan.seed, self._violations, self._counts, digest.hexdigest(), history, log)

    def _count(self, counts: dict[str, int]) -> None:
        for name, number in counts.items():
            self._counts[name] += number
        for person in self.people:
            self._counts["hedged sends"] += person.hedges
            self._counts["late shown"] += person.late
            self._counts["parents given up"] += person.orphans
            self._counts["sends refused for now"] += person.kept


async def _until(loop: SimLoop, when: float) -> None:
    if when > loop.time():
        await asyncio.sleep(when - loop.time())
