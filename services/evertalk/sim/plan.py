"""What a seed stands for: the cluster's shape, what people say, and what breaks when; plain data, so it can be cut."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

REGIONS = ("seoul", "busan", "daegu")


@dataclass(frozen=True, slots=True)
class Shape:
    """The cluster and its knobs."""

    regions: tuple[str, ...]
    nodes: tuple[int, ...]  # by region
    shards: int
    replicators: int
    wan_s: float
    clock_offsets_ms: tuple[int, ...]
    drifts: tuple[float, ...]
    log_cap_bytes: int
    log_keep: int
    log_keep_s: float
    checkpoint_s: float
    rewrite_s: float = 600.0
    limits: tuple[tuple[str, float], ...] = ()  # constants of core/limits.py that are smaller in this run


@dataclass(frozen=True, slots=True)
class User:
    """One person: `keeps` says what outlives a crash of its client: nothing, the token, or token and outbox."""

    name: str
    home: str
    keeps: str  # "nothing" | "all"
    receipts: bool


@dataclass(frozen=True, slots=True)
class Act:
    """Something a person does. `pick` is its chance: which of several targets, which text."""

    at_s: float
    who: int
    what: str
    talk: int
    pick: int


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that breaks at `at_s` and, where it can be, is mended `lasts_s` later.

    where: a region; for verbs on nodes and clients also one of them by name.
    """

    at_s: float
    verb: str
    where: str
    lasts_s: float
    pick: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run. talks: who is in each conversation, by index; the first makes it. Two people make a direct one."""

    seed: int
    shape: Shape
    users: tuple[User, ...]
    talks: tuple[tuple[int, ...], ...]
    acts: tuple[Act, ...]
    faults: tuple[Fault, ...] = field(default=())
    seconds: float = 20.0


def plan_of(seed: int) -> Plan:
    """The run of a seed."""
    rng = random.Random(f"{seed}/plan")
    shape = _shape(rng)
    users = tuple(
        User(f"user{n}", rng.choice(shape.regions), rng.choice(("nothing", "all", "all")), rng.random() < 0.5)
        for n in range(rng.randint(3, 5))
    )
    talks = [tuple(rng.sample(range(len(users)), 2))]
    talks += [tuple(rng.sample(range(len(users)), rng.randint(2, len(users)))) for _ in range(rng.randint(1, 3))]
    seconds = rng.choice((6.0, 9.0, 9.0, 14.0, 20.0))
    acts = _acts(rng, users, talks, seconds)
    return Plan(seed, shape, users, tuple(talks), acts, _faults(rng, shape, seconds), seconds)


def _shape(rng: random.Random) -> Shape:
    regions = REGIONS[: 3 if rng.random() < 0.15 else 2]
    count = len(regions)
    return Shape(
        regions=regions,
        nodes=tuple(rng.choice((1, 2, 2)) for _ in regions),
        shards=rng.randint(1, 3),
        replicators=2 if rng.random() < 0.1 else 1,
        wan_s=rng.choice((0.002, 0.01, 0.04)),
        clock_offsets_ms=tuple(rng.choice((0, 0, rng.randint(-30_000, 30_000))) for _ in range(count)),
        drifts=tuple(rng.choice((0.0, rng.uniform(-1e-3, 1e-3))) for _ in range(count)),
        **_keeping(rng),
        limits=_limits(rng),
    )


def _keeping(rng: random.Random) -> dict[str, Any]:
    """How much of the logs is kept: as usual, or hardly anything."""
    if rng.random() < 0.4:
        return {"log_cap_bytes": 64 * 1024 * 1024, "log_keep": 1000, "log_keep_s": 3600.0, "checkpoint_s": 5.0}
    return {
        "log_cap_bytes": rng.choice((1_000, 4_000, 64 * 1024)),
        "log_keep": rng.choice((0, 0, 3, 20)),
        "log_keep_s": rng.choice((2.0, 10.0, 3600.0)),
        "checkpoint_s": rng.choice((0.5, 1.0, 5.0)),
    }


def _limits(rng: random.Random) -> tuple[tuple[str, float], ...]:
    """Bounds so small that they are met."""
    found: list[tuple[str, float]] = []
    if rng.random() < 0.15:
        found.append(("SESSION_QUEUE_BYTES", 2000))
    if rng.random() < 0.1:
        found.append(("STORE_COUNTED_S", 10.0))
    if rng.random() < 0.2:
        found.append(("EXPORT_PAGE", rng.choice((1, 3, 10))))
    if rng.random() < 0.1:
        found.append(("MAX_ENTRY_BYTES", 300))
    return tuple(found)


_VERBS = {
    "kill_node": 6, "crash_node": 10, "freeze_node": 5, "drain_node": 4, "wipe_node": 3,
    "kill_redis": 5, "freeze_redis": 3, "empty_redis": 4, "roll_back_redis": 4, "fill_redis": 3,
    "kill_replicator": 6, "freeze_replicator": 4,
    "kill_region": 5, "power_region": 5, "burn_region": 6, "freeze_region": 5,
    "cut": 10, "cut_clients": 4, "reset": 5, "slow": 4, "jump_clock": 4, "crash_client": 8, "freeze_client": 4,
}  # fmt: skip


def _faults(rng: random.Random, shape: Shape, seconds: float) -> tuple[Fault, ...]:
    found = [
        Fault(
            rng.uniform(0.3, seconds - 1),
            rng.choices(list(_VERBS), list(_VERBS.values()))[0],
            rng.choice(shape.regions),
            rng.choice((rng.uniform(0.05, 2.0), rng.uniform(1.0, 8.0))),
            rng.getrandbits(32),
        )
        for _ in range(rng.choice((0, 1, 2, 3, 4, 5, 7)))
    ]
    return tuple(sorted(found, key=lambda fault: fault.at_s))


_WHAT = ("message", "reply", "edit", "react", "delete", "read", "list", "title", "add", "remove", "meet", "newcomer")
_WEIGHTS = (50, 18, 6, 5, 4, 8, 1, 1, 3, 1, 2, 1)
_ADMIN = ("add", "remove")  # what only who made a group may do


def _acts(rng: random.Random, users: tuple[User, ...], talks: list[tuple[int, ...]], seconds: float) -> tuple[Act, ...]:
    rate = rng.choice((1.5, 3.0, 5.0))
    found = []
    at = 0.0
    while (at := at + rng.expovariate(rate)) < seconds:
        talk = rng.randrange(len(talks))
        [what] = rng.choices(_WHAT, _WEIGHTS)
        who = talks[talk][0] if what in _ADMIN else rng.choice(talks[talk])
        found.append(Act(at, who, what, talk, rng.getrandbits(32)))
        if rng.random() < 0.1:  # a burst
            found += [Act(at, found[-1].who, "message", talk, rng.getrandbits(32)) for _ in range(rng.randint(2, 8))]
    return tuple(found)
