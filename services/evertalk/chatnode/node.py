"""What the parts of one chat node share: settings, clock, store, watermarks, who is whose member, state."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import structlog

from evertalk.adapters.settings import NodeSettings
from evertalk.core import limits
from evertalk.core.accept import Rights
from evertalk.core.clock import HybridClock, ms_of
from evertalk.core.errors import Code, Refused
from evertalk.core.merge import JOINING, initial_role
from evertalk.core.model import Conversation, Event, Role
from evertalk.core.replication import Watermarks
from evertalk.core.vector import Hole, Key, Vector
from evertalk.ports import Clock, Ids, OriginInfo, Store, StoreEntry

_RIGHTS_CACHED = 20_000
#: Two publishing rounds of every store, and a little.
_KNOWN_S = 2.5
NOT_FOUND = frozenset({Code.UNKNOWN_CONVERSATION, Code.UNKNOWN_ACCOUNT, Code.NOT_A_MEMBER})


class State(Enum):
    """Clients are served only while SERVING; Export always."""

    CATCHING_UP = "CATCHING_UP"
    SERVING = "SERVING"
    DRAINING = "DRAINING"


@dataclass(slots=True)
class Counters:
    accepted: int = 0
    applied: int = 0
    delivered: int = 0


class Progress:
    """Wakes whoever waits for the store to move on."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def moved(self) -> None:
        """Something was applied."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Until the next move."""
        await self._event.wait()


