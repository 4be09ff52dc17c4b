"""One run of a drill: cluster up, people in, load, faults, return, equal digests, final reads, certificate."""

from __future__ import annotations

import asyncio
import subprocess
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evertalk.adapters.grpc_transport import GrpcTransport
from evertalk.client import Endpoint
from evertalk.cluster import drivers
from evertalk.cluster.verbs import Cluster
from evertalk.console.status import Operator, Place
from evertalk.core import history
from evertalk.drill import finals
from evertalk.drill.certificate import write_certificate
from evertalk.drill.crowd import Crowd
from evertalk.drill.faults import Faults
from evertalk.drill.plan import DrillFailed, Plan
from evertalk.drill.recorder import Recorder
from evertalk.drill.view import View
from evertalk.drill.watching import Watching

_SETTLE_S = 60.0
_EQUAL_S = 60.0
_REDUNDANT_S = 30.0
_HOME_S = 120.0
_POLL_S = 0.25


class Run:
    """State of one run. Drills script it with `faults` and what stands under "for scripts"."""

    def __init__(self, plan: Plan, view: View) -> None:
        self.plan = plan
        self.view = view
        self.regions = plan.regions
        self.cluster: Cluster
        self.faults: Faults
        self.crowd: Crowd
        self.operator: Operator
        self.recorder: Recorder
        self.watching: Watching
        self._transport = GrpcTransport()
        self._began = 0.0
        self._load_began = 0.0

    # ------------------------------------------------------------ for scripts

    async def until(self, share: float) -> None:
        """Until this share of the load has passed."""
        due = self._load_began + share * self.plan.seconds
        await asyncio.sleep(max(0.0, due - time.monotonic()))

    def share(self) -> float:
        """Share of the load that has passed."""
        return (time.monotonic() - self._load_began) / self.plan.seconds

    async def prove_life_without(self, *dead: str) -> None:
        """In a surviving region: somebody new registers, somebody of the dead region signs in, they talk.

        Raises:
            DrillFailed
        """
        took = await self.crowd.prove_life_without(*dead)
        down = " and ".join(dead)
        self.note("new_user_and_conversation_s", took, down)
        self.say(f"with {down} down: a sign-in, a new user and a new conversation, {took:.1f} s")

    async def until_redundant(self, *dead: str) -> None:
        """Until all that the living regions know of is durable in enough of them: then another one may fall (P1).

        Raises:
            DrillFailed: not within 30 s.
        """
        since = time.monotonic()
        while True:
            found = (await self.operator.look(without=dead)).redundancy
            took = time.monotonic() - since
            if found.whole:
                self.say(f"the regions left are redundant among themselves, after {took:.1f} s")
                return
            if took > _REDUNDANT_S:
                raise DrillFailed(f"without {' and '.join(dead)} redundancy did not become whole: {found.reasons[0]}")

    async def until_serving(self, region: str) -> None:
        """Until every node of a region serves."""
        for node in self.cluster.region(region).nodes.values():
            await node.start()  # it lives: this only waits until it is ready

    def must_be_elsewhere(self, region: str) -> None:
        """Nobody may be served by a region that was drained.

        Raises:
            DrillFailed
        """
        if there := [p.name for p in self.crowd.people if p.where == region]:
            raise DrillFailed(f"{region} was drained, and {', '.join(there)} are still there")

    async def until_home(self, region: str) -> None:
        """Until everybody whose region this is is served by it again.

        Raises:
            DrillFailed: somebody is not within two minutes.
        """
        since = self.now()
        while astray := [p.name for p in self.crowd.people if p.region == region and p.where != region]:
            if self.now() - since > _HOME_S:
                raise DrillFailed(f"{len(astray)} people of {region} have not come home: {', '.join(astray[:5])}")
            await asyncio.sleep(_POLL_S)
        self.say(f"everybody of {region} has come home")

    def must_be_bounded(self, cap: int) -> None:
        """No stream may have grown beyond its cap, and no process much in the second half of the load (P8).

        Raises:
            DrillFailed
        """
        self.watching.must_be_bounded(cap, self.say)

    def note(self, name: str, value: float, target: str) -> None:
        """Keep a figure in the history."""
        self.recorder.record_gauge(name, round(value, 3), target)

    def say(self, line: str) -> None:
        """Tell whoever watches."""
        self.view.say(f"{self.now():6.1f} s  {line}")

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    # ------------------------------------------------------------ the run

    async def execute(self) -> dict[str, Any]:
        """Run it all; returns the certificate.

        Raises:
            DrillFailed, EvertalkError: it did not come to its end.
        """
        self._began = time.monotonic()
        plan = self.plan
        if len(plan.regions) < plan.drill.regions:
            raise DrillFailed(f"{plan.drill.name} needs {plan.drill.regions} regions: name them with --regions")
        plan.out.mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            await self._start(stack)
            async with asyncio.TaskGroup() as group:
                loops = [group.create_task(self.watching.show()), group.create_task(self.watching.measure())]
                try:
                    await self._people_and_load()
                finally:
                    for loop in loops:
                        loop.cancel()
        return await asyncio.to_thread(self._certify)

    async def _start(self, stack: AsyncExitStack) -> None:
        plan = self.plan
        self.say(f"starting {len(plan.regions)} regions of {plan.nodes_per_region} nodes each")
        self.cluster = await stack.enter_async_context(
            await drivers.create(
                plan.driver,
                plan.out / "cluster",
                plan.regions,
                plan.nodes_per_region,
                plan.shards,
                plan.seed,
                dict(plan.drill.env),
            )
        )
        file = self.cluster.file
        self.say(f"Redis-compatible server: {file.redis_server}")
        self.operator = Operator([Place(e.region, e.node, e.address) for e in file.endpoints], dict(file.keys))
        stack.push_async_callback(self.operator.close)
        self.recorder = Recorder(self._header())
        self.crowd = Crowd(plan, [Endpoint(e.region, e.address) for e in file.endpoints], self.recorder)
        self.faults = Faults(self.cluster, self.recorder, self.say)
        self.watching = Watching(
            self.view, self.cluster, self.crowd, self.faults, self.operator, self.recorder, self._began
        )

    def _certify(self) -> dict[str, Any]:
        self.recorder.close(self.plan.out)
        self.recorder.forget()
        return dict(write_certificate(self.plan.out))

    async def _people_and_load(self) -> None:
        plan, crowd = self.plan, self.crowd
        await crowd.register()
        self.say(f"{len(crowd.people)} people registered, in every region")
        async with AsyncExitStack() as clients:
            await crowd.connect(clients)
            await crowd.make_talks()
            async with asyncio.TaskGroup() as group:
                listening = [group.create_task(p.listen()) for p in crowd.people]
                listening += [group.create_task(p.read_back(self.recorder.now)) for p in crowd.people]
                self.watching.phase = "people talk"
                self.say(f"{len(crowd.people)} people in {len(crowd.scopes)} conversations begin to talk")
                self._load_began = self.watching.load_began = time.monotonic()
                script = group.create_task(plan.drill.script(self))
                await crowd.talk(self._load_began)
                await script
                if plan.drill.after is not None:
                    await plan.drill.after(self)
                self.say("the load has ended; waiting for every send to be replicated")
                if left := await crowd.drained(_SETTLE_S):
                    self.say(f"{left} sends are still not known to be replicated")
                for task in listening:
                    task.cancel()
        # Everybody has left: nothing new is said, not even receipts, while replicas are compared.
        await self._compare_replicas()
        for sentence in self.cluster.fallen:
            self.say(sentence)
        if plan.transcript is not None:
            for region in self.regions:
                number = await crowd.compare_with(plan.transcript, self._transport, region, plan.shards)
                self.say(f"read back from {region}: all {number} messages as in the file, in order")

    async def _compare_replicas(self) -> None:
        """Until all replicas are equal; then read every one of them."""
        self.watching.phase = "waiting for equal digests"
        file = self.cluster.file
        equal = await finals.wait_until_equal(self.operator, [e.node for e in file.endpoints], _EQUAL_S)
        self.recorder.record_converged(timed_out=not equal)
        self.say("all replicas have equal digests" if equal else "the replicas did NOT become equal")
        self.watching.phase = "reading every replica"
        await finals.record_finals(
            self.recorder, self.operator, self._transport, file.endpoints, self.crowd.readers, file.shards
        )
        self.say("every conversation was read from every replica")

    def _header(self) -> history.Header:
        plan, file = self.plan, self.cluster.file
        limits = {"gap_p99_ms": plan.drill.gap_ms}
        if plan.drill.converged_s is not None:
            limits["converged_s"] = plan.drill.converged_s
        return history.Header(
            plan.drill.name + (" --lose-disks" if plan.lose_disks else ""),
            file.driver,
            plan.seed,
            commit(),
            history.Cluster(tuple(plan.regions), {e.node: e.region for e in file.endpoints}, plan.shards),
            history.Load(plan.users, plan.rate, plan.seconds, "transcript" if plan.transcript else "people"),
            limits,
            datetime.now(UTC).isoformat(timespec="seconds"),
        )


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


__all__ = ["DrillFailed", "Plan", "Run", "commit"]
