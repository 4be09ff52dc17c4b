"""Scripted nodes behind the Transport port: regions that accept, replicate, hang, refuse and die on command."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from evertalk.adapters import wire
from evertalk.client import Client, Endpoint, Notice, What
from evertalk.core import limits
from evertalk.core.errors import Code, PeerUnavailable, Refused
from evertalk.core.ids import shard_of
from evertalk.core.model import Applied, Event, Kind, Message
from evertalk.core.vector import Vector
from evertalk.v1 import accounts_pb2, chat_pb2
from tests.client.virtual import LoopClock, SeededIds

SHARDS = 4
ALICE, BOB = b"alice".ljust(16, b"."), b"bob".ljust(16, b".")
ROOM, OTHER_ROOM = b"room".ljust(16, b"."), b"other".ljust(16, b".")

Policy = Callable[[Event], Refused | None]


class Region:
    """One origin's log, and what its stores have applied of all logs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.origin = f"{name}-01"
        self.log: dict[int, list[Event]] = {}
        self.applied = Vector()

    def append(self, event: Event) -> tuple[int, int]:
        """Shard and position of a new entry, which the own stores apply at once."""
        shard = shard_of(event.scope, SHARDS)
        entries = self.log.setdefault(shard, [])
        entries.append(event)
        self.applied.advance(self.origin, shard, len(entries))
        return shard, len(entries)

    def ids(self) -> list[bytes]:
        """Ids of everything in the log, by shard and position."""
        return [e.id for shard in sorted(self.log) for e in self.log[shard]]

    def texts(self, scope: bytes = ROOM) -> list[str]:
        """Texts of a conversation's messages in log order, copies included."""
        entries = [e for shard in self.log.values() for e in shard if e.scope == scope]
        return [e.body.text for e in entries if hasattr(e.body, "text")]  # type: ignore[union-attr]


class Stream:
    """A session as a scripted node holds it; also the SessionStream that the client sees."""

    def __init__(self, node: Node, token: str) -> None:
        self.node = node
        self.token = token
        self.hello: chat_pb2.Hello | None = None
        self.sends: list[chat_pb2.Sends] = []
        self.beats = 0
        self.awaited = Vector()
        self.dead_epoch = 0
        self._out: asyncio.Queue[Any] = asyncio.Queue()
        self._unread: list[chat_pb2.SessionRequest] = []
        self.over = False
        self.mute = False  # no heartbeats from the node

    # the client's side

    async def write(self, frame: chat_pb2.SessionRequest) -> None:
        await asyncio.sleep(0)
        if self.over or not self.node.alive:
            raise PeerUnavailable("broken")
        self._unread.append(frame)
        if self.node.hello_delay_s and frame.HasField("hello"):
            asyncio.get_running_loop().call_later(self.node.hello_delay_s, self.work)
        elif not self.node.hung:
            self.work()

    async def read(self) -> chat_pb2.SessionResponse | None:
        item = await self._out.get()
        if isinstance(item, Exception):
            self.over = True
            raise item
        assert item is None or isinstance(item, chat_pb2.SessionResponse)
        return item

    def cancel(self) -> None:
        if not self.over:
            self.over = True
            self._out.put_nowait(PeerUnavailable("cancelled"))
        if self in self.node.streams:
            self.node.streams.remove(self)

    # the node's side

    def work(self) -> None:
        """Take in what the client has written."""
        frames, self._unread = self._unread, []
        for frame in frames:
            if frame.HasField("hello"):
                self._greet(frame.hello)
            if frame.HasField("sends"):
                self._take(frame.sends)
            if frame.HasField("heartbeat"):
                self.beats += 1
                self.awaited = wire.decode_vector(frame.heartbeat.awaiting)

    def _beat_later(self) -> None:
        asyncio.get_running_loop().call_later(limits.HEARTBEAT_S, self._beat)

    def _beat(self) -> None:
        node = self.node
        if self.over or not node.alive:
            return
        if not node.hung and not self.mute:
            self.say(heartbeat=chat_pb2.Heartbeat(region_time_ms=node.time_ms(), peers_live=node.peers_live))
        self._beat_later()

    def _greet(self, hello: chat_pb2.Hello) -> None:
        self.hello = hello
        node = self.node
        if node.refuses_hello:
            self.fail(node.refuses_hello)
            return
        self._beat_later()
        vector = wire.encode_vector(node.region.applied)
        self.say(
            hello=chat_pb2.HelloReply(
                node=node.name,
                region=node.region.name,
                origin=node.region.origin,
                shards=SHARDS,
                region_time_ms=node.time_ms(),
                vector=vector,
                peers_live=node.peers_live,
                account=ALICE,
                marker=vector if hello.fresh else None,
            )
        )

    def _take(self, sends: chat_pb2.Sends) -> None:
        self.sends.append(sends)
        acks: list[tuple[int, int, int]] = []
        for seq, raw in enumerate(sends.events, sends.first_seq):
            if sends.epoch <= self.dead_epoch:
                break
            event = wire.decode_event(raw)
            if refused := self.node.policy(event):
                self.dead_epoch = sends.epoch
                self.ack(acks)
                self.say(
                    refusal=chat_pb2.Refusal(
                        epoch=sends.epoch,
                        seq=seq,
                        code=int(refused.code),  # type: ignore[arg-type]
                        sentence=refused.sentence,
                        retry_after_ms=refused.retry_after_ms,
                    )
                )
                return
            acks.append((seq, *self.node.region.append(event)))
        self.ack(acks)

    def ack(self, acks: list[tuple[int, int, int]]) -> None:
        """Acknowledge (seq, shard, position)s, now or when the node lets go of them."""
        if self.node.held_acks is not None:
            self.node.held_acks += [(self, one) for one in acks]
        elif acks:
            seqs, shards, positions = zip(*acks, strict=True)
            self.say(
                acks=chat_pb2.Acks(
                    origin=self.node.region.origin, seqs=seqs, shards=shards, positions=positions,
                    accepted_at=self.node.time_ms() << 16,
                )
            )  # fmt: skip

    def say(self, **fields: Any) -> None:
        """Send one frame."""
        if not self.over:
            self._out.put_nowait(chat_pb2.SessionResponse(**fields))

    def fail(self, error: Exception) -> None:
        """Break the stream."""
        self._out.put_nowait(error)


