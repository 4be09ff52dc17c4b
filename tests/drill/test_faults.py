"""Every fault stands in the history with its effect, from just before it was done to when it was mended."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, cast

import pytest

from evertalk.cluster.verbs import Cluster, ClusterError
from evertalk.core import history
from evertalk.core.history import EFFECTS, Fault, Returned
from evertalk.drill.faults import Faults
from evertalk.drill.recorder import Recorder

HEADER = history.Header(
    "a drill", "none", 1, "", history.Cluster(("seoul", "busan"), {"seoul-1": "seoul", "busan-1": "busan"}, 4),
    history.Load(2, 1.0, 1.0), {}, "",
)  # fmt: skip


class Anything:
    """A process, region, WAN or cluster that notes what is done to it."""

    def __init__(self, name: str, done: list[str]) -> None:
        self.name = name
        self._done = done

    def __getattr__(self, verb: str) -> Any:
        async def do(*given: Any, **named: Any) -> str:
            self._done.append(" ".join([self.name, verb, *map(str, given)]))
            return "used_memory:1000\r\n" if "INFO" in given else "maxmemory 5000"

        return do


class AnyRegion(Anything):
    def __init__(self, name: str, done: list[str]) -> None:
        super().__init__(name, done)
        self.redis = Anything(f"{name}-redis", done)
        self.replicator = Anything(f"{name}-replicator", done)
        self.nodes = {f"{name}-1": Anything(f"{name}-1", done)}


class AnyCluster(Anything):
    def __init__(self, done: list[str]) -> None:
        super().__init__("cluster", done)
        self.regions = {name: AnyRegion(name, done) for name in ("seoul", "busan", "jeju")}
        self.wan = Anything("wan", done)

    def region(self, name: str) -> AnyRegion:
        return self.regions[name]


class Bench:
    """Faults over a cluster that is none, on a clock that ticks with every record."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.said: list[str] = []
        tick: Callable[[], float] = count().__next__
        self.recorder = Recorder(HEADER, tick)
        self.faults = Faults(cast(Cluster, AnyCluster(self.done)), self.recorder, self.said.append)

    def recorded(self) -> list[Fault]:
        return [r for r in self.recorder.history().records if isinstance(r, Fault)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_killed_region_is_away_until_it_returns(bench: Bench) -> None:
    await bench.faults.kill_region("seoul")
    assert bench.faults.away == {"seoul": "DOWN"}
    await bench.faults.return_region("seoul")
    assert bench.faults.away == {}
    (fault,) = bench.recorded()
    (returned,) = [r for r in bench.recorder.history().records if isinstance(r, Returned)]
    assert (fault.verb, fault.target, fault.effect) == ("kill", "seoul", "crash")
    assert fault.until is not None
    assert fault.t < fault.until <= returned.t
    assert bench.done == ["seoul kill", "seoul start"]


async def test_a_region_that_loses_its_disks_is_said_to_be_lost(bench: Bench) -> None:
    await bench.faults.kill_region("seoul", lose_disks=True)
    assert [f.effect for f in bench.recorded()] == ["lost"]
    assert bench.done == ["seoul kill", "seoul lose_disks"]


async def test_an_orderly_stop_excuses_nothing(bench: Bench) -> None:
    await bench.faults.stop_region("seoul")
    assert [f.effect for f in bench.recorded()] == [""]


async def test_the_wan_of_a_region_is_all_links_to_all_others(bench: Bench) -> None:
    await bench.faults.cut_wan("seoul")
    await bench.faults.heal_wan("seoul")
    assert bench.done == ["wan cut seoul busan", "wan cut seoul jeju", "wan heal seoul busan", "wan heal seoul jeju"]
    (fault,) = bench.recorded()
    assert fault.until is not None


async def test_a_full_redis_gets_back_what_it_had(bench: Bench) -> None:
    await bench.faults.fill_redis("seoul")
    await bench.faults.relieve_redis("seoul")
    limits = [line for line in bench.done if "CONFIG SET" in line]
    assert limits == [
        "cluster ask_redis seoul CONFIG SET maxmemory 66536",
        "cluster ask_redis seoul CONFIG SET maxmemory 5000",
    ]


async def test_a_damaged_store_is_that_of_a_dead_node(bench: Bench) -> None:
    await bench.faults.damage_store("seoul-1", "flip_store", 7)
    assert bench.done == ["seoul-1 kill", "cluster damage seoul-1 flip_store 7", "seoul-1 start"]


async def test_a_clock_that_jumps_again_ends_the_first_jump(bench: Bench) -> None:
    await bench.faults.skew("seoul", 30_000)
    await bench.faults.skew("seoul", -30_000)
    await bench.faults.skew("seoul", 0)
    first, second = bench.recorded()
    assert first.until is not None
    assert first.until <= second.t
    assert second.until is not None


async def test_what_was_not_broken_cannot_be_mended(bench: Bench) -> None:
    with pytest.raises(ClusterError, match="nothing of this kind"):
        await bench.faults.heal_wan("seoul")
    with pytest.raises(ClusterError, match="no process 'jeju-9'"):
        await bench.faults.kill_process("jeju-9")


async def test_every_effect_is_one_that_the_checker_knows(bench: Bench) -> None:
    faults = bench.faults
    for do in (faults.kill_process, faults.pause_process, faults.stop_process):
        await do("seoul-redis")
        await faults.return_process("seoul-redis")
    for wan in (faults.cut_wan, faults.cut_wan_one_way, faults.black_hole_wan, faults.swallow_replies):
        await wan("busan")
        await faults.heal_wan("busan")
    await faults.empty_redis("seoul")
    await faults.keep_log("seoul")
    await faults.roll_back_redis("seoul")
    assert {f.effect for f in bench.recorded()} <= EFFECTS
    assert all(f.until is not None for f in bench.recorded())
