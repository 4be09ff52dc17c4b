"""Which node next: own region first, jitter and backoff, a race between regions, a budget for hedges."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from evertalk.core import limits
from evertalk.core.errors import RETRY, PeerUnavailable, Refused
from evertalk.ports import Clock, Ids, Peer, Transport

FIRST_RETRY_S = 0.05
RETRY_MAX_S = 2.0
STAGGER_S = 0.15  # the next candidate starts this long after the one before ("happy eyeballs", RFC 8305)
HEDGE_BURST = 2.0
_KNOWN_MAX = 64
_PENALTY_S = 0.5
_PENALTY_MAX_S = 10.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A node as clients reach it; address is "host:port"."""

    region: str
    address: str


@dataclass(slots=True)
class _Health:
    failures: int = 0
    not_before_s: float = 0.0


class Directory:
    """All known nodes, one connection each, and how they did lately.

    Args:
        region: preferred; "" = that of the first endpoint.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], region: str, transport: Transport, clock: Clock, ids: Ids
    ) -> None:
        if not endpoints:
            raise ValueError("a client needs at least one endpoint")
        self.region = region or endpoints[0].region
        self._transport = transport
        self._clock = clock
        self._ids = ids
        self._health = {endpoint: _Health() for endpoint in endpoints}
        self._peers: dict[str, Peer] = {}
        self._users: dict[str, int] = {}

    def learn(self, endpoints: Iterable[Endpoint]) -> None:
        """Note nodes that a node named."""
        addresses = {e.address for e in self._health}
        for endpoint in endpoints:
            if endpoint.address and endpoint.address not in addresses and len(self._health) < _KNOWN_MAX:
                self._health[endpoint] = _Health()

    def order(self, avoid_region: str = "", avoid: Endpoint | None = None, only_region: str = "") -> list[Endpoint]:
        """Candidates, best first; regions alternate, so that a dead region costs one step.

        Args:
            avoid_region: goes last among regions.
            avoid: this node goes last of all.
            only_region: no other region's nodes.
        """
        now = self._clock.monotonic()
        by_region: dict[str, list[tuple[bool, int, float, int, Endpoint]]] = {}
        for n, (endpoint, health) in enumerate(self._health.items()):
            if endpoint != avoid and only_region in ("", endpoint.region):
                rank = (health.not_before_s > now, health.failures, self._ids.random(), n, endpoint)
                by_region.setdefault(endpoint.region, []).append(rank)
        regions = sorted(by_region, key=lambda r: (r == avoid_region, r != self.region, min(by_region[r])[:3]))
        queues = [deque(rank[-1] for rank in sorted(by_region[region])) for region in regions]
        ordered: list[Endpoint] = []
        while any(queues):
            ordered += [queue.popleft() for queue in queues if queue]
        if avoid in self._health and only_region in ("", avoid.region):
            ordered.append(avoid)
        return ordered

    def elsewhere(self, region: str) -> bool:
        """True if any other region is known."""
        return any(e.region != region for e in self._health)

    def succeeded(self, endpoint: Endpoint) -> None:
        """It served."""
        self._health[endpoint] = _Health()

    def failed(self, endpoint: Endpoint, retry_after_ms: int = 0) -> None:
        """It did not serve: others come first for a while."""
        health = self._health[endpoint]
        health.failures = min(health.failures + 1, 16)
        penalty = min(_PENALTY_MAX_S, _PENALTY_S * 2**health.failures)
        health.not_before_s = self._clock.monotonic() + max(penalty, retry_after_ms / 1000)

    def peer(self, endpoint: Endpoint) -> Peer:
        """The one connection to a node; opened when it is first used."""
        if endpoint.address not in self._peers:
            self._peers[endpoint.address] = self._transport.peer(endpoint.address)
        return self._peers[endpoint.address]

    def used(self, endpoint: Endpoint, by: int) -> None:
        """Count streams on a connection: +1 or -1."""
        self._users[endpoint.address] = self._users.get(endpoint.address, 0) + by

    async def reset(self, endpoint: Endpoint) -> None:
        """Drop a connection that hangs, unless a stream lives on it; the next use opens a new one."""
        if not self._users.get(endpoint.address) and (peer := self._peers.pop(endpoint.address, None)):
            await peer.close()

    async def close(self) -> None:
        """Close all connections."""
        while self._peers:
            await self._peers.popitem()[1].close()


class Backoff:
    """Exponential with full jitter over the upper half; the first wait is below FIRST_RETRY_S."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._tries = 0

    def reset(self) -> None:
        """Something worked."""
        self._tries = 0

    def next_s(self) -> float:
        """Seconds to wait before the next try."""
        span: float = min(RETRY_MAX_S, FIRST_RETRY_S * 2**self._tries)
        low = 0.5 if self._tries else 0.0
        self._tries = min(self._tries + 1, 16)
        return span * (low + (1 - low) * self._ids.random())


class HedgeBudget:
    """A token bucket: hedges are decided for at most HEDGE_SHARE of sends, after a small burst."""

    def __init__(self, share: float = limits.HEDGE_SHARE, burst: float = HEDGE_BURST) -> None:
        self._share = share
        self._burst = burst
        self._tokens = burst
        self.denied = 0  # how often there was none

    def earn(self) -> None:
        """A send was made."""
        self._tokens = min(self._burst, self._tokens + self._share)

    def spend(self) -> bool:
        """Take leave for one hedge; False if there is none."""
        if self._tokens < 1:
            self.denied += 1
            return False
        self._tokens -= 1
        return True


async def race(
    candidates: Sequence[Endpoint],
    attempt: Callable[[Endpoint], Awaitable[T]],
    discard: Callable[[T], None],
    stagger_s: float = STAGGER_S,
) -> T:
    """The first success; the next candidate starts when one fails or stagger_s after the one before.

    Args:
        discard: called with every success that came too late.

    Raises:
        Refused: by name, where another node would say the same, or what the last one said.
        PeerUnavailable: nobody answered.
    """
    todo = deque(candidates)
    running: set[asyncio.Future[T]] = set()
    last: Exception = PeerUnavailable("no node is known")
    try:
        while todo or running:
            if todo:
                running.add(asyncio.ensure_future(attempt(todo.popleft())))
            done, _ = await asyncio.wait(
                running, timeout=stagger_s if todo else None, return_when=asyncio.FIRST_COMPLETED
            )
            for one in done:
                error = one.exception()
                if error is None:
                    running.discard(one)
                    return one.result()
                running.discard(one)
                if not isinstance(error, PeerUnavailable) and not (isinstance(error, Refused) and error.code in RETRY):
                    raise error
                if isinstance(error, Refused) or not isinstance(last, Refused):
                    last = error  # a node that says why says more than one that does not answer
        if isinstance(last, Refused):
            raise last
        raise PeerUnavailable(f"no node serves: {last}") from last
    finally:
        for one in running:
            one.cancel()
        for outcome in await asyncio.gather(*running, return_exceptions=True):
            if not isinstance(outcome, BaseException):
                discard(outcome)