@dataclass
class Node:
    """Shared state of one node; single-threaded, changed between awaits only."""

    settings: NodeSettings
    clock: Clock
    ids: Ids
    store: Store
    marks: Watermarks
    hlc: HybridClock = field(default_factory=HybridClock)
    highest_accepted: int = 0
    origin: str = ""  # empty while no log is claimed
    caught_up: bool = False
    draining: bool = False
    store_failed: bool = False
    importing: bool = False  # rows of an Export were handed out, and the vector has not moved yet
    origins: dict[str, OriginInfo] = field(default_factory=dict)
    stores: list[StoreEntry] = field(default_factory=list)
    checkpointed: Vector = field(default_factory=Vector)
    #: (origin, shard) -> first readable position beyond a gap; filled by import, or passed as a hole.
    gaps: dict[Key, int] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)
    progress: Progress = field(default_factory=Progress)
    published: Progress = field(default_factory=Progress)  # moved when `stores` was read anew
    stores_read_ms: int = 0
    #: One writer at a time: tail, import and checkpoint take turns.
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: Applied *and* handed to every session's queue: what markers may say.
    fanned: Vector = field(default_factory=Vector)

    def __post_init__(self) -> None:
        self.log = structlog.get_logger().bind(node=self.settings.node)
        self._rights: OrderedDict[bytes, Rights] = OrderedDict()
        self._rights_version = 0
        #: Creations appended here and not applied yet: scope -> (event id, rights).
        self.pending_rights: dict[bytes, tuple[bytes, Rights]] = {}

    @property
    def state(self) -> State:
        if self.draining:
            return State.DRAINING
        return State.SERVING if self.caught_up and self.origin and not self.store_failed else State.CATCHING_UP

    @property
    def met(self) -> frozenset[str]:
        """Origins that are folded and forgotten: whoever needs them has them (R16)."""
        folded = self.store.folded
        return folded - self.store.vector.origins() if folded else folded

    def region_time_ms(self) -> int:
        """Region time: the wall clock, never behind what was seen (R2)."""
        return max(self.clock.wall_ms(), ms_of(self.hlc.last))

    def live_peers(self) -> list[str]:
        """Other regions heard from within STORE_LIVE_S."""
        own = self.settings.region
        return sorted({s.region for s in self.stores if s.region != own and s.age_s <= limits.STORE_LIVE_S})

    def knows_all_since(self, ms: int) -> bool:
        """True if whatever anybody knew at that time is applied here: every region live, no gap seen, no hole open that
        anybody could fill, and every store has published since, no further than this one is."""
        vector = self.store.vector
        if not self.live_peers_complete() or self.gaps or not all(map(self._is_lost, vector.holes)):
            return False
        live = (s for s in self.stores if s.age_s <= limits.STORE_LIVE_S and s.node != self.settings.node)
        return all(self.stores_read_ms - s.age_s * 1000 >= ms and vector.reaches(s.vector, self.met) for s in live)

    def _is_lost(self, hole: Hole) -> bool:
        """True if its origin is folded, or every published store has passed it and has nothing of it."""
        key = (hole.origin, hole.shard)
        return hole.origin in self.store.folded or all(
            s.vector[key] >= hole.last and s.vector.lacks(*key, hole.first, hole.last) for s in self.stores
        )

    def not_found(self, refused: Refused, since_ms: int) -> Refused:
        """UNKNOWN_… and NOT_A_MEMBER are definite only if this node can know; else NOT_YET.

        Args:
            since_ms: when the request was made; what it names may have come into being until then.
        """
        if refused.code not in NOT_FOUND or self.knows_all_since(since_ms):
            return refused
        return Refused(Code.NOT_YET, f"{refused.sentence}, as far as can be known here and now", 300)

    async def until_known(self, refused: Refused) -> Refused:
        """For calls outside a session: wait until not-found is definite, or a little while; then say which."""
        began = self.region_time_ms()
        try:
            async with asyncio.timeout(_KNOWN_S):
                while self.not_found(refused, began).code is Code.NOT_YET and self.live_peers_complete():
                    await self.published.wait()
        except TimeoutError:
            pass
        return self.not_found(refused, began)

    def live_peers_complete(self) -> bool:
        """True if every configured region is heard from: waiting for their word makes sense."""
        return set(self.live_peers()) >= set(self.settings.peers)

    async def rights(self, scope: bytes) -> Rights | None:
        """Who may do what in a conversation, from the cache or the store; None if unknown."""
        found = self.cached_rights(scope)
        if found is not None:
            return found
        pending = self.pending_rights.get(scope)
        if pending is not None:
            return pending[1]
        return await self._stored_rights(scope)

    async def members(self, scope: bytes) -> set[bytes]:
        """Who is in a conversation by what is applied here."""
        rights = self._rights.get(scope) or await self._stored_rights(scope)
        return {a for a, role in rights.members.items() if role != Role.NONE} if rights else set()

    async def _stored_rights(self, scope: bytes) -> Rights | None:
        version = self._rights_version
        state = await self.store.conversation(scope)
        if state is None:
            return None
        rights = Rights(state.kind, state.creator, {a: role for a, (role, _) in state.members.items()})
        if version == self._rights_version:  # nothing changed while we read
            self._rights[scope] = rights
            if len(self._rights) > _RIGHTS_CACHED:
                self._rights.popitem(last=False)
        return rights

    def cached_rights(self, scope: bytes) -> Rights | None:
        """The cache alone: most have been asked for before, and there is nothing to await."""
        found = self._rights.get(scope)
        if found is not None:
            self._rights.move_to_end(scope)
        return found

    def noticed(self, event: Event, accepted_at: int) -> None:
        """An applied event: merge when it was accepted (R2), and forget rights that it changes.

        Clients' own stamps are not merged: each may be a minute ahead, and together they would wind up the clock.
        """
        self.hlc.merge(accepted_at)
        if accepted_at > self.highest_accepted:
            self.highest_accepted = accepted_at
        if event.kind in JOINING:
            self._rights_version += 1
            self._rights.pop(event.scope, None)
            self.not_pending(event)

    def pending(self, event: Event) -> None:
        """A conversation's creation is on its way into the log: what follows it in the same stream may rely on it."""
        body = event.body
        if isinstance(body, Conversation) and event.scope not in self._rights:
            roles = {member: initial_role(body, event.sender, member) for member in body.members}
            self.pending_rights[event.scope] = (event.id, Rights(body.kind, event.sender, roles))

    def not_pending(self, event: Event) -> None:
        """It was applied, or never written."""
        pending = self.pending_rights.get(event.scope)
        if pending is not None and pending[0] == event.id:
            del self.pending_rights[event.scope]

    def replicated(self, key: Key, awaited: int = 0) -> int:
        """Position up to which (origin, shard) is REPLICATED; a folded origin is, as far as anything of it is left.

        Args:
            awaited: in a folded origin it is reached too, though maybe as lost: `replicated_of` tells.
        """
        if key[0] in self.store.folded:
            return max(self.store.vector[key], awaited)
        return self.marks.replicated(*key)

    def replicated_of(self, positions: Mapping[Key, int]) -> Vector:
        """These positions, as what is REPLICATED: without what this store, or one that publishes itself, lacks."""
        vectors = [self.store.vector, *(store.vector for store in self.stores)]
        holes = {h for key in positions for vector in vectors for h in vector.holes_of(*key)}
        return Vector(positions, holes | self._behind_the_end(positions, vectors))

    def _behind_the_end(self, positions: Mapping[Key, int], vectors: Sequence[Vector]) -> set[Hole]:
        """What folded origins acknowledged and nobody else heard of: it burned, and no later entry shows the gap."""
        ends = {k: max(vector[k] for vector in vectors) for k in positions if k[0] in self.store.folded}
        return {Hole(*k, end + 1, positions[k]) for k, end in ends.items() if positions[k] > end}

    def is_replicated(self, key: Key, position: int) -> bool:
        """True if this position of (origin, shard) is REPLICATED."""
        return self.replicated_of({key: self.replicated(key)}).covers_range(*key, position, position)

    async def wait_for(self, need: Vector, timeout_s: float) -> Vector:
        """Wait until the store reaches `need`; returns what is still missing then (R7)."""
        if self.store.vector.reaches(need, self.met):
            return Vector()  # the usual case, and thousands may ask
        try:
            async with asyncio.timeout(timeout_s):
                while not self.store.vector.reaches(need, self.met):
                    await self.progress.wait()
        except TimeoutError:
            pass
        return self.store.vector.missing(need, self.met)
