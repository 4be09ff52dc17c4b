"""Simulated people: each one real SDK client in a process that can die, with an application that keeps what it took."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from evertalk.client import Client, Created, Notice, What
from evertalk.client.accounts import register
from evertalk.core.errors import Code, NotReplicated, PeerUnavailable, Refused
from evertalk.core.model import Applied, Durability, Event, Kind, Target
from evertalk.drill.recorder import Recorder
from evertalk.sim.disk import SimOutbox
from evertalk.sim.network import CLIENTS
from evertalk.sim.own import SimClock, SimIds
from evertalk.sim.plan import Act, User
from evertalk.sim.process import Process
from evertalk.sim.rpc import SimTransport
from evertalk.sim.world import World

_PASSWORD = "a long password"
_START_S = 60.0
_BRING_S = 5.0
_REMEMBERED = 20
_LONG_CHARS = 14_000
_WAIT_S = 0.5  # shorter waits for an acknowledgement are not kept


class Wait(NamedTuple):
    """A time without an acknowledgement while a message waited for one; `denied`: without leave to hedge (R7)."""

    since: float
    until: float
    denied: bool


@dataclass
class Run:
    """One life of one client's session, for what it should have been shown. `since` is when it first stood."""

    session: bytes
    since: float = -1.0
    shown: set[bytes] = field(default_factory=set)
    over: bool = False


class Pen:
    """The Ids of one client; its next message may bear an id that is somebody else's."""

    def __init__(self, ids: SimIds) -> None:
        self._ids = ids
        self.next_id = b""

    def uuid7(self) -> bytes:
        found, self.next_id = self.next_id or self._ids.uuid7(), b""
        return found

    def ulid(self) -> str:
        return self._ids.ulid()

    def token(self, size: int) -> bytes:
        return self._ids.token(size)

    def random(self) -> float:
        return self._ids.random()


