"""Parents first (R11): an entry waits, within its own (origin, shard), until what its events need is applied."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from evertalk.core import limits
from evertalk.core.model import Entry, Event
from evertalk.core.vector import Key, Vector

#: Longest wait while a live holder of the parent is being asked.
HOLD_MAX_S = 5.0
_GIVEN_UP_MAX = 4096


@dataclass(slots=True)
class _Waiting:
    entry: Entry
    since: float  # when it came


class Holdback:
    """Queues of entries per (origin, shard); hands out those whose parents are there, or whose time is up."""

    def __init__(self) -> None:
        self._queues: dict[Key, deque[_Waiting]] = {}
        #: Parents that were waited for in vain: nobody waits for them again, or a dead region would slow all talk.
        self._given_up: OrderedDict[tuple[str, int, int], None] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(q) for q in self._queues.values())

    def offer(self, entry: Entry, now_s: float) -> None:
        """Add the next entry of its (origin, shard), which came at `now_s`."""
        self._queues.setdefault((entry.origin, entry.shard), deque()).append(_Waiting(entry, now_s))

    def queued(self, key: Key) -> int:
        """How many entries of (origin, shard) wait here."""
        queue = self._queues.get(key)
        return len(queue) if queue else 0

    def drop(self, key: Key) -> None:
        """Forget a queue; its entries will be read again."""
        self._queues.pop(key, None)

    def take(
        self,
        vector: Vector,
        folded: frozenset[str],
        now_s: float,
        held_elsewhere: Callable[[str, int, int], bool],
        limit: int = 500,
    ) -> tuple[list[Entry], frozenset[tuple[str, int, int]]]:
        """Entries that may be applied now, in an order in which parents come first.

        Args:
            vector: what the store has applied.
            now_s: monotonic seconds.
            held_elsewhere: whether a live store holds (origin, shard, position) and is being asked for it.
            limit: most entries to hand out.

        Returns:
            The entries, and the names (origin, shard, position) of those that gave up waiting.
        """
        reached = vector.copy()
        ready: list[Entry] = []
        gave_up: set[tuple[str, int, int]] = set()
        moved = True
        while moved and len(ready) < limit:
            moved = False
            for key, queue in list(self._queues.items()):
                while queue and len(ready) < limit:
                    head = queue[0]
                    entry = head.entry
                    if entry.position > reached[key]:
                        lacking = _lacking(entry, reached, folded)
                        if lacking and not self._time_is_up(head, lacking, now_s, held_elsewhere):
                            break
                        if lacking:
                            gave_up.add((entry.origin, entry.shard, entry.position))
                            self._remember(lacking)
                        reached.advance(entry.origin, entry.shard, entry.position)
                        ready.append(entry)
                    queue.popleft()
                    moved = True
                if not queue:
                    del self._queues[key]
        return ready, frozenset(gave_up)

    def _time_is_up(
        self,
        head: _Waiting,
        lacking: list[tuple[str, int, int]],
        now_s: float,
        held_elsewhere: Callable[[str, int, int], bool],
    ) -> bool:
        lacking = [parent for parent in lacking if parent not in self._given_up]
        waited = now_s - head.since
        if lacking and waited < limits.NEED_WAIT_S:
            return False
        return waited >= HOLD_MAX_S or not any(held_elsewhere(*parent) for parent in lacking)

    def _remember(self, lacking: list[tuple[str, int, int]]) -> None:
        for parent in lacking:
            self._given_up[parent] = None
            self._given_up.move_to_end(parent)
        while len(self._given_up) > _GIVEN_UP_MAX:
            self._given_up.popitem(last=False)

    def next_due_s(self, now_s: float) -> float | None:
        """Seconds until some wait may end by time alone; None if nothing waits."""
        starts = [q[0].since for q in self._queues.values() if q]
        if not starts:
            return None
        due = min(starts) + limits.NEED_WAIT_S - now_s
        return due if due > 0 else limits.NEED_WAIT_S


def _lacking(entry: Entry, reached: Vector, folded: frozenset[str]) -> list[tuple[str, int, int]]:
    origins = (entry.origin,)
    return [p for r in entry.records for p in parents_lacking(r.event, origins, entry.shard, reached, folded)]


def parents_lacking(
    event: Event, origins: Collection[str], shard: int, reached: Vector, folded: frozenset[str]
) -> list[tuple[str, int, int]]:
    """(origin, shard, position) of what its author had seen and is not reached.

    Args:
        origins: where it stands itself: what stands before it is there, and nobody can have seen what stands behind.
        folded: origins that count as reached.
    """
    return [
        (origin, shard, position)
        for origin, position in event.need
        if origin not in origins and origin not in folded and reached[(origin, shard)] < position
    ]
