"""All live sessions of a node: opening, fan-out to members, watermarks, drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from evertalk.adapters.wire import delivery_field, encode_vector
from evertalk.chatnode.batcher import Batcher
from evertalk.chatnode.door import Door, Turn
from evertalk.chatnode.node import Node, State
from evertalk.chatnode.session import Session, Write
from evertalk.core import limits
from evertalk.core.errors import Code, Refused
from evertalk.core.merge import JOINING
from evertalk.core.model import Applied, Event, Membership, Role
from evertalk.core.vector import Key
from evertalk.v1 import chat_pb2

_HELLO_S = 10.0
_BEATS = 16
_BEATS_EVERY_S = 0.02
Members = dict[bytes, set[bytes]]  # conversation -> accounts


class Hub:
    """Sessions by account, and what they wait for."""

    batcher: Batcher  # set by the composition root: batcher and hub need each other

    def __init__(self, node: Node) -> None:
        self.node = node
        self.door = Door(node.clock)
        self._by_account: dict[bytes, list[Session]] = {}
        self._awaiting: dict[Key, dict[Session, None]] = {}  # ordered, or the same run would differ twice
        self._amid_import: list[Session] = []
        self._lagging: dict[Session, None] = {}  # have more than this node

    def __len__(self) -> int:
        return sum(len(s) for s in self._by_account.values())

    def _sessions(self) -> list[Session]:
        return [s for sessions in self._by_account.values() for s in sessions]

    # ------------------------------------------------------------ sessions

    async def serve(self, account: bytes, requests: AsyncIterator[chat_pb2.SessionRequest], write: Write) -> None:
        """One live session, from hello to end.

        Raises:
            Refused: not served here, too many come at once, or cut loose by name.
        """
        if self.node.state is not State.SERVING:
            raise self.not_serving()
        try:
            async with asyncio.timeout(_HELLO_S):
                first = await anext(requests, None)
        except TimeoutError:
            raise Refused(Code.MALFORMED, "the first frame of a session is a hello, within 10 s") from None
        if first is None:
            return
        if not first.HasField("hello") or len(first.hello.session) != limits.SESSION_BYTES:
            raise Refused(Code.MALFORMED, "the first frame of a session is a hello with a session id of 8 bytes")
        if first.HasField("sends"):
            raise Refused(Code.MALFORMED, "the first frame of a session is a hello, without sends")
        turn = await self.door.enter()
        try:
            session = await self._open(account, first.hello, write, turn)
            try:
                await session.run(requests)
            finally:
                self._forget(session)
        finally:
            turn.end()

    async def _open(self, account: bytes, hello: chat_pb2.Hello, write: Write, turn: Turn) -> Session:
        if self.node.state is not State.SERVING:
            raise self.not_serving()
        async with self.node.writing:  # not amid a fan-out: its markers will count from here
            session = Session(self, account, hello, write, turn)
            mine = self._by_account.setdefault(session.account, [])
            mine.append(session)
            if session.fresh and self.node.importing:
                self._amid_import = [s for s in self._amid_import if not s.ended.done()] + [session]
            if session.had.lagging:
                self._lagging[session] = None
        for key in session.awaiting:
            self.await_replication(key, session)
        return session

    def _forget(self, session: Session) -> None:
        mine = self._by_account[session.account]
        mine.remove(session)
        if not mine:
            del self._by_account[session.account]
        self._lagging.pop(session, None)
        for key in session.awaiting:
            self.await_no_more(key, session)

    def hello(self, session: Session) -> chat_pb2.HelloReply:
        """The first frame of a session."""
        node = self.node
        awaited = {key: node.replicated(key, position) for key, position in session.awaiting.items()}
        return chat_pb2.HelloReply(
            node=node.settings.node,
            region=node.settings.region,
            origin=node.origin,
            shards=node.settings.shards,
            region_time_ms=node.region_time_ms(),
            vector=encode_vector(node.store.vector),
            endpoints=self.endpoints(),
            peers_live=bool(node.live_peers()),
            account=session.account,
            replicated=encode_vector(node.replicated_of(awaited)),
            marker=encode_vector(session.marked) if session.fresh else None,
        )

    def endpoints(self) -> list[chat_pb2.Endpoint]:
        """Every node clients may use, own region first."""
        own = self.node.settings.region
        known = sorted(self.node.settings.endpoints, key=lambda e: e.region != own)
        return [chat_pb2.Endpoint(region=e.region, address=e.address) for e in known]

    def not_serving(self) -> Refused:
        """Why clients may not come now."""
        if self.node.draining:
            return Refused(Code.DRAINING, "this node is shutting down: use another", 1000)
        if not self.node.origin:
            return Refused(Code.CATCHING_UP, "this node has no log right now: use another", 200)
        return Refused(Code.CATCHING_UP, "this node is still catching up: use another", 500)

    def import_finished(self) -> None:
        """Markers are about to pass what an import brought: who came amid it has not been sent all of it."""
        for session in self._amid_import:
            session.refresh()
        self._amid_import.clear()

    def anybody(self) -> bool:
        """True if somebody is here to be told."""
        return bool(self._by_account)

    def moved(self) -> None:
        """`fanned` has moved, or time has: who had more than this node may be told the rest."""
        for session in list(self._lagging):
            session.caught_up()
            if not session.had.lagging:
                del self._lagging[session]

    def cut_all(self, refused: Refused) -> None:
        """End every stream by name."""
        for session in self._sessions():
            session.cut(refused)

    async def beat(self) -> None:
        """Heartbeats, and an end for clients that have gone silent; until cancelled."""
        while True:
            await asyncio.sleep(limits.HEARTBEAT_S)
            now = self.node.clock.monotonic()
            for session in self._sessions():
                if now - session.heard_s > limits.SUSPECT_S:
                    session.cut(Refused(Code.SLOW_READER, "nothing was heard from this client for 30 s"))
            self.beat_all()

    def beat_all(self) -> None:
        """A heartbeat to everybody now: it is time, or what it says has changed."""
        self.moved()  # else at a quiet node nobody notices that what is waited for never comes
        self._beat(self._sessions())

    def _beat(self, sessions: list[Session]) -> None:
        """A few at once: a thousand frames in a row would hold up all that is said meanwhile."""
        for session in sessions[:_BEATS]:
            session.heartbeat()
        if rest := sessions[_BEATS:]:
            asyncio.get_running_loop().call_later(_BEATS_EVERY_S, self._beat, rest)

    async def drain(self, patience_s: float) -> None:
        """GOAWAY to everybody, then wait until they have left, or patience ends."""
        message = chat_pb2.GoAway(
            code=int(Code.DRAINING),  # type: ignore[arg-type]
            sentence="this node is shutting down: use another",
            retry_after_ms=0,
            endpoints=[e for e in self.endpoints() if e.address != self.node.settings.listen],
        )
        for session in self._sessions():
            session.go_away(message)
        ends = [session.ended for session in self._sessions()]
        if ends:
            await asyncio.wait(ends, timeout=patience_s)
        self.cut_all(Refused(Code.DRAINING, "this node has shut down: use another"))

    # ------------------------------------------------------------ fan-out

    async def members_of(self, events: Iterable[Event]) -> Members:
        """Who is in the conversations whose members these events change; to be asked before they are applied."""
        found: Members = {}
        if self._by_account:
            for event in events:
                if event.kind in JOINING and event.scope not in found:
                    found[event.scope] = await self.node.members(event.scope)
        return found

    async def fan_out(self, applied: list[Applied], were_in: Members) -> None:
        """Queue what is new for every member who has a session here (the caller holds `writing`).

        Args:
            were_in: what `members_of` said before it was applied.
        """
        if not self._by_account:
            return
        ahead: set[tuple[bytes, bytes]] = set()
        if any(one.event.kind in JOINING for one in applied):
            ahead = {(one.event.sender, one.event.id) for one in applied}  # no page brings these
        for one in applied:
            event = one.event
            if event.kind in JOINING:
                await self._joined(one, ahead, were_in.setdefault(event.scope, set()))
                continue
            ahead.discard((event.sender, event.id))
            rights = self.node.cached_rights(event.scope) or await self.node.rights(event.scope)
            if rights is None:
                continue
            delivery: bytes | None = None
            told = were_in.get(event.scope, rights.members)  # who joins further on gets it with the page: parents first
            for member, role in rights.members.items():
                sessions = self._by_account.get(member)
                if sessions and role != Role.NONE and member in told:
                    delivery = delivery or delivery_field(one)
                    for session in sessions:
                        session.deliver(one, event, delivery)

    async def _joined(self, one: Applied, ahead: set[tuple[bytes, bytes]], were_in: set[bytes]) -> None:
        """A creation or membership: to every member; who is new gets a page of history before it counts (R13).

        Whoever was in (a role changes, somebody is added twice) has been told all: a page would be old news. `were_in`
        is kept up to date, for what follows in the batch.

        Args:
            ahead: (sender, id) of the batch's creations and memberships, and of what else in it is still to come.
        """
        body, event = one.event.body, one.event
        rights = await self.node.rights(event.scope)
        members = {m for m, role in rights.members.items() if role != Role.NONE} if rights else set()
        concerned, joined = members, members - were_in
        taken_in: set[bytes] = set()  # maybe again: that it was out may be heard of later
        if isinstance(body, Membership):
            concerned = members | {body.account}
            # In by now, too: it may have been removed again in this batch, or the creation has not come yet.
            came = body.role != Role.NONE and (rights is None or body.account in members)
            taken_in = {body.account} if came else set()
            joined = taken_in - were_in
            if body.role == Role.NONE:
                were_in.discard(body.account)
        were_in |= joined
        delivery = delivery_field(one)
        page: list[tuple[Applied, bytes]] = []
        if any(account in self._by_account for account in joined):
            rows = await self.node.store.join_page(event.scope, limits.JOIN_PAGE)
            page = [(r, delivery_field(r)) for r in rows if (r.event.sender, r.event.id) not in ahead]
        for account in concerned:
            for session in self._by_account.get(account, ()):
                session.deliver(one, event, delivery)
                if account in taken_in | joined and not session.had.was_shown(one):
                    session.had.joined(event.scope)
                if account in joined:
                    session.bring(one, page)

    # ------------------------------------------------------------ watermarks

    def await_replication(self, key: Key, session: Session) -> None:
        """Tell the session when watermarks of this (origin, shard) move."""
        self._awaiting.setdefault(key, {})[session] = None

    def watermarks_moved(self, keys: set[Key]) -> None:
        """Watermarks of these (origin, shard) have moved."""
        for key in keys:
            waiting = self._awaiting.get(key)
            if not waiting:
                continue
            mark = self.node.replicated(key)
            for session in list(waiting):
                session.replicated(key)
                if session.awaiting.get(key, 0) <= mark:
                    del waiting[session]
            if not waiting:
                del self._awaiting[key]

    def await_no_more(self, key: Key, session: Session) -> None:
        """It has been told, or is gone."""
        waiting = self._awaiting.get(key)
        if waiting is not None:
            waiting.pop(session, None)
            if not waiting:
                del self._awaiting[key]
