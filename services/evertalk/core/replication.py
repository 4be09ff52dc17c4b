"""Replication decisions, pure: what to append, jump, trim, carry and fold, and what a watermark says.

Nothing here waits or talks: the replicator asks and acts. Positions count entries of one
(origin, shard) from 1.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from evertalk.core import limits
from evertalk.core.board import OriginInfo, StoreEntry, StreamState, View, Watermark
from evertalk.core.ids import region_of
from evertalk.core.model import Stream
from evertalk.core.vector import Hole, Key, Vector

R = TypeVar("R", bound=StoreEntry)

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_STATES = ("open", "closed", "folded")
_PRESSURE = 0.85  # of maxmemory: beyond it own writes need what is left
_SQUEEZE = 4  # under pressure a stream's cap is this many times smaller


# ---------------------------------------------------------------- pulling


@dataclass(frozen=True, slots=True)
class Step:
    """What to do with one mirror after a read: append these entries, jump behind a position, or neither."""

    append: tuple[tuple[int, bytes], ...] = ()
    jump: int = 0


def plan(asked: int, last: int, floor: int, entries: Sequence[tuple[int, bytes]]) -> Step:
    """What one read means for a mirror (R4, R6).

    Args:
        asked: the cursor that was read from.
        last: the mirror's last position now.
        floor: the log's, fetched after the entries.
        entries: (position, payload) beyond `asked`, in order.
    """
    if last < asked:  # the mirror was emptied meanwhile: what was read does not follow it
        return Step()
    fresh = [entry for entry in entries if entry[0] > last]
    if not fresh:
        return Step(jump=floor if floor > last else 0)
    if fresh[0][0] != last + 1:
        return Step(jump=fresh[0][0] - 1)
    return Step(append=tuple(entry for at, entry in enumerate(fresh, last + 1) if entry[0] == at))


def streams_to_pull(
    peer: str, own: str, theirs: Mapping[str, OriginInfo], ours: Mapping[str, OriginInfo], shards: int,
    orphans: Collection[str] = (),
) -> list[Stream]:  # fmt: skip
    """Streams of a peer's Redis to tail: its logs, and its mirrors of third regions' orphaned origins (R8).

    Args:
        orphans: origins whose home cannot be asked for them.
    """
    folded = {info.origin for info in ours.values() if info.state == "folded"}
    wanted = [
        info
        for info in theirs.values()
        if info.state != "folded" and info.origin not in folded
        and (info.region == peer or (info.region != own and info.origin in orphans))
    ]  # fmt: skip
    return [Stream(o.origin, shard, o.region != peer) for o in wanted for shard in range(shards)]


def open_origin(region: str, origins: Mapping[str, OriginInfo]) -> str:
    """The region's open origin, "" if none is known."""
    return max((o.origin for o in origins.values() if o.region == region and o.state == "open"), default="")


def born_ms(origin: str) -> int | None:
    """When an origin was claimed, ms since the epoch, from its ULID (ulid/spec); None if it has none."""
    head = origin.rpartition("-")[2][:10]
    if len(head) < 10 or any(c not in _CROCKFORD for c in head):
        return None
    number = 0
    for c in head:
        number = number * 32 + _CROCKFORD.index(c)
    return number


def outlived(origin: OriginInfo, origins: Mapping[str, OriginInfo], now_ms: int) -> bool:
    """True if a folded origin's record may go: its region claimed the next one over MAX_AGE ago (R16)."""
    born = born_ms(origin.origin)
    if origin.state != "folded" or born is None:
        return False
    heirs = [born_ms(o.origin) or 0 for o in origins.values() if o.region == origin.region]
    closed = min((heir for heir in heirs if heir > born), default=now_ms)
    return now_ms - closed > limits.MAX_AGE_MS


def news_of_origins(
    own: str, ours: Mapping[str, OriginInfo], theirs: Mapping[str, OriginInfo], now_ms: int
) -> list[tuple[str, str, str, tuple[int, ...]]]:
    """What a peer's record of origins adds to ours: (origin, region, state, last) to carry into our board.

    An origin of our own that is not the open one is closed, whatever the peer says: it may not have heard.
    While we have no open one we do not know, and leave our own alone. Outlived records stay forgotten.
    """
    open_here = open_origin(own, ours)
    news = []
    for info in theirs.values():
        if info.region == own and (not open_here or info.origin == open_here):
            continue
        state = "closed" if info.region == own and info.state == "open" else info.state
        known = ours.get(info.origin)
        if known is None:
            new = not outlived(info, theirs, now_ms)
        else:
            further = any(p > _at(known.last, shard) for shard, p in enumerate(info.last))
            new = further or _STATES.index(state) > _STATES.index(known.state)
        if new:
            news.append((info.origin, info.region, state, info.last))
    return news


