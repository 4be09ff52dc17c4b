"""Keeps one session served: connects, hedges what hangs, moves when told, goes home when home is well (P6)."""

from __future__ import annotations

import asyncio
import contextlib
from enum import Enum

from evertalk.client.accounts import Access
from evertalk.client.connection import Link, greet
from evertalk.client.endpoints import STAGGER_S, Backoff, Directory, Endpoint, HedgeBudget, race
from evertalk.client.notices import What
from evertalk.client.session import Session
from evertalk.core import limits
from evertalk.core.errors import RETRY, Code, PeerUnavailable, Refused
from evertalk.ports import Clock, Ids

FAILBACK_AFTER_S = 30.0
SILENT_S = 2.0  # a send unanswered, also by a hedge, and nothing else heard: the stream counts as broken (P6)
BUSY_S = 5.0  # the same for a node that has just said that it is overloaded: others may be, too
HEDGE_S = 5.0  # a hedge that has not answered for so long hangs too
LASTED_S = 5.0  # a stream that lived so long ends all backing off
AGAIN_S = 2.0  # between tries to hedge or to move
LATER_MAX_S = 10.0  # the longest that a node can keep a client waiting by its word
PATIENCE_MAX = 8  # after rounds of tries in vain everything may take so much longer: thousands may be trying


class _Why(Enum):
    CONNECT = "connect"
    HEDGE = "hedge"
    MOVE = "move"
    FAILBACK = "failback"
    FULL = "full"


