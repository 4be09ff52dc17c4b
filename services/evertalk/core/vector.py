"""Vectors: (origin, shard) -> position, with open holes (R6). Positions count entries: 1, 2, 3 …"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

Key = tuple[str, int]


@dataclass(frozen=True, slots=True, order=True)
class Hole:
    """Positions first..last (inclusive) of (origin, shard) that were passed because nobody held them."""

    origin: str
    shard: int
    first: int
    last: int


class Vector:
    """Positions per (origin, shard), and holes below them.

    Coverage is position minus holes: a holder of a hole does not cover what is in it.
    """

    __slots__ = ("_holes", "_positions")

    def __init__(self, positions: Mapping[Key, int] | None = None, holes: Iterable[Hole] = ()) -> None:
        self._positions: dict[Key, int] = {k: p for k, p in (positions or {}).items() if p > 0}
        self._holes: set[Hole] = set(holes)

    def __iter__(self) -> Iterator[tuple[Key, int]]:
        return iter(self._positions.items())

    def __bool__(self) -> bool:
        return bool(self._positions)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vector) and (self._positions == other._positions and self._holes == other._holes)

    def __repr__(self) -> str:
        return f"Vector({self._positions!r}, {sorted(self._holes)!r})"

    def __getitem__(self, key: Key) -> int:
        return self._positions.get(key, 0)

    @property
    def positions(self) -> Mapping[Key, int]:
        """All positions above 0."""
        return self._positions

    @property
    def holes(self) -> frozenset[Hole]:
        """The open holes."""
        return frozenset(self._holes)

    def origins(self) -> set[str]:
        """Every origin that is named."""
        return {origin for origin, _ in self._positions}

    def copy(self) -> Vector:
        """An independent copy."""
        made = Vector.__new__(Vector)
        made._positions, made._holes = self._positions.copy(), self._holes.copy()
        return made

    def beyond(self, other: Vector, shards: Collection[int]) -> Vector:
        """What of these shards lies above the other's positions, with its holes."""
        made, theirs = Vector.__new__(Vector), other._positions
        made._positions = {k: p for k, p in self._positions.items() if k[1] in shards and p > theirs.get(k, 0)}
        made._holes = {h for h in self._holes if (h.origin, h.shard) in made._positions}
        return made

    def advance(self, origin: str, shard: int, position: int) -> bool:
        """Raise one position; False if it was there already."""
        key = (origin, shard)
        if position <= self._positions.get(key, 0):
            return False
        self._positions[key] = position
        return True

    def merge(self, other: Vector) -> None:
        """Raise every position to the other's, and take over no holes (use for `need`)."""
        for (origin, shard), position in other:
            self.advance(origin, shard, position)

    def drop(self, origins: Iterable[str]) -> None:
        """Forget folded origins (R16)."""
        gone = set(origins)
        self._positions = {k: p for k, p in self._positions.items() if k[0] not in gone}
        self._holes = {h for h in self._holes if h.origin not in gone}

    def open_hole(self, hole: Hole) -> None:
        """Note a range that was passed."""
        self._holes.add(hole)

    def fill(self, other: Vector) -> list[Hole]:
        """Close what the other holds of every hole, be it a part; returns what was closed."""
        closed: list[Hole] = []
        for hole in list(self._holes):
            parts = other.parts_held(hole)
            if parts:
                self._holes.remove(hole)
                self._holes.update(_between(hole, parts))
                closed += parts
        return closed

    def absorb(self, other: Vector) -> list[Hole]:
        """Become the union of two stores, after everything of the other was taken in (R9).

        Positions become the maximum. A hole stays open where neither covers it; the other's hole is handed
        on where it lies above what we held. Returns what was closed of our holes.
        """
        closed = self.fill(other)
        for hole in other._holes:
            mine = self._positions.get((hole.origin, hole.shard), 0)
            first = max(hole.first, mine + 1)
            if first <= hole.last:
                self._holes.add(Hole(hole.origin, hole.shard, first, hole.last))
        self.merge(other)
        return closed

    def covers(self, origin: str, shard: int, position: int) -> bool:
        """True if everything of (origin, shard) up to position is held, holes excepted."""
        if position <= 0:
            return True
        if self._positions.get((origin, shard), 0) < position:
            return False
        return not any(h.origin == origin and h.shard == shard and h.first <= position for h in self._holes)

    def holds(self, origin: str, shard: int, position: int) -> bool:
        """True if this one position is held, whatever of those below is not."""
        return self.covers_range(origin, shard, position, position)

    def covers_range(self, origin: str, shard: int, first: int, last: int) -> bool:
        """True if first..last of (origin, shard) is held."""
        if self._positions.get((origin, shard), 0) < last:
            return False
        return not any(
            h.origin == origin and h.shard == shard and h.first <= last and h.last >= first for h in self._holes
        )

    def parts_held(self, hole: Hole) -> list[Hole]:
        """Which parts of this range are held, in order."""
        last = min(hole.last, self._positions.get((hole.origin, hole.shard), 0))
        held = Hole(hole.origin, hole.shard, hole.first, last)
        return _between(held, sorted(self.holes_of(hole.origin, hole.shard)))

    def lacks(self, origin: str, shard: int, first: int, last: int) -> bool:
        """True if nothing of first..last of (origin, shard) is held."""
        return not self.parts_held(Hole(origin, shard, first, last))

    def holes_of(self, origin: str, shard: int) -> list[Hole]:
        """The open holes of (origin, shard)."""
        return [h for h in self._holes if (h.origin, h.shard) == (origin, shard)]

    def reaches(self, need: Vector, met: frozenset[str] | set[str] = frozenset()) -> bool:
        """True if every position of `need` is passed here; origins in `met` count as passed (R16)."""
        mine = self._positions
        return all(mine.get(key, 0) >= p or key[0] in met for key, p in need)

    def missing(self, need: Vector, met: frozenset[str] | set[str] = frozenset()) -> Vector:
        """The part of `need` that is not reached here."""
        return Vector({k: p for k, p in need if self._positions.get(k, 0) < p and k[0] not in met})

    def ahead_of(self, other: Vector) -> Vector:
        """Where this one covers more than the other: higher positions, and holes of which it holds something."""
        ahead = {k: p for k, p in self if p > other[k]}
        for hole in other._holes:
            if parts := self.parts_held(hole):
                key = (hole.origin, hole.shard)
                ahead[key] = max(ahead.get(key, 0), parts[-1].last)
        return Vector(ahead)


def _between(whole: Hole, parts: Iterable[Hole]) -> list[Hole]:
    """What is left of a range without these parts, which come in order and do not overlap."""
    left: list[Hole] = []
    first = whole.first
    for part in parts:
        if first < part.first and first <= whole.last:
            left.append(Hole(whole.origin, whole.shard, first, min(part.first - 1, whole.last)))
        first = max(first, part.last + 1)
    if first <= whole.last:
        left.append(Hole(whole.origin, whole.shard, first, whole.last))
    return left