def _at(last: Sequence[int], shard: int) -> int:
    return last[shard] if shard < len(last) else 0


# ---------------------------------------------------------------- what stores hold


def counted(stores: Iterable[R], region: str) -> list[R]:
    """A region's stores that count for durability: those that published within the last minute (R5)."""
    return [s for s in stores if s.region == region and s.age_s <= limits.STORE_COUNTED_S]


def held(stores: Iterable[StoreEntry], region: str, key: Key, floor: int = 0, lost: Collection[Hole] = ()) -> int:
    """The position up to which two counted stores of a region (one, if only one) hold everything of (origin,
    shard) beyond `floor` checkpointed; 0 if no store counts (R5). Holes up to the floor, or `lost`, do not matter."""
    levels = sorted((_held_by(s.checkpointed, key, floor, lost) for s in counted(stores, region)), reverse=True)
    return levels[min(2, len(levels)) - 1] if levels else 0


def _held_by(vector: Vector, key: Key, floor: int = 0, lost: Collection[Hole] = ()) -> int:
    holes = [h.first - 1 for h in vector.holes_of(*key) if h.last > floor and h not in lost]
    return min([vector[key], *holes])


def is_valid(stores: Iterable[StoreEntry], region: str, key: Key, base: int, lost: Collection[Hole] = ()) -> bool:
    """True if a mirror that began at `base` may announce its last position (R5). What is `lost` for good nobody
    calls replicated, but what came behind it is."""
    return base == 0 or held(stores, region, key, lost=lost) >= base


def marks_of(view: View, known: Mapping[str, OriginInfo], shards: int, lost: Collection[Hole] = ()) -> list[Watermark]:
    """What the region of `view` holds of others' logs; none while it has no open origin and so no life.

    A mirror that is not valid, or not there, says position 0: its life replaces whatever was said before.

    Args:
        known: origins known elsewhere too, so that what the region lost is also named.
        lost: holes that nobody can fill.
    """
    life = open_origin(view.region, view.origins)
    if not life:
        return []
    marks = []
    for info in {**known, **view.origins}.values():
        if info.region == view.region or info.state == "folded":
            continue
        for shard in range(shards):
            level = view.streams.get(Stream(info.origin, shard, True))
            base = level.base if level else 0
            valid = level and is_valid(view.stores, view.region, (info.origin, shard), base, lost)
            position = level.last if level and valid else 0
            marks.append(Watermark(view.region, f"{life}/{base}", info.origin, shard, position))
    return marks


class Watermarks:
    """What every region is known to hold of every log, and what is REPLICATED by that.

    Args:
        copies: regions that must hold an entry, its home included.
    """

    def __init__(self, copies: int) -> None:
        self._copies = copies
        self._held: dict[Key, dict[str, Watermark]] = {}  # by (origin, shard), then holder

    def note(self, mark: Watermark) -> bool:
        """Take a watermark in; True if it changed anything: within a life only up, a new life replaces."""
        holders = self._held.setdefault((mark.origin, mark.shard), {})
        old = holders.get(mark.holder)
        if old is not None and old.life == mark.life and mark.position <= old.position:
            return False
        holders[mark.holder] = mark
        return True

    def replicated(self, origin: str, shard: int) -> int:
        """Highest position durable in `copies` regions: the home's log and copies - 1 others; 0 if too few.

        With one copy the home's log alone decides: note it as a watermark whose holder is the home.
        """
        home = region_of(origin)
        holders = self._held.get((origin, shard), {})
        if self._copies <= 1:
            return holders[home].position if home in holders else 0
        others = sorted((h.position for h in holders.values() if h.holder != home), reverse=True)
        return others[self._copies - 2] if len(others) >= self._copies - 1 else 0

    def vector(self) -> Vector:
        """Everything that is REPLICATED."""
        return Vector({key: self.replicated(*key) for key in self._held})

    def all(self) -> list[Watermark]:
        """Every watermark, for telling them again."""
        return [mark for holders in self._held.values() for mark in holders.values()]

    def drop(self, origins: Iterable[str]) -> None:
        """Forget folded origins (R16)."""
        gone = set(origins)
        self._held = {key: holders for key, holders in self._held.items() if key[0] not in gone}