class Failover:
    """The one task that chooses streams. `poke` makes it look again.

    Args:
        failback: return to the preferred region once it serves again, gently.
    """

    def __init__(
        self, directory: Directory, access: Access, clock: Clock, ids: Ids, budget: HedgeBudget, failback: bool
    ) -> None:
        self.session: Session  # set by the client: session and failover need each other
        self.primary: Link | None = None
        self.connected = asyncio.Event()
        self._directory = directory
        self._access = access
        self._clock = clock
        self._ids = ids
        self._budget = budget
        self._failback = failback
        self._failback_s = 0.0
        self._second: Link | None = None
        self._opening: _Why | None = None
        self._again_s = 0.0
        self._lanes = 0
        self._backoff = Backoff(ids)
        self._patience = 1
        self._eager = True
        self._poked = asyncio.Event()
        self._armed = False
        self._refreshing = False

    def poke(self) -> None:
        """Something has changed: look again."""
        self._poked.set()

    def written(self) -> None:
        """A send was written: watch over its answer, unless that is done already."""
        if not self._armed:
            self.poke()

    async def run(self) -> None:
        """Until cancelled.

        Raises:
            Refused: no node will serve this session, by name (BAD_TOKEN, BAD_PASSWORD …).
        """
        async with asyncio.TaskGroup() as group:
            while True:
                self._poked.clear()
                due = self._step(group, self._clock.monotonic())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if due is None else max(0.0, due - self._clock.monotonic())):
                        await self._poked.wait()

    # ------------------------------------------------------------ decisions

    def _step(self, group: asyncio.TaskGroup, now: float) -> float | None:
        """Decide what is to be done now; returns when to look again although nothing happens."""
        if self.primary is None and self._second is not None:
            self._promote(self._second)
        due = [self._access.refresh_s]
        if not self._refreshing and now >= self._access.refresh_s:
            self._refreshing = True
            group.create_task(self._refresh())
        primary = self.primary
        if primary is None:
            self._open(group, _Why.CONNECT)
            return None
        due.append(primary.heard_s + limits.SUSPECT_S)
        if now >= due[-1]:
            primary.stop(f"nothing was heard for {limits.SUSPECT_S:.0f} s")
            return None
        due += self._hedge(group, primary, now)
        due += self._move(group, primary, now)
        due += self.session.send_receipts(primary.lane)
        ahead = [d for d in due if d > now]
        return min(ahead, default=None)

    def _hedge(self, group: asyncio.TaskGroup, primary: Link, now: float) -> list[float]:
        """A send that nobody acknowledges goes to another region too; who acknowledges first wins."""
        outbox = self.session.outbox
        since = outbox.waiting_since(primary.lane)
        if self._second is not None:
            return self._judge_hedge(primary, self._second, since, now)
        self._armed = since is not None
        if since is None:
            return []
        if now < since + limits.HEDGE_AFTER_S:
            return [since + limits.HEDGE_AFTER_S]
        may = not outbox.overloaded(primary.lane) and self._directory.elsewhere(primary.endpoint.region)
        if may and self._opening is None and now >= self._again_s and self._budget.spend():
            self.session.tell(What.HEDGED, node=primary.reply.node, region=primary.reply.region)
            self._open(group, _Why.HEDGE)
        return [self._judge_silence(primary, since, now), self._again_s]

    def _judge_hedge(self, primary: Link, second: Link, since: float | None, now: float) -> list[float]:
        given_up = second.since_s + HEDGE_S
        if second.lane in self.session.answering:
            self._promote(second)
        elif since is None or now < since + limits.HEDGE_AFTER_S:
            second.stop("the first stream answers again")
        else:
            if now >= given_up:
                second.stop("the hedge hangs too")
            return [given_up, self._judge_silence(primary, since, now)]  # then the hedge takes over, and may hedge too
        return [given_up]

    def _judge_silence(self, primary: Link, since: float, now: float) -> float:
        """End the stream if it has been silent for too long; returns when that is."""
        patience_s = (BUSY_S if self.session.outbox.overloaded(primary.lane) else SILENT_S) * self._patience
        silent = max(since, primary.heard_s) + patience_s
        if now >= silent:
            primary.stop(f"a send had no answer and nothing was heard for {patience_s:.0f} s")
        return silent

    def _move(self, group: asyncio.TaskGroup, primary: Link, now: float) -> list[float]:
        """Another stream first, then leave this one: log full, asked to go, fallen behind, or home is well again."""
        if self._full(primary):
            if now >= self._again_s:
                self._again_s = now + AGAIN_S  # the other region may be full too: no running to and fro
                self._open(group, _Why.FULL)
            return [self._again_s]
        resume = primary.dropping and not len(self.session.inbox)
        home = self._directory.region
        if primary.leave is not None or resume:
            if primary.leave is not None:
                self._directory.learn(Endpoint(e.region, e.address) for e in primary.leave.endpoints)
            if now >= self._again_s:
                self._open(group, _Why.MOVE)
            return [self._again_s]
        if self._failback and primary.endpoint.region != home and self._directory.order(only_region=home):
            if now >= self._failback_s:
                self._plan_failback(now)
                self._open(group, _Why.FAILBACK)
            return [self._failback_s]
        return []

    def _full(self, primary: Link) -> bool:
        """True if this region writes nothing more, and there is another: sends would wait for room."""
        return self.session.outbox.full(primary.lane) and self._directory.elsewhere(primary.endpoint.region)

    def _plan_failback(self, now: float) -> None:
        self._failback_s = now + FAILBACK_AFTER_S * (1 + self._ids.random())

    def _promote(self, link: Link) -> None:
        """From now on this is the stream; the other one, if it still lives, ends."""
        old, self.primary = self.primary, link
        takes_over = old is not None or self._second is link
        if self._second is link:
            self._second = None
        self._plan_failback(self._clock.monotonic())
        if old is not None:
            old.stop("another stream took over")
        if takes_over:
            link.beat()  # the old one's acknowledgements may have come after this one's hello
        self.session.connected(link.reply.region, link.reply.node, moved=old is not None)
        self.connected.set()

    # ------------------------------------------------------------ streams

    def _open(self, group: asyncio.TaskGroup, why: _Why) -> None:
        if self._opening is None and (why is _Why.CONNECT or self._second is None):
            self._opening = why
            group.create_task(self._opener(group, why))

    async def _opener(self, group: asyncio.TaskGroup, why: _Why) -> None:
        """Find a node; connecting goes on until one serves, anything else is tried once."""
        later_s = 0.0
        try:
            while True:
                if why is _Why.CONNECT and not self._eager:
                    await asyncio.sleep(max(self._backoff.next_s(), later_s))
                self._eager = False
                try:
                    token = await self._access.token()
                    link = await self._find(why, token)
                    self._patience = 1
                except (PeerUnavailable, Refused) as error:
                    if not await self._mend(error):
                        raise
                    if why is not _Why.CONNECT or self.primary is not None:
                        self._again_s = self._clock.monotonic() + AGAIN_S
                        return
                    self._patience = min(2 * self._patience, PATIENCE_MAX)
                    later_s = self._asked_to_wait(error)
                    continue
                self._adopt(group, link, why)
                return
        finally:
            self._opening = None
            self.poke()

    async def _find(self, why: _Why, token: str) -> Link:
        """The node that serves first. A hedge tries this region's other nodes last: all of it may hang (P6)."""
        candidates = self._candidates(why)
        if why is _Why.HEDGE and self.primary is not None:
            here = self.primary.endpoint.region
            siblings = [e for e in candidates if e.region == here]
            try:
                return await self._race([e for e in candidates if e.region != here], token)
            except PeerUnavailable:
                candidates = siblings
            except Refused as refused:
                if refused.code not in RETRY or not siblings:
                    raise
                candidates = siblings
        return await self._race(candidates, token)

    async def _race(self, candidates: list[Endpoint], token: str) -> Link:
        return await race(
            candidates,
            lambda endpoint: self._attempt(endpoint, token),
            lambda late: late.stop("came too late"),
            STAGGER_S * self._patience,
        )

    def _asked_to_wait(self, error: PeerUnavailable | Refused) -> float:
        """Seconds after which nodes that are too busy want to be asked again, and some jitter."""
        if not isinstance(error, Refused) or error.code != Code.OVERLOADED:
            return 0.0
        return min(LATER_MAX_S, error.retry_after_ms / 1000) * (1 + self._ids.random() / 4)

    async def _mend(self, error: PeerUnavailable | Refused) -> bool:
        """True if another try makes sense."""
        if isinstance(error, PeerUnavailable) or error.code in RETRY:
            return True
        if error.code == Code.BAD_TOKEN:
            with contextlib.suppress(PeerUnavailable):
                await self._access.renew()
            return True
        return False

    def _candidates(self, why: _Why) -> list[Endpoint]:
        primary = self.primary
        if why is _Why.FAILBACK:
            return self._directory.order(only_region=self._directory.region)
        if primary is None:
            return self._directory.order()
        if why is _Why.FULL:
            return [e for e in self._directory.order() if e.region != primary.endpoint.region]
        if why is _Why.HEDGE:
            return self._directory.order(avoid_region=primary.endpoint.region, avoid=primary.endpoint)[:-1]
        return self._directory.order(avoid=primary.endpoint if primary.leave else None)

    async def _attempt(self, endpoint: Endpoint, token: str) -> Link:
        directory = self._directory
        timeout_s = limits.HELLO_TIMEOUT_S * self._patience
        started = self._clock.monotonic()
        try:
            stream, first = await greet(directory.peer(endpoint), token, self.session, timeout_s)
        except Refused as refused:
            directory.failed(endpoint, refused.retry_after_ms)
            raise
        except PeerUnavailable:
            directory.failed(endpoint)
            if self._clock.monotonic() - started >= timeout_s:
                await directory.reset(endpoint)
            raise
        directory.succeeded(endpoint)
        self._lanes += 1
        return Link(self._lanes, endpoint, stream, first, self.session, self._clock, self)

    def _adopt(self, group: asyncio.TaskGroup, link: Link, why: _Why) -> None:
        self._directory.learn(Endpoint(e.region, e.address) for e in link.reply.endpoints)
        self._directory.used(link.endpoint, +1)
        link.start()
        group.create_task(self._drive(link))
        if why is _Why.HEDGE and self.primary is not None:
            self._second = link
        else:
            self._promote(link)

    async def _drive(self, link: Link) -> None:
        """One stream's life."""
        try:
            await link.run()
        finally:
            self._directory.used(link.endpoint, -1)
            self.session.closed(link.lane)
        if link is self._second:
            self._second = None
        if link is self.primary:
            self.primary = None
            self.connected.clear()
            self._after_loss(link)
        self.poke()

    def _after_loss(self, link: Link) -> None:
        ended = link.ended
        retry_after_ms = ended.retry_after_ms if isinstance(ended, Refused) else 0
        if self._clock.monotonic() - link.since_s >= LASTED_S:
            self._backoff.reset()
        if not isinstance(ended, Refused) or ended.code != Code.SLOW_READER:
            self._directory.failed(link.endpoint, retry_after_ms)
        self.session.disconnected(link.reply.region, link.reply.node, str(ended))

    async def _refresh(self) -> None:
        try:
            await self._access.renew()
        except PeerUnavailable:
            self._access.later()
        finally:
            self._refreshing = False
            self.poke()
