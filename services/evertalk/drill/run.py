"""One run of a drill: cluster up, people in, load, faults, return, equal digests, final reads, certificate."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections import deque
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evertalk.adapters.grpc_transport import GrpcTransport
from evertalk.client import Client, Endpoint, register, sign_in
from evertalk.cluster.layout import Options
from evertalk.cluster.processes import ProcessCluster
from evertalk.console.status import Operator, Place
from evertalk.core import history
from evertalk.core.errors import EvertalkError
from evertalk.core.transcript import Transcript
from evertalk.drill import bounds, finals, replay, traffic
from evertalk.drill.certificate import write_certificate
from evertalk.drill.drills import Drill
from evertalk.drill.people import Person, Tally, sentence_of
from evertalk.drill.recorder import Recorder
from evertalk.drill.view import RegionView, Snapshot, View

PASSWORD = "correct horse battery"
_REGISTER_AT_ONCE = 4
_SETTLE_S = 60.0
_EQUAL_S = 60.0
_SHOW_S = 0.25
_GAUGE_S = 2.0


class DrillFailed(EvertalkError):
    """A drill could not be carried out to its end; the sentence says where it stopped."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run."""

    drill: Drill
    out: Path
    users: int = 40
    rate: float = 200.0
    seconds: float = 40.0
    seed: int = 1
    lose_disks: bool = False
    transcript: Transcript | None = None
    regions: tuple[str, ...] = ("seoul", "busan")
    nodes_per_region: int = 2
    shards: int = 4


