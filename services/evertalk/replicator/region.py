"""What one replicator knows: its region's board and mirrors, its peers' boards, and everybody's watermarks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evertalk.core import limits, replication
from evertalk.core.model import Stream
from evertalk.core.replication import Watermarks
from evertalk.core.vector import Hole, Key
from evertalk.ports import Board, BoardReader, Clock, OriginInfo, StoreEntry, StreamState, Tail, Watermark


@dataclass(frozen=True, slots=True)
class BoardView:
    """One region's board as it was read at one moment; `streams` are those of every unfolded origin."""

    region: str
    origins: dict[str, OriginInfo]
    stores: list[StoreEntry]
    streams: dict[Stream, StreamState]


async def look(board: BoardReader, region: str, shards: int) -> BoardView:
    """Read a region's board.

    Origins come first: streams of one that is closed there do not grow after it.

    Raises:
        LogUnavailable.
    """
    origins = await board.origins()
    stores = await board.stores()
    wanted = [
        Stream(info.origin, shard, info.region != region)
        for info in origins.values()
        if info.state != "folded"
        for shard in range(shards)
    ]
    return BoardView(region, origins, stores, await board.streams(wanted))


@dataclass(frozen=True, slots=True)
class Peer:
    """How this replicator reads another region."""

    region: str
    board: BoardReader
    tail: Tail


@dataclass(slots=True)
class Mirror:
    """A mirror as we know it: moved on by our own appends, corrected by every look."""

    last: int = 0
    floor: int = 0
    base: int = 0


class Region:
    """State that the replicator's loops share. Each method is one step; nothing is half done at an await.

    Args:
        name: this region.
        shards: of the cluster.
        copies: regions that make REPLICATED.
        peers: names of the others.
    """

    def __init__(self, name: str, shards: int, copies: int, peers: Iterable[str], board: Board, clock: Clock) -> None:
        self.name, self.shards, self.board, self.clock = name, shards, board, clock
        self._regions = (name, *peers)
        self._lost: frozenset[Hole] = frozenset()  # what nobody can fill, as of the last look
        self.view = BoardView(name, {}, [], {})
        self.looks = 0  # raised with every look: what was derived from an older one is stale
        self.mirrors: dict[Key, Mirror] = {}
        self.table = Watermarks(copies)  # the peers' own
        self.views: dict[str, BoardView] = {}
        self.seen_at: dict[str, float] = {}  # of views, monotonic seconds
        self.heard_at: dict[str, float] = dict.fromkeys(self._regions[1:], clock.monotonic())
        self.gone: dict[str, set[str]] = {}  # by home: closed origins that its Redis has lost
        self.stopped: set[Key] = set()  # mirrors above their cap
        self.pressed = False  # Redis is short of memory: no mirroring at all
        self.stalled: set[Key] = set()  # waiting for own stores before a jump; looked at again with each look

    async def refresh(self) -> None:
        """Look at the own board, and correct what we believed of the mirrors.

        A mirror that we moved while looking keeps what we know of it: the next look will have it.
        """
        before = {key: mirror.last for key, mirror in self.mirrors.items()}
        self.view = await look(self.board, self.name, self.shards)
        self._lost = replication.lost_for_good(self._regions, self.fresh_views())
        found = {}
        for info in self.view.origins.values():
            if info.region == self.name or info.state == "folded":
                continue
            for shard in range(self.shards):
                key = (info.origin, shard)
                known = self.mirrors.get(key)
                level = self.view.streams.get(Stream(info.origin, shard, True))
                if known is not None and known.last != before.get(key):
                    found[key] = known
                else:
                    found[key] = Mirror(level.last, level.floor, level.base) if level else Mirror()
        self.mirrors = found
        self.stalled.clear()
        self.looks += 1
        self.table.drop(o.origin for o in self.view.origins.values() if o.state == "folded")

    def last(self, key: Key) -> int:
        """Last position of a mirror, 0 if there is none."""
        mirror = self.mirrors.get(key)
        return mirror.last if mirror else 0

    def stop(self, stopped: set[Key], pressed: bool) -> None:
        """Mirror none of these for now, or nothing at all."""
        self.stopped, self.pressed = stopped, pressed
        self.looks += 1

    def mirrors_now(self, key: Key) -> bool:
        """False while mirroring of this log is stopped, or waits for a jump."""
        return not (self.pressed or key in self.stopped or key in self.stalled)

    def appended(self, key: Key, position: int) -> None:
        """Our own append moved a mirror."""
        self.mirrors.setdefault(key, Mirror()).last = position

    def may_jump(self, key: Key) -> bool:
        """A jump empties the mirror, so it is a trim: own stores must hold what is in it (R5)."""
        mirror = self.mirrors.get(key, Mirror())
        held = replication.held(self.view.stores, self.name, key, mirror.floor)
        return mirror.last <= max(mirror.floor, held)

    def watermark(self, key: Key, position: int) -> Watermark:
        """What to announce once a mirror has reached `position`; position 0 if nothing (R5)."""
        life = replication.open_origin(self.name, self.view.origins)
        base = self.mirrors[key].base if key in self.mirrors else 0
        valid = life and replication.is_valid(self.view.stores, self.name, key, base, self._lost)
        return Watermark(self.name, f"{life}/{base}", *key, position if valid else 0)

    def own_marks(self) -> list[Watermark]:
        """Watermarks of all own mirrors, those that hold nothing as 0: their life replaces an older one."""
        if not replication.open_origin(self.name, self.view.origins):
            return []
        return [self.watermark(key, mirror.last) for key, mirror in self.mirrors.items()]

    def peers_marks(self) -> list[Watermark]:
        """Everything heard from peers."""
        return self.table.all()

    async def relay(self, marks: Iterable[Watermark]) -> None:
        """Take in what peers hold, and tell own nodes what is new of it.

        Raises:
            LogUnavailable: own Redis; the next full announcement makes up for it.
        """
        changed = [mark for mark in marks if not self.folded(mark.origin) and self.table.note(mark)]
        if changed:
            await self.board.announce(changed, relayed=True)

    async def watch(self, peer: Peer) -> BoardView:
        """Look at a peer's board, and relay what its mirrors hold.

        Raises:
            LogUnavailable.
        """
        view = await look(peer.board, peer.region, self.shards)
        self.views[peer.region] = view
        self.seen_at[peer.region] = self.clock.monotonic()
        await self.relay(replication.marks_of(view, self.view.origins, self.shards, self._lost))
        return view

    def folded(self, origin: str) -> bool:
        """True if this region has folded it."""
        info = self.view.origins.get(origin)
        return info is not None and info.state == "folded"

    def heard(self, peer: str) -> None:
        """A read from this peer succeeded."""
        self.heard_at[peer] = self.clock.monotonic()

    def reaches(self, region: str) -> bool:
        """True if a configured peer answered within the last 5 s."""
        at = self.heard_at.get(region)
        return at is not None and self.clock.monotonic() - at <= limits.STORE_LIVE_S

    def orphans(self, origins: Mapping[str, OriginInfo]) -> set[str]:
        """Origins of third regions that their home cannot be asked for: unreachable, or lost there (R8)."""
        return {
            o.origin for o in origins.values() if not self.reaches(o.region) or o.origin in self.gone.get(o.region, ())
        }

    def fresh_views(self) -> dict[str, BoardView]:
        """Boards as they were within the last seconds, own included."""
        now = self.clock.monotonic()
        fresh = {r: v for r, v in self.views.items() if now - self.seen_at[r] <= limits.STORE_LIVE_S}
        return {**fresh, self.name: self.view}
