"""The session token (R7): how far an application has got, to be committed with its own data; and the dedupe window."""

from __future__ import annotations

import base64
import binascii
import json
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from evertalk.core import limits
from evertalk.core.errors import Code, Refused
from evertalk.core.vector import Hole, Key, Vector

_VERSION = 1
DELIVERED_CAP = 1024
ORIGINS_CAP = 256

EventKey = tuple[bytes, bytes]  # (sender, event id)


def newest_origins(vector: Vector, count: int) -> Vector:
    """The part of a vector that names its `count` newest origins; origins end in a ULID, which grows with time."""
    origins = vector.origins()
    if len(origins) <= count:
        return vector
    kept = set(sorted(origins, key=lambda o: o.rpartition("-")[2])[-count:])
    slim = vector.copy()
    slim.drop(origins - kept)
    return slim


def needs_of(need: Vector, shard: int) -> tuple[tuple[str, int], ...]:
    """What an event of `shard` names as seen (R11): at most MAX_NEEDS origins, the newest."""
    mine = Vector({key: position for key, position in need if key[1] == shard})
    return tuple(sorted((key[0], position) for key, position in newest_origins(mine, limits.MAX_NEEDS)))


class Seen:
    """Event keys seen lately, in two generations: the older one goes when the younger is full."""

    __slots__ = ("_half", "_old", "_young")

    def __init__(self, cap: int = limits.SEEN_CAP) -> None:
        self._half = max(1, cap // 2)
        self._young: set[EventKey] = set()
        self._old: set[EventKey] = set()

    def __contains__(self, key: EventKey) -> bool:
        return key in self._young or key in self._old

    def __len__(self) -> int:
        return len(self._young | self._old)

    def add(self, key: EventKey) -> bool:
        """Note a key; False if it was there."""
        if key in self._young:
            return False
        known = key in self._old
        self._young.add(key)
        if len(self._young) >= self._half:
            self._old, self._young = self._young, set()
        return not known


class Delivered:
    """Events that an application took and that may come again after a crash: not yet replicated, or beyond `have`.

    Bounded: at DELIVERED_CAP the oldest are forgotten.
    """

    __slots__ = ("_by_key", "_count", "_unmarked")

    def __init__(self) -> None:
        self._by_key: dict[Key, OrderedDict[EventKey, int]] = {}
        self._count = 0
        self._unmarked: set[int] = set()  # shards of which something was taken behind their last marker

    def __len__(self) -> int:
        return self._count

    def events(self) -> list[EventKey]:
        """All event keys held."""
        return [event for held in self._by_key.values() for event in held]

    def items(self) -> list[tuple[Key, list[tuple[EventKey, int]]]]:
        """(origin, shard) with its event keys and positions."""
        return [(key, list(held.items())) for key, held in self._by_key.items()]

    def add(self, event: EventKey, key: Key, position: int) -> None:
        """Note an event that was taken."""
        held = self._by_key.setdefault(key, OrderedDict())
        if event not in held:
            self._count += 1
        held[event] = position
        self._unmarked.add(key[1])
        while self._count > DELIVERED_CAP:
            largest = max(self._by_key, key=lambda k: len(self._by_key[k]))
            self._by_key[largest].popitem(last=False)
            self._count -= 1

    def prune(self, replicated: Vector, have: Vector, marker: Vector) -> None:
        """Forget what can come no more: replicated, and at or below `have`, and a marker of its shard behind it."""
        self._unmarked -= {shard for (_, shard), _ in marker}
        for key, held in list(self._by_key.items()):
            if key[1] in self._unmarked:
                continue
            while held:
                position = next(iter(held.values()))
                if not (replicated.holds(*key, position) and have.holds(*key, position)):
                    break
                held.popitem(last=False)
                self._count -= 1
            if not held:
                del self._by_key[key]


@dataclass(slots=True)
class Token:
    """How far one session has got.

    Args:
        session: 8 bytes, stays over reconnects and restarts.
        have: resume starts after this; None before any marker ("start at now").
        need: own acks and all that was seen; reads wait for it.
        hlc: the highest stamp handed out or seen.
        delivered: taken, and possibly to come again.
    """

    session: bytes
    have: Vector | None = None
    need: Vector = field(default_factory=Vector)
    hlc: int = 0
    delivered: Delivered = field(default_factory=Delivered)

    def to_bytes(self) -> bytes:
        """JSON, a few hundred bytes plus what is in `delivered`."""
        have = None if self.have is None else newest_origins(self.have, ORIGINS_CAP)
        return json.dumps(
            {
                "v": _VERSION,
                "session": self.session.hex(),
                "have": None if have is None else _dump(have),
                "need": _dump(newest_origins(self.need, ORIGINS_CAP)),
                "hlc": self.hlc,
                "delivered": [
                    [*key, [[base64.b64encode(e[0] + e[1]).decode(), p] for e, p in held]]
                    for key, held in self.delivered.items()
                ],
            },
            separators=(",", ":"),
        ).encode()

    @staticmethod
    def from_bytes(raw: bytes) -> Token:
        """A token from `to_bytes`.

        Raises:
            Refused: MALFORMED.
        """
        try:
            data = json.loads(raw)
            if data["v"] != _VERSION:
                raise ValueError(f"version {data['v']}")
            have = None if data["have"] is None else _load(data["have"])
            token = Token(bytes.fromhex(data["session"]), have, _load(data["need"]), int(data["hlc"]))
            if len(token.session) != limits.SESSION_BYTES:
                raise ValueError("session id")
            for origin, shard, held in data["delivered"]:
                for text, position in held:
                    event = base64.b64decode(text)
                    key = (event[: limits.ID_BYTES], event[limits.ID_BYTES :])
                    token.delivered.add(key, (str(origin), int(shard)), int(position))
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            raise Refused(Code.MALFORMED, f"this is no session token of this version: {error}") from error
        return token


def _dump(vector: Vector) -> dict[str, Any]:
    positions: dict[str, dict[str, int]] = {}
    for (origin, shard), position in sorted(vector):
        positions.setdefault(origin, {})[str(shard)] = position
    dumped: dict[str, Any] = {"at": positions}
    if vector.holes:
        dumped["holes"] = [[h.origin, h.shard, h.first, h.last] for h in sorted(vector.holes)]
    return dumped


def _load(data: dict[str, Any]) -> Vector:
    positions = {(o, int(s)): int(p) for o, shards in data["at"].items() for s, p in shards.items()}
    return Vector(positions, (Hole(str(o), int(s), int(f), int(t)) for o, s, f, t in data.get("holes", ())))