class Run:
    """State of one run; drills script it through the verbs."""

    def __init__(self, plan: Plan, view: View) -> None:
        self.plan = plan
        self.view = view
        self.regions = plan.regions
        self.people: list[Person] = []
        self.tally = Tally()
        self.scopes: list[bytes] = []
        self.cluster: ProcessCluster
        self.operator: Operator
        self.recorder: Recorder
        self.transport = GrpcTransport()
        self._began = 0.0
        self._load_began = 0.0
        self._down: set[str] = set()
        self._phase = "starting"
        self._readers: dict[bytes, str] = {}
        self._tokens: dict[bytes, str] = {}
        self.gauges: list[bounds.Gauge] = []

    # ------------------------------------------------------------ verbs for scripts

    async def until(self, share: float) -> None:
        """Until this share of the load has passed."""
        due = self._load_began + share * self.plan.seconds
        await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def kill_region(self, name: str) -> None:
        """SIGKILL for every process of a region; with --lose-disks its data goes too."""
        effect = "lost" if self.plan.lose_disks else "crash"
        self.say(f"SIGKILL: every process of {name}")
        self._down.add(name)
        self.recorder.record_fault("kill", name, effect)
        await self.cluster.region(name).kill()
        if self.plan.lose_disks:
            await self.cluster.region(name).lose_disks()
            self.say(f"{name}'s data directories are gone")

    async def return_region(self, name: str) -> None:
        """Start it again; it serves once it has caught up."""
        self.say(f"{name} starts again" + (" with empty disks" if self.plan.lose_disks else ""))
        since = time.monotonic()
        await self.cluster.region(name).start()
        self._down.discard(name)
        self.recorder.record_returned(name)
        self.say(f"{name} serves again, {time.monotonic() - since:.1f} s after its start")

    async def prove_life_without(self, dead: str) -> None:
        """In the surviving region: somebody new registers, somebody of the dead region signs in, they talk."""
        began = time.monotonic()
        alive = [e for e in self.endpoints() if e.region != dead]
        host = next(p for p in self.people if p.region == dead)
        try:
            await sign_in(alive, host.name, PASSWORD)
            guest = await register(alive, f"guest-{self.plan.seed}", PASSWORD)
            person = self._person(f"guest-{self.plan.seed}", guest.account, guest.token, alive[0].region)
            async with person.client as chat:
                made = await chat.create_group("started while a region was down", [host.account])
                person.talks.append(made.id)
                self.scopes.append(made.id)
                self._readers[made.id] = guest.token
                await chat.send(made.id, "we are still here")
            self.recorder.record_gone(person.name, person.client.session)
        except (EvertalkError, TimeoutError) as error:
            raise DrillFailed(f"with {dead} down nobody could sign in or talk: {sentence_of(error)}") from error
        took = time.monotonic() - began
        self.recorder.record_gauge("new_user_and_conversation_s", round(took, 3), dead)
        self.say(f"with {dead} down: a sign-in, a new user and a new conversation, {took:.1f} s")

    def must_be_bounded(self, cap: int) -> None:
        """No stream may have grown beyond its cap, and no process much in the second half of the load (P8).

        Raises:
            DrillFailed
        """
        grown = bounds.grown(self.gauges, self._load_began - self._began, self.now())
        for name, (half, end) in grown.items():
            self.say(f"memory of {name}: {half / 1e6:.1f} MB at half time, {end / 1e6:.1f} MB at the end")
        largest = bounds.largest_stream(self.gauges)
        self.say(f"largest stream of any Redis: {largest / 1024:.0f} KB, its cap is {cap / 1024:.0f} KB")
        if wrong := bounds.wrong(grown, largest, cap):
            raise DrillFailed(wrong)

    def say(self, line: str) -> None:
        """Tell whoever watches."""
        self.view.say(f"{self.now():6.1f} s  {line}")

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    def endpoints(self) -> list[Endpoint]:
        """Where clients go."""
        return [Endpoint(e.region, e.address) for e in self.cluster.file.endpoints]

    # ------------------------------------------------------------ the run

    async def execute(self) -> dict[str, Any]:
        """Run it all; returns the certificate.

        Raises:
            DrillFailed, EvertalkError: it did not come to its end.
        """
        self._began = time.monotonic()
        plan = self.plan
        plan.out.mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            self.say(f"starting {len(plan.regions)} regions of {plan.nodes_per_region} nodes each")
            self.cluster = await stack.enter_async_context(
                await ProcessCluster.create(
                    plan.out / "cluster",
                    plan.regions,
                    plan.nodes_per_region,
                    plan.shards,
                    plan.seed,
                    Options(env=dict(plan.drill.env)),
                )
            )
            self.say(f"Redis-compatible server: {self.cluster.file.redis_server}")
            file = self.cluster.file
            self.operator = Operator([Place(e.region, e.node, e.address) for e in file.endpoints], dict(file.keys))
            stack.push_async_callback(self.operator.close)
            self._down.clear()
            self.recorder = Recorder(self._header())
            async with asyncio.TaskGroup() as watching:
                loops = [watching.create_task(self._show()), watching.create_task(self._gauge())]
                try:
                    await self._people_and_load()
                finally:
                    for loop in loops:
                        loop.cancel()
            self._phase = "checking"
        return await asyncio.to_thread(self._certify)

    def _certify(self) -> dict[str, Any]:
        self.recorder.close(self.plan.out)
        return dict(write_certificate(self.plan.out))

    async def _people_and_load(self) -> None:
        plan = self.plan
        self._phase = "people arrive"
        await self._register()
        async with AsyncExitStack() as clients:
            await self._connect(clients)
            await self._make_talks()
            async with asyncio.TaskGroup() as group:
                listening = [group.create_task(p.listen()) for p in self.people]
                listening += [group.create_task(p.read_back(self.recorder.now)) for p in self.people]
                self._phase = "people talk"
                self.say(f"{len(self.people)} people in {len(self.scopes)} conversations begin to talk")
                self._load_began = time.monotonic()
                script = group.create_task(plan.drill.script(self))
                await self._load()
                await script
                if plan.drill.after is not None:
                    await plan.drill.after(self)
                await self._settle()
                for task in listening:
                    task.cancel()
        # Everybody has left: nothing new is said, not even receipts, while replicas are compared.
        await self._compare_replicas()
        if plan.transcript is not None:
            await self._compare(plan.transcript)

    # ------------------------------------------------------------ people

    def _person(self, name: str, account: bytes, token: str, region: str) -> Person:
        return Person(name, account, token, self.endpoints(), region, self.recorder, self.tally, self.plan.seed)

    async def _register(self) -> None:
        slots = asyncio.Semaphore(_REGISTER_AT_ONCE)
        names = self._names()

        async def one(index: int, name: str) -> Person:
            region = self.regions[index % len(self.regions)]
            home = sorted(self.endpoints(), key=lambda e: e.region != region)
            async with slots:
                account = await register(home, name, PASSWORD)
            self._tokens[account.account] = account.token
            return self._person(name, account.account, account.token, region)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(i, name)) for i, name in enumerate(names)]
        self.people = [task.result() for task in tasks]
        self.say(f"{len(self.people)} people registered, in every region")

    def _names(self) -> list[str]:
        if self.plan.transcript is not None:
            return [f"speaker{i + 1}" for i in range(len(replay.speakers(self.plan.transcript)))]
        return [traffic.name_of(i) for i in range(self.plan.users)]

    def _talks(self) -> list[traffic.Talk]:
        if self.plan.transcript is not None:
            title = self.plan.transcript.title or "transcript"
            return [traffic.Talk(title[:80], tuple(range(len(self.people))))]
        return traffic.talks(len(self.people), self.plan.seed)

    async def _connect(self, clients: AsyncExitStack) -> None:
        async with asyncio.TaskGroup() as group:
            for person in self.people:
                group.create_task(clients.enter_async_context(person.client))

    async def _make_talks(self) -> None:
        async def one(talk: traffic.Talk) -> bytes:
            maker, others = self.people[talk.people[0]], [self.people[i] for i in talk.people[1:]]
            client: Client = maker.client
            if talk.title:
                made = await client.create_group(talk.title, [p.account for p in others])
            else:
                made = await client.direct(others[0].account)
            for person in (maker, *others):
                person.talks.append(made.id)
            self._readers[made.id] = self._tokens[maker.account]
            return made.id

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(talk)) for talk in self._talks()]
        self.scopes = [task.result() for task in tasks]

    # ------------------------------------------------------------ load

    async def _load(self) -> None:
        """Open loop: every turn at its time, whether earlier ones were answered or not."""
        plan = self.plan
        if plan.transcript is not None:
            await self._play(plan.transcript)
            return
        for turn in traffic.turns(self._talks(), plan.rate, plan.seconds, plan.seed):
            due = self._load_began + turn.at_s
            if (ahead := due - time.monotonic()) > 0:
                await asyncio.sleep(ahead)
            await self.people[turn.person].take(turn, self.scopes[turn.talk])

    async def _play(self, transcript: Transcript) -> None:
        seen = replay.Seen()
        for person in self.people:
            person.on_shown = seen.note
        cast = dict(zip(replay.speakers(transcript), self.people, strict=True))
        await replay.play(transcript, cast, self.scopes[0], seen, self._load_began, self.plan.seconds)

    async def _compare(self, transcript: Transcript) -> None:
        """The conversation as each region shows it must equal the file."""
        names = dict(zip((p.account for p in self.people), replay.speakers(transcript), strict=True))
        file, scope = self.cluster.file, self.scopes[0]
        for region in self.regions:
            address = next(e.address for e in file.endpoints if e.region == region)
            token = self._readers[scope]
            found = await replay.read_back(
                self.transport, address, token, scope, file.shards, lambda a: names.get(a, "?")
            )
            if wrong := replay.difference(transcript.lines, found):
                raise replay.ReplayFailed(f"read back from {region}, the conversation is not the file: {wrong}")
            self.say(f"read back from {region}: all {len(found)} messages as in the file, in order")

    # ------------------------------------------------------------ the end

    async def _settle(self) -> None:
        """Until every send is answered for good."""
        self.say("the load has ended; waiting for every send to be replicated")
        open_ = await _all_drained(self.people, _SETTLE_S)
        if open_:
            self.say(f"{open_} sends are still not known to be replicated")

    async def _compare_replicas(self) -> None:
        """Until all replicas are equal; then read every one of them."""
        self._phase = "waiting for equal digests"
        nodes = [e.node for e in self.cluster.file.endpoints]
        equal = await finals.wait_until_equal(self.operator, nodes, _EQUAL_S)
        self.recorder.record_converged(timed_out=not equal)
        self.say("all replicas have equal digests" if equal else "the replicas did NOT become equal")
        self._phase = "reading every replica"
        file = self.cluster.file
        await finals.record_finals(
            self.recorder, self.operator, self.transport, file.endpoints, self._readers, file.shards
        )
        self.say("every conversation was read from every replica")

    # ------------------------------------------------------------ watching

    async def _show(self) -> None:
        seen: deque[tuple[float, int]] = deque(maxlen=12)
        while True:
            tally, now = self.tally, self.now()
            seen.append((now, tally.invoked))
            span = seen[-1][0] - seen[0][0]
            snapshot = Snapshot(
                self._phase,
                now,
                self.plan.seconds + (self._load_began - self._began if self._load_began else 10),
                {r: self._region_view(r) for r in self.regions},
                sum(1 for p in self.people if p.where),
                len(self.people),
                (seen[-1][1] - seen[0][1]) / span if span else 0.0,
                tally.accepted,
                tally.replicated,
                tally.delivered,
                sum(len(p.open) for p in self.people),
                sum(tally.replication_ms) / len(tally.replication_ms) if tally.replication_ms else None,
            )
            self.view.show(snapshot)
            await asyncio.sleep(_SHOW_S)

    def _region_view(self, name: str) -> RegionView:
        region = self.cluster.region(name)
        up = sum(1 for node in region.nodes.values() if node.alive)
        serving = up if name not in self._down else 0
        clients = sum(1 for p in self.people if p.where == name)
        return RegionView(name, up > 0, serving, len(region.nodes), clients)

    async def _gauge(self) -> None:
        while True:
            for name, rss in self.cluster.rss().items():
                if rss is not None:
                    self._note("rss_bytes", rss, name)
            look = await self.operator.ask_all()
            for region in self.regions:
                answer = next((a for a in look.answers.values() if a.region == region and a.log_reachable), None)
                if answer is not None:
                    streams = answer.streams
                    self._note("stream_bytes_max", max((s.bytes for s in streams), default=0), region)
                    self._note("stream_bytes_all", sum(s.bytes for s in streams), region)
            await asyncio.sleep(_GAUGE_S)

    def _note(self, name: str, value: float, target: str) -> None:
        self.recorder.record_gauge(name, value, target)
        self.gauges.append(bounds.Gauge(self.now(), name, value, target))

    def _header(self) -> history.Header:
        plan, file = self.plan, self.cluster.file
        return history.Header(
            plan.drill.name + (" --lose-disks" if plan.lose_disks else ""),
            file.driver,
            plan.seed,
            commit(),
            history.Cluster(tuple(plan.regions), {e.node: e.region for e in file.endpoints}, plan.shards),
            history.Load(plan.users, plan.rate, plan.seconds, "transcript" if plan.transcript else "people"),
            {},
            datetime.now(UTC).isoformat(timespec="seconds"),
        )


async def _all_drained(people: Sequence[Person], timeout_s: float) -> int:
    """Until nobody has an open send; returns how many are left when time is up."""
    waits: list[Awaitable[object]] = [p.client.drained() for p in people]
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.gather(*waits)
    except TimeoutError:
        pass
    return sum(len(p.open) for p in people)


def commit() -> str:
    """The commit that runs, "+" behind it if the tree was changed; "unknown" outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return found.stdout.strip()
