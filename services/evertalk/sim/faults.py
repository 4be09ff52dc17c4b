"""The breaker: faults at their times, within what the promises allow, and what mends them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from evertalk.drill.recorder import Recorder
from evertalk.sim.allowance import Allowance, Mend, Slot, Troubles
from evertalk.sim.network import CLIENTS
from evertalk.sim.people import Person
from evertalk.sim.plan import Fault, Plan
from evertalk.sim.process import Process
from evertalk.sim.redis import Data
from evertalk.sim.world import World

_IO_MOST = 300  # steps within which a process dies that is to die in the middle of something
_JUMP_MS = 30_000
_SLOW_S = 1.5


class Breaker(Allowance):
    """Does the plan's faults: each verb is a method that breaks something and returns what mends it.

    A fault that the promises do not cover where it falls is passed over.
    """

    def __init__(
        self, world: World, plan: Plan, recorder: Recorder, people: Sequence[Person], counts: Counter[str]
    ) -> None:
        super().__init__()
        self._world, self._plan, self._recorder, self._people, self._counts = world, plan, recorder, people, counts
        self.troubles = Troubles([name for name in plan.shape.regions if name != plan.shape.joins])

    def steps(self) -> Iterator[tuple[float, Callable[[], None]]]:
        """What to do when."""
        for fault in self._plan.faults:
            place = Slot()
            yield fault.at_s, lambda f=fault, p=place: self._break(f, p)  # type: ignore[misc]
            yield fault.at_s + fault.lasts_s, lambda p=place: p.mend()  # type: ignore[misc]

    def _break(self, fault: Fault, slot: Slot) -> None:
        verb: Callable[[str, random.Random], Mend | None] = getattr(self, f"_{fault.verb}")
        there = fault.verb == "join" or fault.where.partition("-")[0] not in self._world.absent
        mend = verb(fault.where, random.Random(fault.pick)) if there else None
        if mend is None:
            self._counts["faults passed over"] += 1
            return
        self._counts[f"fault: {fault.verb}"] += 1
        slot.set(mend, self.troubles.begin(fault, self._recorder.now()))

    def heal(self) -> None:
        """Everything runs again."""
        world = self._world
        for region in world.regions.values():
            region.redis.maxmemory = 0
        for person in self._people:
            if person.process is not None and person.process.frozen:
                person.look_up()
                person.process.thaw()
        world.heal()
        for name in world.regions:
            self._recorder.record_returned(name)

    # ------------------------------------------------------------ nodes

    def _kill_node(self, where: str, rng: random.Random) -> Mend | None:
        node = self._node(where, rng)
        if node.process is None or not node.process.alive or not self._may_take(node):
            return None
        self._note("kill", node.name, "crash")
        node.process.kill()
        return lambda: self._world.start_node(node)

    def _crash_node(self, where: str, rng: random.Random) -> Mend | None:
        """Dies in the middle of something, soon."""
        node = self._node(where, rng)
        process = node.process
        if process is None or not process.alive or not self._may_take(node):
            return None
        self._note("crash", node.name, "crash")
        process.crash_at = process.io + rng.randint(1, _IO_MOST)
        return lambda: self._start_after_crash(process, lambda: self._world.start_node(node))

    def _start_after_crash(self, process: Process, start: Mend) -> None:
        process.kill()
        start()

    def _freeze_node(self, where: str, rng: random.Random) -> Mend | None:
        node = self._node(where, rng)
        process = node.process
        if process is None or not process.alive or not self._may_take(node):
            return None
        self._note("freeze", node.name, "hang")
        process.freeze()
        return lambda: self._thaw(process)

    def _thaw(self, process: Process) -> None:
        process.thaw()
        self._world.network.kick()

    def _drain_node(self, where: str, rng: random.Random) -> Mend | None:
        node = self._node(where, rng)
        process = node.process
        if process is None or not process.alive or process.frozen or not self._may_take(node):
            return None
        self._note("drain", node.name, "")
        node.stop.set()
        return lambda: self._start_after_crash(process, lambda: self._world.start_node(node))

    def _wipe_node(self, where: str, rng: random.Random) -> Mend | None:
        """Its store is gone."""
        node = self._node(where, rng)
        if node.process is None or not self._may_take(node) or not self._may_burn(node.region):
            return None
        # Together with an earlier loss, or where it was the only one, it is all the region had stored.
        others = [n for n in self._world.regions[node.region].nodes if n is not node and n.serves]
        alone = not others or (self._burnt == node.region and not self._world.whole())
        self._burnt = node.region
        end = self._note("wipe", node.region if alone else node.name, "lost" if alone else "crash")
        node.process.kill()
        node.disk.wipe()

        def mend() -> None:
            self._world.start_node(node)
            end()

        return mend

    def _wipe_stores(self, where: str, rng: random.Random) -> Mend | None:
        """All stores of a region are gone; its Redis is not."""
        if where not in self._world.serving() or not self._may_burn(where):
            return None
        self._burnt = where
        end = self._note("wipe stores", where, "lost")
        nodes = self._world.regions[where].nodes
        for node in nodes:
            if node.process is not None:
                node.process.kill()
            node.disk.wipe()

        def mend() -> None:
            for node in nodes:
                self._world.start_node(node)
            end()

        return mend

    # ------------------------------------------------------------ redis and replicators

    def _kill_redis(self, where: str, rng: random.Random) -> Mend | None:
        redis = self._world.regions[where].redis
        if not redis.alive or not self._others_serve(where):
            return None
        self._note("kill redis", where, "crash")
        redis.kill()
        return lambda: self._restart_redis(where)

    def _restart_redis(self, where: str) -> None:
        redis = self._world.regions[where].redis
        if not redis.alive and not self._world.regions[where].dark:
            redis.restart()
        self._recorder.record_returned(where)

    def _freeze_redis(self, where: str, rng: random.Random) -> Mend | None:
        redis = self._world.regions[where].redis
        if not redis.alive or not self._others_serve(where):
            return None
        end = self._note("freeze redis", where, "hang")
        redis.freeze()

        def mend() -> None:
            redis.thaw()
            self._world.network.kick()
            end()

        return mend

    def _empty_redis(self, where: str, rng: random.Random) -> Mend | None:
        """FLUSHALL, or replaced by an empty one."""
        redis = self._world.regions[where].redis
        if not redis.alive or not self._may_burn(where):
            return None
        self._burnt = where
        end = self._note("empty redis", where, "lost")
        if rng.random() < 0.5:
            redis.empty()
            return end
        redis.kill()
        redis.restart(Data())
        return end

    def _roll_back_redis(self, where: str, rng: random.Random) -> Mend | None:
        """Killed, and started on what it was some seconds ago."""
        region = self._world.regions[where]
        if not region.redis.alive or not self._may_burn(where):
            return None
        backup = region.redis.backup()

        def mend() -> None:
            if region.redis.alive and not region.dark and self._may_burn(where):
                self._burnt = where
                end = self._note("roll back redis", where, "lost")
                region.redis.kill()
                region.redis.restart(backup)
                end()

        return mend

    def _fill_redis(self, where: str, rng: random.Random) -> Mend | None:
        redis = self._world.regions[where].redis
        if not redis.alive or not self._others_serve(where):
            return None
        self._down[where] = self._down.get(where, 0) + 1
        redis.maxmemory = max(1, int(redis.used() * rng.choice((0.9, 1.1))))

        def mend() -> None:
            redis.maxmemory = 0
            self._down[where] -= 1

        return mend

    def _kill_replicator(self, where: str, rng: random.Random) -> Mend | None:
        region = self._world.regions[where]
        for process in region.replicators:
            if rng.random() < 0.5:
                process.crash_at = process.io + rng.randint(1, _IO_MOST)
            else:
                process.kill()

        def mend() -> None:
            for process in region.replicators:
                process.kill()
            if not region.dark:
                self._world.start_replicators(where)

        return mend

    def _freeze_replicator(self, where: str, rng: random.Random) -> Mend | None:
        processes = list(self._world.regions[where].replicators)
        for process in processes:
            process.freeze()

        def mend() -> None:
            for process in processes:
                self._thaw(process)

        return mend

    # ------------------------------------------------------------ regions

    def _kill_region(self, where: str, rng: random.Random) -> Mend | None:
        return self._take_region(where, "kill", "crash", self._world.kill_region)

    def _power_region(self, where: str, rng: random.Random) -> Mend | None:
        return self._take_region(where, "power", "crash", self._world.lose_power)

    def _burn_region(self, where: str, rng: random.Random) -> Mend | None:
        if not self._may_burn(where):
            return None
        self._burnt = where

        def burn(name: str) -> None:
            self._world.lose_power(name)
            self._world.lose_disks(name)

        return self._take_region(where, "burn", "lost", burn)

    def _take_region(self, where: str, verb: str, effect: str, take: Callable[[str], None]) -> Mend | None:
        if where not in self._world.serving() or not self._others_serve(where):
            return None
        self._note(verb, where, effect)
        take(where)

        def mend() -> None:
            self._world.start_region(where)
            self._recorder.record_returned(where)

        return mend

    def _freeze_region(self, where: str, rng: random.Random) -> Mend | None:
        if where not in self._world.serving() or not self._others_serve(where):
            return None
        end = self._note("freeze", where, "hang")
        self._world.freeze_region(where)
        region = self._world.regions[where]

        def mend() -> None:
            for process in region.processes():
                process.thaw()
            region.redis.thaw()
            self._world.network.kick()
            end()

        return mend

    # ------------------------------------------------------------ network and clocks

    def _ways(self, where: str, rng: random.Random) -> list[tuple[str, str]]:
        other = rng.choice([name for name in self._world.regions if name != where])
        return rng.choice(
            ([(where, other), (other, where)], [(where, other), (other, where)], [(where, other)], [(other, where)])
        )

    def _cut(self, where: str, rng: random.Random) -> Mend | None:
        ways = self._ways(where, rng)
        self._world.network.cut(*ways)
        return lambda: self._mend_ways(ways)

    def _isolate(self, where: str, rng: random.Random) -> Mend | None:
        """No other region hears it, nor it them; people do."""
        others = [name for name in self._world.regions if name != where]
        ways = [way for other in others for way in ((where, other), (other, where))]
        self._world.network.cut(*ways)
        return lambda: self._mend_ways(ways)

    def _join(self, where: str, rng: random.Random) -> Mend | None:
        """A region that was not there comes to stay."""
        if where not in self._world.absent:
            return None
        self._world.join(where)
        return _nothing

    def _mend_ways(self, ways: list[tuple[str, str]]) -> None:
        dark = {r.name for r in self._world.regions.values() if r.dark}
        lit = [way for way in ways if not dark & set(way)]
        if lit:
            self._world.network.mend(*lit)

    def _cut_clients(self, where: str, rng: random.Random) -> Mend | None:
        if not self._others_serve(where):
            return None
        ways = rng.choice(([(CLIENTS, where), (where, CLIENTS)], [(CLIENTS, where)], [(where, CLIENTS)]))
        self._down[where] = self._down.get(where, 0) + 1
        self._world.network.cut(*ways)

        def mend() -> None:
            self._down[where] -= 1
            self._mend_ways(ways)

        return mend

    def _reset(self, where: str, rng: random.Random) -> Mend | None:
        self._world.network.reset((where, rng.choice([*self._world.regions, CLIENTS])))
        return _nothing

    def _slow(self, where: str, rng: random.Random) -> Mend | None:
        ways = self._ways(where, rng)
        slow = self._world.network.slow
        for way in ways:
            slow[way] = rng.uniform(0.1, _SLOW_S)

        def mend() -> None:
            for way in ways:
                slow.pop(way, None)

        return mend

    def _jump_clock(self, where: str, rng: random.Random) -> Mend | None:
        clock = self._world.regions[where].clock
        by = rng.randint(-_JUMP_MS, _JUMP_MS)
        clock.offset_ms = max(-_JUMP_MS, min(_JUMP_MS, clock.offset_ms + by))
        return _nothing

    # ------------------------------------------------------------ people

    def _crash_client(self, where: str, rng: random.Random) -> Mend | None:
        person = self._person(where, rng)
        if person.up is None or person.process is None:
            return None
        if rng.random() < 0.5:
            person.process.on_crash = person.crash
            person.process.crash_at = person.process.io + rng.randint(1, _IO_MOST // 10)
        else:
            person.crash()

        def mend() -> None:
            person.crash()
            if person.client is None:
                person.begin()

        return mend

    def _freeze_client(self, where: str, rng: random.Random) -> Mend | None:
        person = self._person(where, rng)
        process = person.process
        if person.up is None or process is None:
            return None
        process.freeze()

        def mend() -> None:
            person.look_up()
            self._thaw(process)

        return mend


def _nothing() -> None:
    """It mends itself."""
