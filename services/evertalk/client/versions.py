"""The highest version seen of each register (R12), as far as this session remembers."""

from __future__ import annotations

from collections import OrderedDict

from evertalk.core.clock import ms_of
from evertalk.core.merge import REGISTERS, slot_of
from evertalk.core.model import Event, Kind
from evertalk.ports import ConversationState

_CAP = 16_384
_Slot = tuple[bytes, int, bytes]  # (scope, kind, slot)


class Versions:
    """Bounded: the slots touched longest ago are forgotten."""

    def __init__(self) -> None:
        self._seen: OrderedDict[_Slot, int] = OrderedDict()

    def next(self, event: Event) -> int:
        """Highest seen + 1. Of a slot that this session knows nothing of: its stamp's milliseconds, so that it
        does not lose against what was set before it began to look."""
        seen = self._seen.get((event.scope, event.kind, slot_of(event)))
        return ms_of(event.hlc) if seen is None else seen + 1

    def note(self, event: Event) -> None:
        """An event was seen or made."""
        if event.kind in REGISTERS and event.kind != Kind.RECEIPT:
            self._raise((event.scope, event.kind, slot_of(event)), event.version)

    def listed(self, state: ConversationState) -> None:
        """A conversation's registers were seen."""
        self._raise((state.scope, Kind.TITLE, b""), state.title_version)
        for account, (_, version) in state.members.items():
            self._raise((state.scope, Kind.MEMBERSHIP, account), version)

    def _raise(self, slot: _Slot, version: int) -> None:
        self._seen[slot] = max(version, self._seen.get(slot, 0))
        self._seen.move_to_end(slot)
        if len(self._seen) > _CAP:
            self._seen.popitem(last=False)
