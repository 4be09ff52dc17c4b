"""Simulated people: each one real SDK client that says its turns, listens, reads back, and has all of it recorded."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evertalk.client import Client, Endpoint, Notice, What
from evertalk.core.errors import EvertalkError, Refused
from evertalk.core.model import Applied, Event, Kind, Target
from evertalk.drill.recorder import Recorder
from evertalk.drill.traffic import Turn

_REMEMBERED = 30
_READ_EVERY_S = 8.0
_READ_PAGE = 50


@dataclass(slots=True)
class Tally:
    """What all people together have seen, for the live view."""

    invoked: int = 0
    accepted: int = 0
    replicated: int = 0
    delivered: int = 0
    replication_ms: deque[float] = field(default_factory=lambda: deque(maxlen=200))
    accepted_at: dict[bytes, float] = field(default_factory=dict)


class Person:
    """One user with one client."""

    def __init__(
        self,
        name: str,
        account: bytes,
        token: str,
        endpoints: Sequence[Endpoint],
        region: str,
        recorder: Recorder,
        tally: Tally,
        seed: int,
        outbox: Path | None = None,
    ) -> None:
        self.name = name
        self.account = account
        self.region = region
        self.where = ""  # region of the node that serves it now
        self._recorder = recorder
        self._tally = tally
        self._rng = random.Random(f"person/{name}/{seed}")
        self._mine: dict[bytes, deque[Target]] = {}
        self._theirs: dict[bytes, deque[Target]] = {}
        self.open: set[bytes] = set()  # sends not yet known to be replicated, or failed
        self.failures: list[str] = []
        self.talks: list[bytes] = []
        self.on_shown: Callable[[str, Applied], None] | None = None
        self.client = Client(endpoints, region=region, access_token=token, watch=self._watch, outbox=outbox)

    # ------------------------------------------------------------ what the SDK says

    def _watch(self, notice: Notice) -> None:
        recorder, tally, name = self._recorder, self._tally, self.name
        match notice.what:
            case What.INVOKED if notice.event is not None:
                tally.invoked += 1
                self.open.add(notice.id)
                recorder.record_send(name, notice.event)
            case What.ACCEPTED:
                if notice.id not in tally.accepted_at:
                    tally.accepted += 1
                    tally.accepted_at[notice.id] = notice.at_s
                recorder.record_accepted(
                    name, notice.id, notice.origin, notice.shard, notice.position, notice.node, notice.region
                )
            case What.REPLICATED:
                tally.replicated += 1
                since = tally.accepted_at.get(notice.id)
                if since is not None:
                    tally.replication_ms.append((notice.at_s - since) * 1000)
                self.open.discard(notice.id)
                recorder.record_told(name, notice.id, "replicated")
            case What.REFUSED | What.UNKNOWN:
                self.open.discard(notice.id)
                outcome = "failed" if notice.what is What.REFUSED else "unknown"
                self.failures.append(f"{name}: {notice.sentence}")
                recorder.record_told(name, notice.id, outcome, notice.code.name)
            case What.RELEASED:
                self.open.discard(notice.id)
                recorder.record_told(name, notice.id, "released")
            case What.CONNECTED | What.MOVED:
                self.where = notice.region
                recorder.record_connected(name, notice.region, notice.node)
            case What.DISCONNECTED:
                self.where = ""
                recorder.record_disconnected(name, notice.region, notice.node)
            case What.HEDGED:
                recorder.record_hedged(name, notice.region, notice.node)
            case What.GAP:
                recorder.record_gap(name, self.client.session, notice.missing)
            case _:
                pass

    # ------------------------------------------------------------ what it does

    async def listen(self) -> None:
        """Take every event, until cancelled."""
        async for happening in self.client.events():
            if isinstance(happening, Applied):
                self._tally.delivered += 1
                self._recorder.record_delivery(self.name, self.client.session, happening)
                self._remember(happening.event, self._theirs)
                if self.on_shown is not None:
                    self.on_shown(self.name, happening)

    def _remember(self, event: Event, where: dict[bytes, deque[Target]]) -> None:
        if event.kind == Kind.MESSAGE:
            seen = where.setdefault(event.scope, deque(maxlen=_REMEMBERED))
            seen.append(Target(event.sender, event.id))

    async def read_back(self, now: Callable[[], float]) -> None:
        """Read the newest page of one of its conversations now and then, until cancelled."""
        while True:
            await asyncio.sleep(_READ_EVERY_S * (0.5 + self._rng.random()))
            if not self.talks:
                continue
            scope = self._rng.choice(self.talks)
            asked = now()
            try:
                page = await self.client.history(scope, limit=_READ_PAGE)
            except EvertalkError:
                continue  # a read in the middle of a fail-over; nothing is promised of reads that fail
            self._recorder.record_read(
                self.name,
                self.client.session,
                scope,
                [m.event.id for m in page.messages],
                asked,
                whole=page.next is None,
                gap=page.gap,
                parent_missing=[m.event.id for m in page.messages if m.parent_missing],
            )

    async def take(self, turn: Turn, scope: bytes) -> None:
        """Say one thing; returns once it is in the outbox."""
        mine, theirs = self._mine.get(scope), self._theirs.get(scope)
        client, rng = self.client, self._rng
        if turn.what == "edit" and mine:
            await client.post_edit(scope, rng.choice(mine), turn.text)
        elif turn.what == "delete" and mine:
            target = mine.popleft()
            await client.post_delete(scope, target)
        elif turn.what == "react" and theirs:
            await client.post_reaction(scope, rng.choice(theirs), rng.choice("👍❤😂"))
        else:
            latest = theirs[-1] if turn.what == "reply" and theirs else None
            reply_to = (latest.sender, latest.id) if latest else None
            sent = await client.post(scope, turn.text, reply_to=reply_to)
            self._mine.setdefault(scope, deque(maxlen=_REMEMBERED)).append(Target(self.account, sent.event.id))


def sentence_of(error: BaseException) -> str:
    """One line for a failure."""
    return f"{error.code.name}: {error.sentence}" if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