class Person:
    """One user. `begin` starts its client, `crash` kills it; acts come from outside.

    Args:
        recorder: takes down what the application asks and is told.
    """

    def __init__(self, world: World, user: User, recorder: Recorder) -> None:
        self.world, self.user, self.name = world, user, user.name
        self._recorder = recorder
        self._clock = SimClock(world.loop)
        self._token = b""
        self._outbox = SimOutbox() if user.keeps == "all" else None
        self.account = b""
        self.access = ""
        self.client: Client | None = None
        self._pen: Pen | None = None
        self.process: Process | None = None
        self.runs: list[Run] = []
        self._mine: dict[bytes, deque[Target]] = {}
        self._theirs: dict[bytes, deque[Target]] = {}
        self.open: set[bytes] = set()
        self.hedges = self.late = self.orphans = self.kept = 0
        self.met: dict[bytes, Created] = {}  # direct conversations, by the other account
        self.brought: dict[bytes, Durability] = {}  # accounts registered during the run, and how durable by the answer
        self.said: dict[bytes, list[str]] = {}  # message -> every text that it had
        self.whispers: set[bytes] = set()  # messages that disappear by themselves
        self.accepted: set[bytes] = set()
        self.waits: list[Wait] = []
        self._denied = 0
        self.unanswered: dict[bytes, tuple[float, bytes]] = {}  # message -> when it was said, and where
        self.acked_at = 0.0
        self.ready = asyncio.Event()

    # ------------------------------------------------------------ life

    async def join(self) -> None:
        """Register, from the home region, until it works."""
        process = self.world.process(f"{self.name}-register", CLIENTS)
        ids = self.world.ids(self.name, self._clock)
        registered = await process.start(
            register(
                self.world.endpoints, self.name, _PASSWORD, region=self.user.home, timeout=_START_S,
                transport=SimTransport(process, self.world.board), clock=self._clock, ids=ids,
            )
        )  # fmt: skip
        self.account, self.access = registered.account, registered.token
        process.kill()

    def begin(self) -> None:
        """Start the client: anew, or from what the application kept."""
        process = self.process = self.world.process(self.name, CLIENTS)
        self.ready = asyncio.Event()
        process.start(self._live(process))

    async def _live(self, process: Process) -> None:
        if self._outbox is not None:
            self._outbox.process = process
            self.open &= self._outbox.ids()  # of others the application had not been told that they were kept
        self._pen = Pen(self.world.ids(self.name, self._clock))
        client = Client(
            self.world.endpoints, region=self.user.home, handle=self.name, password=_PASSWORD,
            access_token=self.access, outbox=self._outbox, token=self._token or None, receipts=self.user.receipts,
            start_timeout=_START_S, clock=self._clock, ids=self._pen,
            transport=SimTransport(process, self.world.board), watch=self.watch,
        )  # fmt: skip
        self.client = client
        try:
            async with client:
                await self._listen(client)
        except PeerUnavailable:
            if process.alive:
                process.start(self._live(process))  # nobody served for a minute: the application tries again

    async def _listen(self, client: Client) -> None:
        async for happening in client.events():
            if isinstance(happening, Applied):
                told = self.world.told_apart(happening.event)
                self._recorder.record_delivery(self.name, client.session, happening._replace(event=told))
                self.late += happening.late
                self.orphans += happening.parent_missing
                if self.runs:
                    self.runs[-1].shown.add(told.id)
                if happening.event.kind == Kind.MESSAGE and told.id == happening.event.id:
                    _remember(happening.event, self._theirs)
            if self._outbox is not None:
                self._token = client.token()  # committed with what the application made of it

    def crash(self) -> None:
        """Its process dies. Who keeps all goes on with the same session; nobody may see the difference."""
        process, client = self.process, self.client
        if process is None or client is None or not process.alive:
            return
        process.kill()
        self.unanswered.clear()
        if self._outbox is None:
            if self.runs:
                self._recorder.record_gone(self.name, client.session)
                self.runs[-1].over = True
            self.open.clear()
            self._mine.clear()  # what the application knew went with it: a reply out of nowhere has no cause
            self._theirs.clear()
        self.client = None

    @property
    def up(self) -> Client | None:
        """The client, if its process lives and it has had a stream."""
        alive = self.process is not None and self.process.alive
        return self.client if alive and self.ready.is_set() else None

    # ------------------------------------------------------------ what the SDK says

    def watch(self, notice: Notice) -> None:
        """Takes down every step."""
        if self.process is None or not self.process.alive:
            return
        recorder, name = self._recorder, self.name
        id = self.world.copies.get((self.account, notice.id), notice.id)
        match notice.what:
            case What.INVOKED if notice.event is not None:
                self.open.add(notice.id)
                if notice.event.kind == Kind.MESSAGE:
                    self._denied = self._denied if self.unanswered else self._denials()
                    self.unanswered[notice.id] = recorder.now(), notice.event.scope
                recorder.record_send(name, self.world.told_apart(notice.event))
                if notice.event.expires_at_ms:
                    self._record_whisper(notice.event)
            case What.ACCEPTED:
                self.accepted.add(notice.id)
                self._acked(notice.id)
                recorder.record_accepted(
                    name, id, notice.origin, notice.shard, notice.position, notice.node, notice.region
                )
            case What.REPLICATED:
                self.open.discard(notice.id)
                recorder.record_told(name, id, "replicated")
            case What.REFUSED | What.UNKNOWN:
                self.open.discard(notice.id)
                self.unanswered.pop(notice.id, None)
                outcome = "failed" if notice.what is What.REFUSED else "unknown"
                recorder.record_told(name, id, outcome, notice.code.name)
            case What.KEPT:
                self.kept += 1
                if notice.code is Code.NOT_YET:  # an answer; what is behind it in its conversation waits for the same
                    self.unanswered.clear()
            case What.RELEASED:
                self.open.discard(notice.id)
                recorder.record_told(name, id, "released")
            case What.CONNECTED | What.MOVED:
                self._connected()
                recorder.record_connected(name, notice.region, notice.node)
            case What.DISCONNECTED:
                recorder.record_disconnected(name, notice.region, notice.node)
            case What.HEDGED:
                self.hedges += 1
                recorder.record_hedged(name, notice.region, notice.node)
            case What.GAP if self.client is not None:
                recorder.record_gap(name, self.client.session, notice.missing)
                if not notice.missing and self.runs:
                    self.runs[-1].since = recorder.now()  # told to fetch anew: what was before it gets no other way
            case _:
                pass

    def _record_whisper(self, event: Event) -> None:
        """To the checker a message that disappears is one whose deletion was asked for and never answered."""
        id = bytes(reversed(event.id))
        self._recorder.record_invoke(
            f"{self.name}'s whispers", event.session, Kind.DELETION, event.scope, event.sender, id, event.hlc,
            target=(event.sender, event.id),
        )  # fmt: skip
        self.whispers.add(event.id)

    def _acked(self, id: bytes) -> None:
        now = self._recorder.now()
        if id in self.unanswered:
            since = max(self.acked_at, min(said_at for said_at, _ in self.unanswered.values()))
            if now - since > _WAIT_S:
                self.waits.append(self.wait(since, now))
            del self.unanswered[id]
        self.acked_at, self._denied = now, self._denials()

    def wait(self, since: float, until: float) -> Wait:
        """One that has lasted since the last acknowledgement, or the first message behind it."""
        return Wait(since, until, self._denials() > self._denied)

    def _denials(self) -> int:
        return self.client.hedges_denied if self.client is not None else 0

    def look_up(self) -> None:
        """It stood still: what it waited for meanwhile is nobody's fault."""
        self.acked_at = self._recorder.now()

    def _connected(self) -> None:
        client = self.client
        if client is None:
            return
        if not self.runs or self.runs[-1].session != client.session:
            self.runs.append(Run(client.session, self._recorder.now()))
        self.ready.set()

    # ------------------------------------------------------------ what it does

    def do(self, act: Act, scope: bytes, accounts: Sequence[bytes], outsiders: list[bytes]) -> None:
        """Do it, as this person's process; nothing while that is down.

        Args:
            outsiders: accounts that nobody has added to this conversation yet; who is added is taken out.
        """
        if self.up is not None and self.process is not None:
            self.process.start(self._do(self.up, act, scope, accounts, outsiders))

    async def _do(
        self, client: Client, act: Act, scope: bytes, accounts: Sequence[bytes], outsiders: list[bytes]
    ) -> None:
        try:
            await self._take(client, act, scope, random.Random(act.pick), accounts, outsiders)
        except (Refused, PeerUnavailable, NotReplicated):
            return  # the watch has taken down what became of a send; of reads that fail nothing is promised

    async def _take(
        self,
        client: Client,
        act: Act,
        scope: bytes,
        rng: random.Random,
        accounts: Sequence[bytes],
        outsiders: list[bytes],
    ) -> None:
        mine, theirs = self._mine.get(scope), self._theirs.get(scope)
        other = rng.choice(accounts)
        match act.what:
            case "edit" if mine:
                target = rng.choice(mine)
                await client.post_edit(scope, target, self._says(target.id, f"edited {act.pick}."))
            case "delete" if mine:
                await client.post_delete(scope, mine.popleft())
            case "react" if theirs:
                await client.post_reaction(scope, rng.choice(theirs), rng.choice("+-!"), removed=rng.random() < 0.2)
            case "read":
                await self._read(client, scope)
            case "list":
                await client.conversations()
            case "title":
                await client.set_title(scope, f"title {act.pick}")
            case "add" if outsiders:
                await client.add_member(scope, outsiders.pop(rng.randrange(len(outsiders))))
            case "remove" if other != self.account:
                await client.remove_member(scope, other)
            case "meet" if other != self.account:
                self.met[other] = await client.direct(other)
            case "newcomer":
                await self._bring(f"new{act.pick}")
            case _:
                if act.what == "copy" and theirs and self._pen is not None:
                    self._copy(self._pen, theirs[-1])
                parent = theirs[-1] if act.what == "reply" and theirs else None
                reply_to = (parent.sender, parent.id) if parent else None
                text = f"text {act.pick}."
                if act.what == "long":
                    text *= _LONG_CHARS // len(text)
                whisper_s = rng.uniform(0.3, 5.0) if act.what == "whisper" else None
                posted = await client.post(scope, text, reply_to=reply_to, expires_in_s=whisper_s)
                said = self.world.told_apart(posted.event)
                self._says(said.id, text)
                if said.id == posted.event.id:
                    _remember(said, self._mine)

    def _copy(self, pen: Pen, other: Target) -> None:
        """The next message bears the id of another's (ids are made by clients); the history tells them apart.

        Nobody answers such a message or changes it: histories name targets by their ids alone.
        """
        if (self.account, other.id) in self.world.copies:
            return
        pen.next_id = other.id
        self.world.copies[self.account, other.id] = _beside(other.id, self.account, other.sender)

    def _says(self, id: bytes, text: str) -> str:
        self.said.setdefault(id, []).append(text)
        return text

    async def _bring(self, handle: str) -> None:
        """Somebody registers beside this person."""
        process = self.process
        assert process is not None
        registered = await register(
            self.world.endpoints, handle, _PASSWORD, region=self.user.home, timeout=_BRING_S,
            transport=SimTransport(process, self.world.board), clock=self._clock,
            ids=self.world.ids(handle, self._clock),
        )  # fmt: skip
        self.brought[registered.account] = registered.durability

    async def _read(self, client: Client, scope: bytes) -> None:
        asked = self._recorder.now()
        page = await client.history(scope)
        ids = [self.world.told_apart(m.event).id for m in page.messages]
        orphans = [id_ for id_, m in zip(ids, page.messages, strict=True) if m.parent_missing]
        self._recorder.record_read(
            self.name, client.session, scope, ids, asked, page.next is None, page.gap, parent_missing=orphans
        )


def _remember(event: Event, where: dict[bytes, deque[Target]]) -> None:
    where.setdefault(event.scope, deque(maxlen=_REMEMBERED)).append(Target(event.sender, event.id))


def _beside(id: bytes, account: bytes, owner: bytes) -> bytes:
    """Another id for a message that `account` gives the id of one of `owner`: it sorts as (id, sender) does."""
    ahead = int.from_bytes(account[:4]) - int.from_bytes(owner[:4])
    return (int.from_bytes(id) + ahead).to_bytes(len(id))
