"""The SDK: one account's session, served by whichever node of whichever region lives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from evertalk.adapters import wire
from evertalk.adapters.clock import SystemClock, SystemIds
from evertalk.adapters.grpc_transport import GrpcTransport
from evertalk.adapters.sqlite_outbox import SqliteOutbox
from evertalk.client.accounts import Access, ask, retry
from evertalk.client.endpoints import Directory, Endpoint, HedgeBudget
from evertalk.client.failover import Failover
from evertalk.client.groups import FlatGroup
from evertalk.client.inbox import Inbox
from evertalk.client.journal import OutboxStore
from evertalk.client.notices import Created, Gap, Page, Person, Sent, Watch
from evertalk.client.posted import Posted
from evertalk.client.session import Session
from evertalk.core import limits
from evertalk.core.errors import Code, NotReplicated, PeerUnavailable, Refused, SendUnknown
from evertalk.core.ids import direct_scope, shard_of
from evertalk.core.model import (
    Applied,
    Body,
    Conversation,
    ConversationKind,
    Deletion,
    Durability,
    Edit,
    Kind,
    Level,
    Membership,
    Message,
    Reaction,
    Receipt,
    Role,
    Target,
    Title,
)
from evertalk.core.token import Token
from evertalk.ports import Clock, ConversationState, Ids, Transport
from evertalk.v1 import accounts_pb2, chat_pb2

_CHAT = "evertalk.v1.ChatService"
READ_STAGGER_S = 1.0
FLUSH_S = 2.0


class Client:
    """One session. Use as `async with Client(...) as chat`.

    Args:
        endpoints: nodes to begin with; more are learned.
        region: preferred; "" = that of the first endpoint.
        handle, password: to sign in with; or `access_token`, which then is renewed by itself only.
        outbox: SQLite file, or a store of another kind, for what is sent and not yet known to be replicated;
            None = memory.
        token: session token that the application committed with its own data (`Client.token`); None = the
            one beside the outbox, or a new session that starts at now.
        receipts: tell senders that messages have arrived here.
        failback: go back to the preferred region when it serves again.
        watch: called with every Notice; must not block or raise. May be set later (`chat.watch`).
        start_timeout: seconds to find the first node.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        region: str = "",
        handle: str = "",
        password: str = "",
        access_token: str = "",
        outbox: Path | OutboxStore | None = None,
        token: bytes | None = None,
        receipts: bool = True,
        failback: bool = True,
        watch: Watch | None = None,
        start_timeout: float = 10.0,
        clock: Clock | None = None,
        ids: Ids | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._ids = ids or SystemIds()
        self._directory = Directory(endpoints, region, transport or GrpcTransport(), self._clock, self._ids)
        self._access = Access(self._directory, self._clock, self._ids, handle, password, access_token, start_timeout)
        self._budget = HedgeBudget()
        self._failover = Failover(self._directory, self._access, self._clock, self._ids, self._budget, failback)
        self._store: OutboxStore | None = SqliteOutbox(outbox) if isinstance(outbox, Path) else outbox
        self._given = token
        self._receipts = receipts
        self._first_watch = watch
        self._start_timeout = start_timeout
        self._session: Session
        self._stack = AsyncExitStack()
        self._running: list[asyncio.Task[None]] = []

    # ------------------------------------------------------------ life

    async def __aenter__(self) -> Client:
        """Connect.

        Raises:
            PeerUnavailable: no node within start_timeout. Refused: BAD_PASSWORD, BAD_TOKEN … StoreError.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._directory.close)
            await self._load(stack)
            group = await stack.enter_async_context(FlatGroup())
            self._running = [group.create_task(self._failover.run())]
            if self._session.journal.durable:
                self._running.append(group.create_task(self._session.journal.run()))
            stack.callback(self._stop)
            try:
                async with asyncio.timeout(self._start_timeout):
                    await self._failover.connected.wait()
            except TimeoutError as error:
                raise PeerUnavailable(f"no node serves within {self._start_timeout} s") from error
            self._stack = stack.pop_all()
        return self

    async def _load(self, stack: AsyncExitStack) -> None:
        saved, kept = await self._store.load() if self._store else ([], b"")
        token = Token.from_bytes(self._given or kept) if self._given or kept else None
        if token is None:
            token = Token(self._ids.token(limits.SESSION_BYTES))
        elif self._given and kept:
            beside = Token.from_bytes(kept)
            token.need.merge(beside.need)
            token.hlc = max(token.hlc, beside.hlc)
        self._session = Session(
            token, self._clock, self._ids, self._store, self._receipts, self._first_watch, self._failover.poke
        )
        self._session.restore(saved)
        self._failover.session = self._session
        if self._store:
            stack.push_async_callback(self._store.close)
            stack.push_async_callback(self._session.journal.flush)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait up to FLUSH_S for what was posted to be accepted, then leave; nothing keeps running."""
        async with self._stack as stack:
            stack.callback(self._session.abandon)
            if error is not None:
                raise error  # the group must see it, or it could not tell its own cancellation from another's
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_S):
                    await self._session.settled.wait()

    def _stop(self) -> None:
        for task in self._running:
            task.cancel()

    # ------------------------------------------------------------ what is known

    @property
    def account(self) -> bytes:
        """This account's id."""
        return self._session.account

    @property
    def session(self) -> bytes:
        """This session's id, 8 bytes; the same after a restart with its token."""
        return self._session.id

    @property
    def region(self) -> str:
        """The region that serves now; "" while none does."""
        return self._failover.primary.reply.region if self._failover.primary else ""

    @property
    def hedges_denied(self) -> int:
        """How often leave to hedge was asked for and there was none: the share of sends that may was spent."""
        return self._budget.denied

    @property
    def node(self) -> str:
        """The node that serves now; "" while none does."""
        return self._failover.primary.reply.node if self._failover.primary else ""

    @property
    def watch(self) -> Watch | None:
        """Who sees every notice."""
        return self._session.watch

    @watch.setter
    def watch(self, watch: Watch | None) -> None:
        self._session.watch = watch

    def events(self) -> Inbox:
        """What happens, in order: `async for event in chat.events()`; Applied, Gap, Connected or Disconnected.

        An event counts as taken once it was handed out. Ends when the client closes.
        """
        return self._session.inbox

    def token(self) -> bytes:
        """The session token: covers exactly what was taken from `events()`. Commit it with what you made of it."""
        return self._session.token_bytes()

    # ------------------------------------------------------------ sending

    async def post(
        self,
        conversation: bytes,
        text: str,
        *,
        reply_to: tuple[bytes, bytes] | None = None,
        expires_in_s: float | None = None,
    ) -> Posted:
        """Queue a message and return; it is sent, in order, when a node can be reached.

        Args:
            conversation: 16 bytes.
            reply_to: (sender, id) of a message of the same conversation.
            expires_in_s: it disappears everywhere after so long.

        Raises:
            Refused: TOO_LARGE, or OVERLOADED if the outbox is full.
        """
        sender, id_ = reply_to or (b"", b"")
        expires = self._session.now_ms() + int(expires_in_s * 1000) if expires_in_s is not None else 0
        return self._post(conversation, Kind.MESSAGE, Message(text, b"", id_, sender), expires_at_ms=expires)

    async def send(
        self,
        conversation: bytes,
        text: str,
        *,
        reply_to: tuple[bytes, bytes] | None = None,
        expires_in_s: float | None = None,
        wait_for: Durability = Durability.ACCEPTED,
        timeout: float | None = 10.0,
    ) -> Sent:
        """Send a message and wait until it is as durable as asked.

        Raises:
            Refused: TOO_LARGE, or OVERLOADED if the outbox is full.
            SendFailed: definitely not written. SendUnknown: it may be, now or later (also at the deadline;
                it stays in the outbox). NotReplicated: at the deadline it was ACCEPTED only.
        """
        posted = await self.post(conversation, text, reply_to=reply_to, expires_in_s=expires_in_s)
        return await self._wait(posted, wait_for, timeout)

    async def edit(
        self, conversation: bytes, target: tuple[bytes, bytes], text: str, *, timeout: float | None = 10.0
    ) -> Sent:
        """Change the text of an own message, named by (sender, id). Raises as `send`."""
        posted = self._post(conversation, Kind.EDIT, Edit(Target(*target), text))
        return await self._wait(posted, Durability.ACCEPTED, timeout)

    async def delete(self, conversation: bytes, target: tuple[bytes, bytes], *, timeout: float | None = 10.0) -> Sent:
        """Delete a message, named by (sender, id), everywhere. Raises as `send`."""
        posted = self._post(conversation, Kind.DELETION, Deletion(Target(*target)))
        return await self._wait(posted, Durability.ACCEPTED, timeout)

    async def react(
        self,
        conversation: bytes,
        target: tuple[bytes, bytes],
        emoji: str,
        *,
        removed: bool = False,
        timeout: float | None = 10.0,
    ) -> Sent:
        """React to a message, named by (sender, id), or take that back. Raises as `send`."""
        posted = self._post(conversation, Kind.REACTION, Reaction(Target(*target), emoji, removed))
        return await self._wait(posted, Durability.ACCEPTED, timeout)

    async def post_edit(self, conversation: bytes, target: Target, text: str) -> Posted:
        """As `edit`, queued and not waited for."""
        return self._post(conversation, Kind.EDIT, Edit(target, text))

    async def post_delete(self, conversation: bytes, target: Target) -> Posted:
        """As `delete`, queued and not waited for."""
        return self._post(conversation, Kind.DELETION, Deletion(target))

    async def post_reaction(self, conversation: bytes, target: Target, emoji: str, *, removed: bool = False) -> Posted:
        """As `react`, queued and not waited for."""
        return self._post(conversation, Kind.REACTION, Reaction(target, emoji, removed))

    @property
    def unsent(self) -> int:
        """Events in the outbox that no node has acknowledged."""
        return self._session.outbox.unaccepted

    async def drained(self) -> None:
        """Until every own event is REPLICATED, or has failed or been released."""
        await self._session.drained()

    async def mark_read(self, conversation: bytes, up_to: Applied) -> Posted:
        """Tell the members that everything up to this event was read; not waited for. Raises as `post`."""
        body = Receipt(Level.READ, up_to.origin, up_to.position)
        return self._post(conversation, Kind.RECEIPT, body, version=up_to.position)

    def _post(self, scope: bytes, kind: Kind, body: Body, version: int = 0, expires_at_ms: int = 0) -> Posted:
        posted = self._session.post(self._session.stamp(scope, kind, body, version, expires_at_ms))
        self._budget.earn()
        return posted

    async def _wait(self, posted: Posted, wait_for: Durability, timeout: float | None) -> Sent:
        try:
            async with asyncio.timeout(timeout):
                return await (posted.accepted if wait_for == Durability.ACCEPTED else posted.replicated)
        except TimeoutError as error:
            if posted.outcome is not None:
                raise NotReplicated(
                    f"ACCEPTED, and not known to be replicated after {timeout} s; it stays in the outbox"
                ) from error
            raise SendUnknown(
                Code.UNKNOWN_OUTCOME, f"not acknowledged within {timeout} s; it stays in the outbox"
            ) from error

    # ------------------------------------------------------------ conversations

    async def direct(self, other: bytes, *, timeout: float | None = 10.0) -> Created:
        """The direct conversation with another account; the same from both sides, made if need be. Raises as `send`."""
        scope = direct_scope(self.account, other)
        members = tuple(sorted({self.account, other}))
        return await self._create(scope, Conversation(ConversationKind.DIRECT, "", members), timeout)

    async def create_group(self, title: str, members: Iterable[bytes], *, timeout: float | None = 10.0) -> Created:
        """A new group with this account as its admin. Raises as `send`."""
        everybody = tuple(sorted({self.account, *members}))
        return await self._create(b"", Conversation(ConversationKind.GROUP, title, everybody), timeout)

    async def _create(self, scope: bytes, body: Conversation, timeout: float | None) -> Created:
        sent = await self._replicate(self._post(scope, Kind.CONVERSATION, body), timeout)
        return Created(sent.scope, sent.durability)

    async def _replicate(self, posted: Posted, timeout: float | None) -> Sent:
        """Answered after REPLICATED while another region answers, else as ACCEPTED (R14); the answer says which."""
        sent = await self._wait(posted, Durability.ACCEPTED, timeout)
        alone = asyncio.ensure_future(self._session.alone.wait())
        replicated = asyncio.ensure_future(posted.replicated)
        try:
            await asyncio.wait((alone, replicated), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            alone.cancel()
            if not replicated.cancel() and not replicated.cancelled():
                replicated.exception()  # released at the outbox's cap: still ACCEPTED
        return posted.outcome or sent

    async def _membership(self, conversation: bytes, account: bytes, role: Role, timeout: float | None) -> Sent:
        return await self._replicate(self._post(conversation, Kind.MEMBERSHIP, Membership(account, role)), timeout)

    async def add_member(
        self, conversation: bytes, account: bytes, *, role: Role = Role.MEMBER, timeout: float | None = 10.0
    ) -> Sent:
        """Add an account to a group. Raises as `send`; the answer says how durable it is (R14)."""
        return await self._membership(conversation, account, role, timeout)

    async def remove_member(self, conversation: bytes, account: bytes, *, timeout: float | None = 10.0) -> Sent:
        """Remove an account from a group. Raises as `send`."""
        return await self._membership(conversation, account, Role.NONE, timeout)

    async def set_role(self, conversation: bytes, account: bytes, role: Role, *, timeout: float | None = 10.0) -> Sent:
        """Change a member's role. Raises as `send`."""
        return await self._membership(conversation, account, role, timeout)

    async def leave(self, conversation: bytes, *, timeout: float | None = 10.0) -> Sent:
        """Leave a group. Raises as `send`."""
        return await self._membership(conversation, self.account, Role.NONE, timeout)

    async def set_title(self, conversation: bytes, title: str, *, timeout: float | None = 10.0) -> Sent:
        """Change a group's title. Raises as `send`."""
        return await self._wait(self._post(conversation, Kind.TITLE, Title(title)), Durability.ACCEPTED, timeout)

    # ------------------------------------------------------------ reading

    async def _ask(self, method: str, request: Any, timeout: float) -> Any:
        """A read from the node that serves, or else any other.

        Raises:
            Refused, PeerUnavailable.
        """

        async def once() -> Any:
            primary = self._failover.primary
            first = primary.endpoint if primary else None
            token = await self._access.token()
            try:
                return await ask(self._directory, method, request, token, READ_STAGGER_S, first)
            except Refused as refused:
                if refused.code != Code.BAD_TOKEN:
                    raise
            await self._access.renew()
            return await ask(self._directory, method, request, await self._access.token(), READ_STAGGER_S, first)

        return await retry(self._ids, timeout, once)

    async def history(
        self,
        conversation: bytes,
        *,
        before: tuple[int, bytes] | None = None,
        limit: int = 50,
        timeout: float = 10.0,
    ) -> Page:
        """A page of a conversation, newest first page, each page oldest first; waits for what this session saw.

        Args:
            before: `next` of the page before; None = from the newest.

        Raises:
            Refused: UNKNOWN_CONVERSATION, NOT_A_MEMBER. PeerUnavailable: nobody answered in time.
        """
        request = chat_pb2.HistoryRequest(
            conversation=conversation, need=wire.encode_vector(self._session.need), limit=limit
        )
        if before is not None:
            request.before.hlc, request.before.id = before
        answer: chat_pb2.HistoryResponse = await self._ask(f"{_CHAT}/History", request, timeout)
        session = self._session
        messages = [wire.decode_delivery(d, session.shards) for d in answer.messages]
        registers = [wire.decode_delivery(d, session.shards) for d in answer.registers]
        session.shown(
            [*messages, *registers], wire.decode_vector(answer.vector), shard_of(conversation, session.shards)
        )
        after = (answer.next.hlc, answer.next.id) if answer.HasField("next") and answer.next.id else None
        return Page(messages, registers, after, answer.gap)

    async def conversations(self, *, timeout: float = 10.0) -> list[ConversationState]:
        """All conversations of this account, newest first. What was seen and is not there comes as a Gap event.

        Raises:
            PeerUnavailable: nobody answered in time.
        """
        request = chat_pb2.ListConversationsRequest(need=wire.encode_vector(self._session.need))
        answer: chat_pb2.ListConversationsResponse = await self._ask(f"{_CHAT}/ListConversations", request, timeout)
        views, first = list(answer.conversations), answer
        while answer.next:
            request.after = answer.next
            answer = await self._ask(f"{_CHAT}/ListConversations", request, timeout)
            views += answer.conversations
        session = self._session
        found = [
            ConversationState(
                c.conversation, c.kind, b"", c.title, c.title_version,
                {m.account: (m.role, m.version) for m in c.members}, c.last_hlc,
            )
            for c in views
        ]  # fmt: skip
        vector = wire.decode_vector(first.vector)
        if first.gap:
            session.gap(Gap(vector.missing(session.need)))
        session.shown([], vector, None)
        for state in found:
            session.listed(state)
        return found

    async def look_up(
        self, *, handles: Iterable[str] = (), accounts: Iterable[bytes] = (), timeout: float = 10.0
    ) -> list[Person]:
        """Those of the named accounts that are known.

        Raises:
            PeerUnavailable: nobody answered in time.
        """
        request = accounts_pb2.LookUpRequest(handles=list(handles), accounts=list(accounts))
        answer: accounts_pb2.LookUpResponse = await self._ask("evertalk.v1.AccountService/LookUp", request, timeout)
        return [Person(a.account, a.handle, a.display_name) for a in answer.accounts]
