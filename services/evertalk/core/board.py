"""The small shared state of a region, as plain data: origins, streams, stores, watermarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from evertalk.core.model import Stream
from evertalk.core.vector import Vector


@dataclass(frozen=True, slots=True)
class OriginInfo:
    """What a region knows of one origin. `last`: last known position by shard (of a closed or folded one)."""

    origin: str
    region: str
    state: str  # "open" | "closed" | "folded"
    last: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class StoreEntry:
    """What a store publishes of itself each second (R8).

    `vector` holds open holes; `checkpointed` is the vector read before a checkpoint that completed.
    `age_s` is filled in on reading: seconds since it was published.
    """

    node: str
    region: str
    life: str
    state: str  # CATCHING_UP | SERVING | DRAINING
    vector: Vector
    checkpointed: Vector
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StreamState:
    """A stream as it is now. `base` only for mirrors: where it began by a jump (R4)."""

    last: int
    length: int
    bytes: int
    floor: int
    base: int = 0


@dataclass(frozen=True, slots=True)
class Watermark:
    """Region `holder` holds the log of (origin, shard) durably up to `position`.

    Belongs to one life of the mirror: the holder's own origin and the mirror's base (R5). A watermark of
    another life replaces the old one even if it is lower.
    """

    holder: str
    life: str  # "{holder's open origin}/{base}"
    origin: str
    shard: int
    position: int


@dataclass(frozen=True, slots=True)
class MirrorBatch:
    """Entries (position, payload) of (origin, shard) to append behind `predecessor` (R4)."""

    origin: str
    shard: int
    predecessor: int
    entries: tuple[tuple[int, bytes], ...]


class View(Protocol):
    """One region's board as it was read at one moment."""

    @property
    def region(self) -> str: ...

    @property
    def origins(self) -> Mapping[str, OriginInfo]: ...

    @property
    def stores(self) -> Sequence[StoreEntry]: ...

    @property
    def streams(self) -> Mapping[Stream, StreamState]: ...