# ---------------------------------------------------------------- trimming


def under_pressure(used: int, most: int) -> bool:
    """True if Redis nears its maxmemory (bytes; 0 = unlimited): mirroring stops before own writes have to."""
    return most > 0 and used > most * _PRESSURE


def _kept_by_cap(level: StreamState, cap: int) -> int:
    """Position up to which entries must go for the stream to fit into `cap` bytes; 0 if it fits."""
    return level.last - level.length * cap // level.bytes if level.bytes > cap else 0


class Ages:
    """Which entries of each stream are older than the retention; positions carry no time, so it is sampled.

    Args:
        keep_s: the retention. It is kept to a sixteenth; a restart begins it anew.
    """

    def __init__(self, keep_s: float) -> None:
        self._keep_s = keep_s
        self._samples: dict[Stream, deque[tuple[float, int]]] = {}

    def old(self, stream: Stream, last: int, now_s: float) -> int:
        """Highest position that was there `keep_s` ago; 0 if nothing is known to be that old."""
        samples = self._samples.setdefault(stream, deque())
        if not samples or now_s - samples[-1][0] >= self._keep_s / 16:
            samples.append((now_s, last))
        while len(samples) > 1 and samples[1][0] <= now_s - self._keep_s:
            samples.popleft()
        return samples[0][1] if samples[0][0] <= now_s - self._keep_s else 0

    def only(self, streams: Iterable[Stream]) -> None:
        """Forget all others."""
        kept = set(streams)
        self._samples = {s: samples for s, samples in self._samples.items() if s in kept}


