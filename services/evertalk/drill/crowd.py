"""The people of a drill: registered in every region, connected, put into conversations, and made to talk."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack

from evertalk.client import Client, Endpoint, Registered, register, sign_in
from evertalk.core.errors import EvertalkError
from evertalk.core.transcript import Transcript
from evertalk.drill import replay, traffic
from evertalk.drill.people import Person, Tally, sentence_of
from evertalk.drill.plan import DrillFailed, Plan
from evertalk.drill.recorder import Recorder
from evertalk.ports import Transport

PASSWORD = "correct horse battery"
_REGISTER_AT_ONCE = 4
_PATIENCE_S = 60.0  # how long it took is told; a busy machine is no failure


class Crowd:
    """Everybody who talks in a run.

    Args:
        endpoints: every node as clients reach it.
    """

    def __init__(self, plan: Plan, endpoints: list[Endpoint], recorder: Recorder) -> None:
        self.plan = plan
        self.endpoints = endpoints
        self.people: list[Person] = []
        self.tally = Tally()
        self.scopes: list[bytes] = []
        self.readers: dict[bytes, str] = {}  # conversation -> access token of a member
        self._tokens: dict[bytes, str] = {}
        self._guests = 0
        self._recorder = recorder

    @property
    def open(self) -> int:
        """Sends of everybody that are not yet known to be replicated, nor failed."""
        return sum(len(p.open) for p in self.people)

    # ------------------------------------------------------------ arriving

    async def register(self) -> None:
        """Everybody gets an account, in turn in every region."""
        regions = [self.plan.regions[i % len(self.plan.regions)] for i in range(len(self._names()))]
        accounts = await self._register(list(zip(self._names(), regions, strict=True)))
        self._tokens = {account.account: account.token for account in accounts}
        self.people = [
            self._person(name, account.account, account.token, region)
            for name, account, region in zip(self._names(), accounts, regions, strict=True)
        ]

    async def register_more(self, number: int) -> list[Registered]:
        """So many accounts besides, whose sessions are somebody else's business."""
        region = self.plan.regions[0]
        return await self._register([(f"listener-{self.plan.seed}-{n}", region) for n in range(number)])

    async def _register(self, wanted: Sequence[tuple[str, str]]) -> list[Registered]:
        """(name, region) each; a few at once, for each costs a node a good deal."""
        slots = asyncio.Semaphore(_REGISTER_AT_ONCE)

        async def one(name: str, region: str) -> Registered:
            home = sorted(self.endpoints, key=lambda e: e.region != region)
            async with slots:
                return await register(home, name, PASSWORD, timeout=_PATIENCE_S)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(*each)) for each in wanted]
        return [task.result() for task in tasks]

    async def connect(self, clients: AsyncExitStack) -> None:
        """Everybody's client is entered into the stack."""
        async with asyncio.TaskGroup() as group:
            for person in self.people:
                group.create_task(clients.enter_async_context(person.client))

    async def make_talks(self) -> None:
        """The conversations of the plan."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._make(talk)) for talk in self._talks()]
        self.scopes = [task.result() for task in tasks]

    async def _make(self, talk: traffic.Talk) -> bytes:
        maker, others = self.people[talk.people[0]], [self.people[i] for i in talk.people[1:]]
        client: Client = maker.client
        if talk.title:
            made = await client.create_group(talk.title, [p.account for p in others])
        else:
            made = await client.direct(others[0].account)
        for person in (maker, *others):
            person.talks.append(made.id)
        self.readers[made.id] = self._tokens[maker.account]
        return made.id

    def _person(self, name: str, account: bytes, token: str, region: str) -> Person:
        return Person(name, account, token, self.endpoints, region, self._recorder, self.tally, self.plan.seed)

    def _names(self) -> list[str]:
        if self.plan.transcript is not None:
            return [f"speaker{i + 1}" for i in range(len(replay.speakers(self.plan.transcript)))]
        return [traffic.name_of(i) for i in range(self.plan.users)]

    def _talks(self) -> list[traffic.Talk]:
        if self.plan.transcript is not None:
            title = self.plan.transcript.title or "transcript"
            return [traffic.Talk(title[:80], tuple(range(len(self.people))))]
        return traffic.talks(len(self.people), self.plan.seed)

    async def make_group(self, host: Person, title: str, others: Sequence[bytes]) -> bytes:
        """A group of a person with any accounts; it is read from every replica at the end, as all others are."""
        made = await host.client.create_group(title, others, timeout=None)
        host.talks.append(made.id)
        self.scopes.append(made.id)
        self.readers[made.id] = self._tokens[host.account]
        return made.id

    # ------------------------------------------------------------ talking

    async def talk(self, began: float) -> None:
        """Open loop: every turn at its time, whether earlier ones were answered or not.

        Args:
            began: monotonic time of the start of the load.
        """
        plan = self.plan
        if plan.transcript is not None:
            await self._play(plan.transcript, began)
            return
        for turn in traffic.turns(self._talks(), plan.rate, plan.seconds, plan.seed):
            due = began + turn.at_s
            if (ahead := due - time.monotonic()) > 0:
                await asyncio.sleep(ahead)
            await self.people[turn.person].take(turn, self.scopes[turn.talk])

    async def _play(self, transcript: Transcript, began: float) -> None:
        seen = replay.Seen()
        for person in self.people:
            person.on_shown = seen.note
        cast = dict(zip(replay.speakers(transcript), self.people, strict=True))
        await replay.play(transcript, cast, self.scopes[0], seen, began, self.plan.seconds)

    async def drained(self, timeout_s: float) -> int:
        """Until nobody has an open send; returns how many are left when time is up."""
        waits: list[Awaitable[object]] = [p.client.drained() for p in self.people]
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*waits)
        except TimeoutError:
            pass
        return self.open

    # ------------------------------------------------------------ proofs

    async def prove_life_without(self, *dead: str) -> float:
        """In a surviving region somebody of a dead one signs in, somebody new registers, and they talk; seconds taken.

        Raises:
            DrillFailed: they could not.
        """
        began = time.monotonic()
        alive = [e for e in self.endpoints if e.region not in dead]
        host = next(p for p in self.people if p.region == dead[0])
        name = f"guest-{self.plan.seed}-{self._guests}"
        self._guests += 1
        try:
            await sign_in(alive, host.name, PASSWORD, timeout=_PATIENCE_S)
            guest = await register(alive, name, PASSWORD, timeout=_PATIENCE_S)
            person = self._person(name, guest.account, guest.token, alive[0].region)
            async with person.client as chat:
                made = await chat.create_group("started while a region was down", [host.account])
                person.talks.append(made.id)
                self.scopes.append(made.id)
                self.readers[made.id] = guest.token
                await chat.send(made.id, "we are still here")
            self._recorder.record_gone(person.name, person.client.session)
        except (EvertalkError, TimeoutError) as error:
            down = " and ".join(dead)
            raise DrillFailed(f"with {down} down nobody could sign in or talk: {sentence_of(error)}") from error
        return time.monotonic() - began

    async def compare_with(self, transcript: Transcript, transport: Transport, region: str, shards: int) -> int:
        """The conversation as a region shows it must equal the file; returns its number of messages.

        Raises:
            ReplayFailed
        """
        names = dict(zip((p.account for p in self.people), replay.speakers(transcript), strict=True))
        scope = self.scopes[0]
        address = next(e.address for e in self.endpoints if e.region == region)
        token = self.readers[scope]
        found = await replay.read_back(transport, address, token, scope, shards, lambda a: names.get(a, "?"))
        if wrong := replay.difference(transcript.lines, found):
            raise replay.ReplayFailed(f"read back from {region}, the conversation is not the file: {wrong}")
        return len(found)
