"""What the promises allow to break at a time, and which regions were in trouble when."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from evertalk.drill.recorder import Recorder
from evertalk.sim.people import Person
from evertalk.sim.plan import Fault
from evertalk.sim.world import NodeHost, World

Mend = Callable[[], None]

#: Verbs after which a region serves as before: they break what joins regions, or people.
_HARMLESS = frozenset(
    {
        "cut", "isolate", "slow", "reset", "jump_clock", "join", "crash_client", "freeze_client",
        "kill_replicator", "freeze_replicator",
    }
)  # fmt: skip
_RECOVERS_S = 10.0  # from the mending on, until its nodes have caught up and are known to


class Slot:
    """A fault's mend, done once."""

    def __init__(self) -> None:
        self._mends: tuple[Mend, ...] = ()

    def set(self, *mends: Mend) -> None:
        self._mends = mends

    def mend(self) -> None:
        """Undo it, if it was done."""
        mends, self._mends = self._mends, ()
        for mend in mends:
            mend()


class Troubles:
    """When each region had something broken that its clients may feel.

    Args:
        regions: those that were there from the start.
    """

    def __init__(self, regions: Sequence[str]) -> None:
        self._regions = regions
        self._found: list[tuple[str, float, float]] = []

    def begin(self, fault: Fault, now: float) -> Mend:
        """A fault begins at `now`; call what is returned when it is mended."""
        region = fault.where.partition("-")[0]
        if fault.verb in _HARMLESS or region not in self._regions:
            return lambda: None
        number = len(self._found)
        self._found.append((region, now, math.inf))

        def end() -> None:
            self._found[number] = (region, now, now + fault.lasts_s + _RECOVERS_S)

        return end

    def well(self, start: float, end: float) -> bool:
        """True if some region had no trouble from start to end."""
        ill = {region for region, began, over in self._found if began <= end and over >= start}
        return len(ill) < len(self._regions)


class Allowance:
    """What a Breaker asks before it breaks anything.

    Never more than one region is unable to serve at a time, and nothing that took data away is followed by the
    same in another region before redundancy is whole (P1, P6).
    """

    _world: World
    _recorder: Recorder
    _people: Sequence[Person]

    def __init__(self) -> None:
        self._down: dict[str, int] = {}  # regions that cannot serve, though their processes run
        self._burnt = ""  # the region that lost data last

    def _others_serve(self, region: str) -> bool:
        serving = set(self._world.serving()) - {name for name, times in self._down.items() if times > 0}
        return serving >= self._world.joined - {region}

    def _may_burn(self, region: str) -> bool:
        return self._others_serve(region) and (self._burnt in ("", region) or self._world.whole())

    def _may_take(self, node: NodeHost) -> bool:
        others = [n for n in self._world.regions[node.region].nodes if n is not node and n.serves]
        return bool(others) or self._others_serve(node.region)

    def _node(self, where: str, rng: random.Random) -> NodeHost:
        """That node, or any of that region."""
        named = [host for host in self._world.hosts() if host.name == where]
        return named[0] if named else rng.choice(self._world.regions[where].nodes)

    def _person(self, where: str, rng: random.Random) -> Person:
        """That person, or anybody."""
        named = [person for person in self._people if person.name == where]
        return named[0] if named else rng.choice(self._people)

    def _note(self, verb: str, target: str, effect: str) -> Mend:
        fault = self._recorder.record_fault(verb, target, effect)
        return lambda: self._recorder.end_fault(fault)