class Node:
    """One scripted chat node, also its own Peer."""

    def __init__(self, region: Region, name: str, clock: LoopClock) -> None:
        self.region = region
        self.name = name
        self.alive = True
        self.hung = False
        self.hello_delay_s = 0.0
        self.peers_live = True
        self.refuses_hello: Refused | None = None
        self.policy: Policy = lambda event: None
        self.held_acks: list[tuple[Stream, tuple[int, int, int]]] | None = None
        self.streams: list[Stream] = []
        self.greeted = 0
        self.calls: list[tuple[str, Any]] = []
        self.on_call: Callable[[str], None] = lambda method: None
        self.answers: dict[str, Any] = {}
        self._clock = clock

    def time_ms(self) -> int:
        return self._clock.wall_ms()

    # Peer

    def session(self, token: str) -> Stream:
        stream = Stream(self, token)
        self.greeted += 1
        if self.alive:
            self.streams.append(stream)
        else:
            stream.fail(PeerUnavailable("refused"))
        return stream

    async def call(self, method: str, request: Any, timeout_s: float, token: str = "") -> Any:
        self.calls.append((method, request))
        self.on_call(method)
        if not self.alive:
            raise PeerUnavailable("refused")
        if self.hung:
            await asyncio.sleep(timeout_s)
            raise PeerUnavailable("deadline")
        name = method.rpartition("/")[2]
        if name == "SignIn":
            return accounts_pb2.SignInResponse(account=ALICE, token=f"token of {self.name}", handle="alice")
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        pass

    # verbs

    @property
    def stream(self) -> Stream:
        """The newest live session."""
        return self.streams[-1]

    def kill(self) -> None:
        """kill -9: streams break, connections are refused."""
        self.alive = False
        for stream in self.streams:
            stream.fail(PeerUnavailable("reset"))
        self.streams.clear()

    def hang(self) -> None:
        """SIGSTOP: everything is silent."""
        self.hung = True

    def resume(self) -> None:
        """SIGCONT: what was written meanwhile is taken in."""
        self.hung = False
        for stream in list(self.streams):
            stream.work()

    def release_acks(self) -> None:
        """Say what was held back."""
        held, self.held_acks = self.held_acks or [], None
        for stream, one in held:
            stream.ack([one])

    def deliver(self, *events: Event, marker: bool = True) -> list[Applied]:
        """Accept events of others and fan them out, with the marker behind them."""
        sent = []
        for event in events:
            shard, position = self.region.append(event)
            sent.append(Applied(event, self.time_ms() << 16, self.region.origin, shard, position))
        for stream in self.streams:
            stream.say(
                deliveries=[wire.encode_delivery(one) for one in sent],
                marker=wire.encode_vector(self.region.applied) if marker else None,
            )
        return sent


class World:
    """Two regions, a node or two in each; the Transport of its clients."""

    def __init__(self, nodes: int = 1) -> None:
        self.clock = LoopClock()
        self.seoul, self.busan = Region("seoul"), Region("busan")
        self.nodes: dict[str, Node] = {}
        for region in (self.seoul, self.busan):
            for n in range(1, nodes + 1):
                name = f"{region.name}-{n}"
                self.nodes[name] = Node(region, name, self.clock)
        self.notices: list[Notice] = []
        self._ids = SeededIds(7)

    def peer(self, address: str) -> Node:
        return self.nodes[address]

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    @property
    def endpoints(self) -> list[Endpoint]:
        return [Endpoint(node.region.name, name) for name, node in self.nodes.items()]

    def client(self, **options: Any) -> Client:
        """Alice's, whose notices are kept."""
        defaults: dict[str, Any] = {
            "access_token": "t", "clock": self.clock, "ids": SeededIds(3), "transport": self,
            "watch": self.notices.append, "receipts": False, "failback": False,
        }  # fmt: skip
        return Client(self.endpoints, **(defaults | options))

    def told(self, what: What) -> list[Notice]:
        """Notices of one kind so far."""
        return [n for n in self.notices if n.what == what]

    def replicate(self) -> None:
        """All regions get all logs, and every session hears the watermarks."""
        for one in (self.seoul, self.busan):
            one.applied.merge(self.seoul.applied)
            one.applied.merge(self.busan.applied)
        for node in self.nodes.values():
            for stream in node.streams:
                stream.say(replicated=wire.encode_vector(self.seoul.applied))

    def message(self, text: str, sender: bytes = BOB, scope: bytes = ROOM, session: bytes = b"bob's...") -> Event:
        """A message of somebody else."""
        hlc = self.clock.wall_ms() << 16
        return wire.encode_event(Event(self._ids.uuid7(), scope, sender, session, hlc, Kind.MESSAGE, Message(text)))


def refuse(code: Code, times: int = 1, retry_after_ms: int = 0, text: str = "") -> Policy:
    """A policy that refuses so many attempts (of messages with that text, if given), then accepts."""
    left = [times]

    def policy(event: Event) -> Refused | None:
        if left[0] and (not text or getattr(event.body, "text", "") == text):
            left[0] -= 1
            return Refused(code, code.name.lower(), retry_after_ms)
        return None

    return policy
