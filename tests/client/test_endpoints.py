"""Which node comes next, how long to wait, and how often to hedge."""

from __future__ import annotations

import asyncio

import pytest

from evertalk.client.endpoints import FIRST_RETRY_S, RETRY_MAX_S, Backoff, Directory, Endpoint, HedgeBudget, race
from evertalk.core.errors import Code, PeerUnavailable, Refused
from tests.client.virtual import SeededIds, virtual
from tests.client.world import World


def directory(world: World, region: str = "seoul") -> Directory:
    return Directory(world.endpoints, region, world, world.clock, SeededIds(5))


@virtual
async def test_own_region_comes_first_and_regions_alternate() -> None:
    order = directory(World(nodes=2), "busan").order()
    assert [e.region for e in order] == ["busan", "seoul", "busan", "seoul"]


@virtual
async def test_what_failed_comes_after_its_neighbours_for_a_while() -> None:
    world = World(nodes=3)
    nodes = directory(world)
    for _ in range(2):
        nodes.failed(nodes.order(only_region="seoul")[0])
    best = nodes.order()[0]
    assert len({nodes.order()[0] for _ in range(20)}) == 1
    nodes.succeeded(nodes.order(only_region="seoul")[-1])
    await asyncio.sleep(20)
    assert {nodes.order()[0] for _ in range(20)} > {best}


@virtual
async def test_a_hedge_goes_to_another_region_and_last_to_the_node_it_fled() -> None:
    nodes = directory(World(nodes=2))
    fled = nodes.order()[0]
    order = nodes.order(avoid_region="seoul", avoid=fled)
    assert order[0].region == "busan"
    assert order[-1] == fled


@virtual
async def test_named_nodes_are_learned_once_and_boundedly() -> None:
    nodes = directory(World())
    nodes.learn([Endpoint("seoul", "seoul-1"), *[Endpoint("jeju", f"jeju-{n}") for n in range(1000)]])
    assert len(nodes.order()) == 64


@virtual
async def test_the_first_retry_is_quick_and_later_ones_are_spread_and_bounded() -> None:
    backoff = Backoff(SeededIds(1))
    waits = [backoff.next_s() for _ in range(30)]
    assert waits[0] < FIRST_RETRY_S
    assert max(waits) <= RETRY_MAX_S
    assert min(waits[10:]) >= RETRY_MAX_S / 2
    assert len(set(waits)) == 30


def test_hedges_are_a_share_of_sends_after_a_small_burst() -> None:
    budget = HedgeBudget()
    hedges = 0
    for _ in range(1000):
        budget.earn()
        hedges += budget.spend()
    assert 50 <= hedges <= 52


@virtual
async def test_a_silent_candidate_costs_the_stagger_and_a_late_one_is_discarded() -> None:
    world = World(nodes=2)
    order = world.endpoints
    discarded: list[str] = []
    started = world.clock.monotonic()

    async def attempt(endpoint: Endpoint) -> str:
        if endpoint == order[0]:
            try:
                await asyncio.sleep(100)
            except asyncio.CancelledError:
                return "late"  # it had won just when it was cancelled
        return endpoint.address

    assert await race(order, attempt, discarded.append, stagger_s=0.15) == order[1].address
    assert world.clock.monotonic() - started == pytest.approx(0.15)
    assert discarded == ["late"]


@virtual
async def test_a_refusal_that_others_would_repeat_ends_the_race() -> None:
    asked: list[Endpoint] = []

    async def attempt(endpoint: Endpoint) -> None:
        asked.append(endpoint)
        raise Refused(Code.BAD_TOKEN, "expired")

    with pytest.raises(Refused):
        await race(World(nodes=2).endpoints, attempt, lambda late: None)
    assert len(asked) == 1


@virtual
async def test_a_node_that_says_why_says_more_than_one_that_is_silent() -> None:
    async def attempt(endpoint: Endpoint) -> None:
        if endpoint.region == "seoul":
            raise Refused(Code.CATCHING_UP, "still catching up")
        raise PeerUnavailable("connection refused")

    with pytest.raises(Refused, match="still catching up"):
        await race(World().endpoints, attempt, lambda late: None)