def trim_to(
    level: StreamState,
    held_to: int,
    keep: int,
    cap: int,
    peers: int | None = None,
    pressed: bool = False,
    old: int = 0,
) -> int:
    """Position to trim a stream to; no higher than its floor if nothing may go (R5).

    Args:
        held_to: what own stores hold checkpointed; never trimmed beyond.
        keep: newest entries that stay.
        cap: bytes beyond which neither `keep` nor peers hold anything back; a quarter of it when `pressed`.
        peers: the lowest position among the peers' mirrors, for a log.
        old: what is past the retention; neither `keep` nor peers hold that back (P9).
    """
    target = level.last - keep
    if peers is not None:
        target = min(target, peers)
    return min(held_to, max(target, old, _kept_by_cap(level, cap // _SQUEEZE if pressed else cap)))


def held_back(level: StreamState, held_to: int, cap: int) -> bool:
    """True if a mirror is above its cap because own stores do not hold it yet: stop mirroring it."""
    return held_to < _kept_by_cap(level, cap)


# ---------------------------------------------------------------- folding and redundancy


def last_known(origin: str, shards: int, views: Iterable[View]) -> list[int]:
    """The highest position of each shard that any record, stream or store of these regions names."""
    last = [0] * shards
    for view in views:
        info = view.origins.get(origin)
        for shard in range(shards):
            levels = [view.streams.get(Stream(origin, shard, mirror)) for mirror in (False, True)]
            named = [_at(info.last, shard) if info else 0, *(s.vector[(origin, shard)] for s in view.stores)]
            last[shard] = max(last[shard], *named, *(level.last for level in levels if level))
    return last


def unrecorded(own: str, view: View, shards: int, now_ms: int) -> list[OriginInfo]:
    """Closed origins of the own region that a store names and no record does: its Redis burned before any replicator
    had carried the record, and a node of another region had asked a node of this one meanwhile (R8).

    Without a record they would never fold, and what they acknowledged would never be called REPLICATED. Those that are
    forgotten after MAX_AGE stay so.
    """
    if not open_origin(own, view.origins):
        return []
    named = {origin for store in view.stores for origin in store.vector.origins() if region_of(origin) == own}
    return [
        OriginInfo(origin, own, "closed", tuple(last_known(origin, shards, [view])))
        for origin in sorted(named - view.origins.keys())
        if not outlived(OriginInfo(origin, own, "folded"), view.origins, now_ms)
    ]


def may_fold(origin: OriginInfo, shards: int, regions: Iterable[str], views: Mapping[str, View]) -> bool:
    """True if a closed origin is covered by every counted store of every configured region (R16): whole, or but for
    what none of them has and no stream holds. It would stay for ever else, and with it every NOT_YET.

    Args:
        regions: all configured ones, own included.
        views: what was read of each a moment ago; one that was not heard from forbids folding, because its
            mirror may hold what nobody else has; so does one that shows it open: it may have grown since.
    """
    wanted = set(regions)
    if origin.state != "closed" or not all(_knows_closed(views.get(r), origin.origin) for r in wanted):
        return False
    last, lost = last_known(origin.origin, shards, views.values()), lost_for_good(wanted, views)
    for region in wanted:
        stores = counted(views[region].stores, region)
        if not stores or any(
            _held_by(s.checkpointed, (origin.origin, shard), lost=lost) < p
            for s in stores
            for shard, p in enumerate(last)
        ):
            return False
    return True


def _is_gone(hole: Hole, stores: Sequence[StoreEntry], views: Sequence[View]) -> bool:
    """True if no store has anything of it, nor any stream: it burned before it was replicated."""
    key = (hole.origin, hole.shard, hole.first, hole.last)
    levels = (v.streams.get(Stream(hole.origin, hole.shard, mirror)) for v in views for mirror in (False, True))
    readable = any(at.last >= hole.first and max(at.floor, at.base) < hole.last for at in levels if at)
    return not readable and all(s.vector.lacks(*key) and s.checkpointed.lacks(*key) for s in stores)


def lost_for_good(regions: Iterable[str], views: Mapping[str, View]) -> frozenset[Hole]:
    """Holes that every counted store has passed, of which none has anything, nor any stream of any region.

    Args:
        regions: all configured ones; nothing is known to be lost while one was not heard from, or has no store.
    """
    stores = [counted(views[region].stores, region) if region in views else [] for region in set(regions)]
    everyone = [store for found in stores for store in found]
    holes = {hole for store in everyone for hole in store.checkpointed.holes} if all(stores) else set()
    passed = (h for h in holes if all(s.checkpointed[h.origin, h.shard] >= h.last for s in everyone))
    return frozenset(hole for hole in passed if _is_gone(hole, everyone, list(views.values())))


def _knows_closed(view: View | None, origin: str) -> bool:
    return view is not None and origin in view.origins and view.origins[origin].state != "open"


@dataclass(frozen=True, slots=True)
class Redundancy:
    """Whether the next region may fall (P1); `reasons` are sentences that say why not yet."""

    whole: bool
    reasons: list[str]


def redundancy(
    views: Mapping[str, View], regions: Iterable[str], shards: int, copies: int, before: Iterable[View] = ()
) -> Redundancy:
    """Whether everything that anybody knows of is durable in `copies` regions.

    A region holds (origin, shard) up to a position if a counted store of it has all of that checkpointed, or
    if its log or mirror reaches it and such a store has what was trimmed or jumped over.

    Args:
        views: what was read of each region's board just now, by region; those not heard from are absent.
        regions: all configured ones.
        before: what was read a little earlier. Then what was known at that time is what must be durable, so
            that traffic in flight does not count against it.
    """
    known = list(before) or list(views.values())
    wanted = list(regions)
    lost = lost_for_good(wanted, views)
    reasons = [f"{region} has not been heard from" for region in wanted if region not in views]
    records = [info for view in known for info in view.origins.values()]
    folded = {info.origin for view in views.values() for info in view.origins.values() if info.state == "folded"}
    for name in sorted({info.origin for info in records} - folded):
        for shard, position in enumerate(last_known(name, shards, known)):
            holders = [region for region, view in views.items() if _holds(view, name, shard, position, lost)]
            if position and len(holders) < copies:
                where = f"only in {' and '.join(sorted(holders))}" if holders else "nowhere"
                reasons.append(f"{name} shard {shard} is held up to its last position {position} {where}")
    return Redundancy(not reasons, reasons)


def _holds(view: View, origin: str, shard: int, position: int, lost: Collection[Hole]) -> bool:
    key = (origin, shard)
    most = max((_held_by(s.checkpointed, key, lost=lost) for s in counted(view.stores, view.region)), default=0)
    if most >= position:
        return True
    level = view.streams.get(Stream(origin, shard, region_of(origin) != view.region))
    if level is None or level.last < position:
        return False
    return most >= level.floor
