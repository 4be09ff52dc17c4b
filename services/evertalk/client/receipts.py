"""DELIVERED receipts: what to acknowledge, coalesced to one round a second, the newest in place of older ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from evertalk.core.model import Event, Level, Receipt

EVERY_S = 1.0
_KNOWN_MAX = 8192

_Place = tuple[bytes, str]  # (conversation, origin)


class Receipts:
    """Positions per (conversation, origin) that have reached this device and were not said yet."""

    def __init__(self) -> None:
        self.due_s: float | None = None
        self._new: dict[_Place, int] = {}
        self._said: OrderedDict[_Place, int] = OrderedDict()

    def note(self, scope: bytes, origin: str, position: int, now_s: float, poke: Callable[[], None]) -> None:
        """A message of somebody else has arrived."""
        place = (scope, origin)
        if position <= max(self._said.get(place, 0), self._new.get(place, 0)):
            return
        self._new[place] = position
        if self.due_s is None:
            self.due_s = now_s + EVERY_S
            poke()

    def again(self, event: Event, now_s: float, poke: Callable[[], None]) -> None:
        """A receipt was lost with its stream."""
        body = event.body
        assert isinstance(body, Receipt)
        place = (event.scope, body.origin)
        if self._said.get(place) == body.position:
            del self._said[place]
            self.note(event.scope, body.origin, body.position, now_s, poke)

    def take(self, now_s: float) -> list[tuple[bytes, Receipt]]:
        """What to say now; empty before it is due."""
        if self.due_s is None or now_s < self.due_s:
            return []
        self.due_s = None
        due = [(scope, Receipt(Level.DELIVERED, origin, position)) for (scope, origin), position in self._new.items()]
        self._said.update(self._new)
        self._new.clear()
        while len(self._said) > _KNOWN_MAX:
            self._said.popitem(last=False)
        return due
