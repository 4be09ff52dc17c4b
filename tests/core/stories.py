"""Histories for tests: told by hand (Story), or by a small correct world from a seed (simulate)."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from typing import Any

from evertalk.core.history import (
    Cluster,
    Converged,
    Fault,
    Final,
    Gap,
    Gone,
    Header,
    History,
    Invoke,
    Load,
    Mark,
    Read,
    Received,
    Record,
    Returned,
    Shown,
    Told,
)

NODES = {"seoul-a": "seoul", "busan-a": "busan"}
HEADER = Header(
    drill="kill-region",
    driver="simulation",
    seed=7,
    commit="0" * 40,
    cluster=Cluster(("seoul", "busan"), NODES, shards=1),
    load=Load(users=4, offered_per_s=10.0, seconds=10.0, kind="chat"),
    limits={},
    started="2025-01-01T00:00:00Z",
)
TALK = "c0"


class Story:
    """A history told step by step; every step takes 100 ms, and stamps follow the order of telling."""

    def __init__(self, header: Header = HEADER) -> None:
        self.header = header
        self.records: list[Record] = []
        self.t = 0.0
        self.said: dict[str, Invoke] = {}
        self._position = 0

    def _now(self) -> float:
        self.t = round(self.t + 0.1, 6)
        return self.t

    def says(self, client: str, id_: str, reply_to: str = "", op: str = "message", target: str = "") -> Story:
        """`client` invokes; its session and sender are called after it."""
        t = self._now()
        parent = (self.said[reply_to].sender, reply_to) if reply_to else None
        about = (self.said[target].sender, target) if target else None
        invoke = Invoke(t, client, f"s-{client}", op, TALK, f"u-{client}", id_, int(t * 10), f"b-{id_}", parent, about)
        self.said.setdefault(id_, invoke)
        self.records.append(invoke)
        return self

    def accepted(self, id_: str, origin: str = "seoul-1") -> Story:
        self._position += 1
        client, region = self.said[id_].client, origin.split("-")[0]
        self.records.append(
            Told(self._now(), client, id_, "accepted", "", origin, 0, self._position, f"{region}-a", region)
        )
        return self

    def told(self, id_: str, outcome: str) -> Story:
        client = self.said[id_].client if id_ in self.said else "?"
        self.records.append(Told(self._now(), client, id_, outcome))
        return self

    def replicated(self, id_: str) -> Story:
        return self.accepted(id_).told(id_, "replicated")

    def shown(self, client: str, id_: str, **changes: Any) -> Story:
        invoke = self.said[id_]
        received = Received(
            self._now(), client, f"s-{client}", TALK, id_, invoke.sender, invoke.hlc, invoke.op, invoke.body,
            "seoul-1", self._position,
        )  # fmt: skip
        self.records.append(received._replace(**changes))
        return self

    def reads(
        self,
        client: str,
        *ids: str,
        whole: bool = True,
        gap: bool = False,
        asked: float | None = None,
        orphans: tuple[str, ...] = (),
    ) -> Story:
        began = self._now() if asked is None else asked
        self.records.append(Read(self._now(), began, client, f"s-{client}", TALK, ids, whole, gap, orphans))
        return self

    def gap(self, client: str, *missing: tuple[str, int, int]) -> Story:
        self.records.append(Gap(self._now(), client, f"s-{client}", missing))
        return self

    def gone(self, client: str, kept: bool = False) -> Story:
        self.records.append(Gone(self._now(), client, f"s-{client}", kept))
        return self

    def fault(self, effect: str, target: str = "seoul") -> Story:
        self.records.append(Fault(self._now(), "kill", target, None, effect))
        return self

    def returned(self, target: str = "seoul") -> Story:
        self.records.append(Returned(self._now(), target))
        return self

    def watermark(self, position: int, origin: str = "seoul-1", holder: str = "busan") -> Story:
        self.records.append(Mark(self._now(), holder, origin, 0, position))
        return self

    def line(self) -> int:
        """Line of the last record."""
        return len(self.records) + 1

    def final(self, node: str, *ids: str, digest: str = "d", **changes: Any) -> Story:
        shown = tuple(Shown(i.hlc, i.id, i.sender, i.body, "message") for i in (self.said[x] for x in ids))
        shown = tuple(m._replace(**changes) for m in shown)
        self.records.append(Final(self._now(), node, NODES[node], TALK, shown, digest))
        return self

    def ends(self, *ids: str) -> History:
        """Replicas converge and every one shows these."""
        self.records.append(Converged(self._now()))
        for node in NODES:
            self.final(node, *ids)
        return self.history()

    def converges(self, timed_out: bool = False) -> Story:
        self.records.append(Converged(self._now(), timed_out))
        return self

    def history(self) -> History:
        return History(self.header, self.records)


def chat() -> Story:
    """ana says m1, bo is shown it and answers m2; both replicated."""
    return Story().says("ana", "m1").replicated("m1").shown("bo", "m1").says("bo", "m2", "m1").replicated("m2")


# ---------------------------------------------------------------- a small correct world


@dataclass
class _Region:
    name: str
    life: int = 1
    alive: bool = True
    log: list[Invoke] = field(default_factory=list)  # of the present origin
    held: dict[str, Invoke] = field(default_factory=dict)  # applied, by id
    taken: dict[str, int] = field(default_factory=dict)  # how far of each peer's origin

    @property
    def origin(self) -> str:
        return f"{self.name}-{self.life}"


@dataclass
class _Client:
    name: str
    region: _Region
    hlc: int = 0
    shown: dict[str, Invoke] = field(default_factory=dict)
    outbox: dict[str, Invoke] = field(default_factory=dict)  # accepted, not known to be replicated


class _World:
    def __init__(self, seed: int, steps: int, kill: bool) -> None:
        self.chance = random.Random(seed)
        self.records: list[Record] = []
        self.t = 0.0
        self.regions = {name: _Region(name) for name in ("seoul", "busan")}
        self.clients = [_Client(f"k{i}", self.regions["seoul" if i % 2 else "busan"]) for i in range(4)]
        self.count = 0
        self.steps, self.kill = steps, kill

    def run(self) -> History:
        for step in range(self.steps):
            if self.kill and step == self.steps // 3:
                self.lose("seoul")
            if self.kill and step == 2 * self.steps // 3:
                self.bring_back("seoul")
            action = self.chance.choices((self.send, self.delete, self.replicate, self.read), (6, 1, 2, 1))[0]
            action()
        self.replicate()
        self.add(Converged(self.now()))
        for region in self.regions.values():
            for talk in ("c0", "c1"):
                shown = tuple(Shown(m.hlc, m.id, m.sender, m.body, m.op) for m in self.visible(region, talk))
                digest = hashlib.sha256(repr(shown).encode()).hexdigest()
                self.add(Final(self.now(), f"{region.name}-a", region.name, talk, shown, digest))
        return History(HEADER, self.records)

    def now(self) -> float:
        self.t = round(self.t + 0.01, 6)
        return self.t

    def add(self, record: Record) -> None:
        self.records.append(record)

    def visible(self, region: _Region, talk: str) -> list[Invoke]:
        deleted = {i.target[1] for i in region.held.values() if i.op == "delete" and i.target}
        of_talk = (i for i in region.held.values() if i.conversation == talk and i.op == "message")
        return sorted((i for i in of_talk if i.id not in deleted), key=lambda i: (i.hlc, i.id))

    def send(self) -> None:
        client = self.chance.choice(self.clients)
        talk = self.chance.choice(("c0", "c1"))
        known = [i for i in client.shown.values() if i.op == "message" and i.conversation == talk]
        parent = self.chance.choice(known) if known and self.chance.random() < 0.5 else None
        self.invoke(client, "message", talk, (parent.sender, parent.id) if parent else None, None)

    def delete(self) -> None:
        client = self.chance.choice(self.clients)
        own = [i for i in client.shown.values() if i.op == "message" and i.sender == f"u-{client.name}"]
        if own:
            target = self.chance.choice(own)
            self.invoke(client, "delete", target.conversation, None, (target.sender, target.id))

    def invoke(
        self,
        client: _Client,
        op: str,
        talk: str,
        parent: tuple[str, str] | None,
        target: tuple[str, str] | None,
    ) -> None:
        self.count += 1
        client.hlc = max(client.hlc + 1, int(self.t * 100))
        name = client.name
        body = f"b{self.count}" if op == "message" else ""
        invoke = Invoke(
            self.now(), name, f"s-{name}", op, talk, f"u-{name}", f"e{self.count:04}", client.hlc, body, parent, target
        )
        self.add(invoke)
        luck = self.chance.random()
        if luck < 0.06:
            self.add(Told(self.now(), name, invoke.id, "failed", "NOT_ALLOWED"))
        elif luck < 0.15:  # unknown, or never answered; written or not
            if self.chance.random() < 0.5:
                self.add(Told(self.now(), name, invoke.id, "unknown", "UNKNOWN_OUTCOME"))
            if self.chance.random() < 0.5:
                self.append(client.region, invoke)
        else:
            client.shown[invoke.id] = invoke
            client.outbox[invoke.id] = invoke
            self.accept(client, invoke)

    def accept(self, client: _Client, invoke: Invoke) -> None:
        region = client.region
        position = self.append(region, invoke)
        self.add(
            Told(
                self.now(), client.name, invoke.id, "accepted", "", region.origin, 0, position, f"{region.name}-a",
                region.name,
            )
        )  # fmt: skip

    def append(self, region: _Region, invoke: Invoke) -> int:
        region.log.append(invoke)
        self.apply(region, invoke, region.origin, len(region.log))
        return len(region.log)

    def apply(self, region: _Region, invoke: Invoke, origin: str, position: int) -> None:
        if invoke.id in region.held:
            return
        deleted = {i.target[1] for i in region.held.values() if i.op == "delete" and i.target}
        region.held[invoke.id] = invoke
        if invoke.op == "message" and invoke.id in deleted:
            return
        orphan = invoke.reply_to is not None and invoke.reply_to[1] not in region.held
        for client in self.clients:
            if client.region is region and client.name != invoke.client and invoke.id not in client.shown:
                client.shown[invoke.id] = invoke
                client.hlc = max(client.hlc, invoke.hlc)
                i = invoke
                self.add(
                    Received(
                        self.now(), client.name, f"s-{client.name}", i.conversation, i.id, i.sender, i.hlc, i.op,
                        i.body, origin, position, parent_missing=orphan,
                    )
                )  # fmt: skip

    def replicate(self) -> None:
        for holder in self.regions.values():
            for peer in self.regions.values():
                if holder is peer or not holder.alive or not peer.alive:
                    continue
                done = holder.taken.get(peer.origin, 0)
                for position, invoke in enumerate(peer.log[done:], done + 1):
                    self.apply(holder, invoke, peer.origin, position)
                holder.taken[peer.origin] = len(peer.log)
                self.add(Mark(self.now(), holder.name, peer.origin, 0, len(peer.log)))
                self.tell_replicated(peer, holder)

    def tell_replicated(self, region: _Region, holder: _Region) -> None:
        for client in self.clients:
            if client.region is region:
                for id_ in [id_ for id_ in client.outbox if id_ in holder.held]:
                    del client.outbox[id_]
                    self.add(Told(self.now(), client.name, id_, "replicated"))

    def read(self) -> None:
        client = self.chance.choice(self.clients)
        talk = self.chance.choice(("c0", "c1"))
        asked = self.now()
        ids = [i.id for i in self.visible(client.region, talk)]
        whole = self.chance.random() < 0.5 or len(ids) < 4
        page = ids if whole else ids[len(ids) // 2 :]
        self.add(Read(self.now(), asked, client.name, f"s-{client.name}", talk, tuple(page), whole))
        for id_ in page:
            seen = client.region.held[id_]
            client.hlc = max(client.hlc, seen.hlc)
            # Reading is not showing: the session may still be delivered it.

    def lose(self, name: str) -> None:
        dead = self.regions[name]
        live = next(r for r in self.regions.values() if r is not dead)
        self.add(Fault(self.now(), "lose", name, None, "lost"))
        dead.alive = False
        missing = (dead.origin, 0, len(dead.log))
        movers = [c for c in self.clients if c.region is dead]
        self.chance.shuffle(movers)
        for client in movers:
            client.region = live
            self.add(Gap(self.now(), client.name, f"s-{client.name}", (missing,)))
            for invoke in list(live.held.values()):
                self.catch_up(client, invoke, live)
            if self.chance.random() < 0.5:
                self.send_as(client)  # the outbox goes first, in order (R10)
            for invoke in list(client.outbox.values()):
                if invoke.id not in live.held:
                    self.accept(client, invoke)

    def send_as(self, client: _Client) -> None:
        """Resend, then say something new before the other movers have resent theirs."""
        for invoke in list(client.outbox.values()):
            if invoke.id not in client.region.held:
                self.accept(client, invoke)
        known = [i for i in client.shown.values() if i.op == "message" and i.conversation == "c0"]
        if known:
            parent = self.chance.choice(known)
            self.invoke(client, "message", "c0", (parent.sender, parent.id), None)

    def catch_up(self, client: _Client, invoke: Invoke, region: _Region) -> None:
        if invoke.id in client.shown or invoke.client == client.name:
            return
        deleted = {i.target[1] for i in region.held.values() if i.op == "delete" and i.target}
        if invoke.id in deleted:
            return
        client.shown[invoke.id] = invoke
        client.hlc = max(client.hlc, invoke.hlc)
        i = invoke
        self.add(
            Received(
                self.now(), client.name, f"s-{client.name}", i.conversation, i.id, i.sender, i.hlc, i.op, i.body,
                region.origin, len(region.log),
            )
        )  # fmt: skip

    def bring_back(self, name: str) -> None:
        region = self.regions[name]
        peer = next(r for r in self.regions.values() if r is not region)
        region.life += 1
        region.log, region.held, region.taken = [], dict(peer.held), {peer.origin: len(peer.log)}
        peer.taken.pop(region.origin, None)
        region.alive = True
        self.add(Returned(self.now(), name))


def simulate(seed: int, steps: int = 120, kill: bool | None = None) -> History:
    """The history of a correct world of two regions: replies, deletions, reads, unknown and failed sends; with
    `kill` (by default every other seed) one region is lost with its disks and returns empty."""
    return _World(seed, steps, seed % 2 == 1 if kill is None else kill).run()
