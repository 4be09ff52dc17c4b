"""What a seed stands for: the cluster's shape, what people say, and what breaks when; plain data, so it can be cut."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
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
    joins: str = ""  # a region that is not there at the start


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
        for n in range(rng.randint(3, 4))
    )
    talks = [tuple(rng.sample(range(len(users)), 2))]
    talks += [tuple(rng.sample(range(len(users)), rng.randint(2, len(users)))) for _ in range(rng.randint(1, 2))]
    seconds = rng.choice((2.5, 3.5, 4.0, 5.0, 8.0))  # dense: a second in which nothing happens costs as much
    acts = _acts(rng, users, talks, seconds)
    return _flavoured(Plan(seed, shape, users, tuple(talks), acts, _faults(rng, shape, seconds), seconds))


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
            rng.uniform(0.2, seconds - 0.5),
            rng.choices(list(_VERBS), list(_VERBS.values()))[0],
            rng.choice(shape.regions),
            rng.choice((rng.uniform(0.05, 1.5), rng.uniform(1.0, 5.0))),
            rng.getrandbits(32),
        )
        for _ in range(rng.choice((0, 2, 3, 4, 5, 6, 7)))
    ]
    return tuple(sorted(found, key=lambda fault: fault.at_s))


_WHAT = ("message", "reply", "edit", "react", "delete", "read", "list", "title", "add", "remove", "meet", "newcomer")
_WEIGHTS = (50, 18, 6, 5, 4, 8, 1, 1, 3, 1, 2, 1)
_ADMIN = ("add", "remove")  # what only who made a group may do


def _acts(rng: random.Random, users: tuple[User, ...], talks: list[tuple[int, ...]], seconds: float) -> tuple[Act, ...]:
    rate = rng.choice((2.0, 4.0, 7.0))
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


# ---------------------------------------------------------------- what chance alone would meet too rarely


def _flavoured(plan: Plan) -> Plan:
    """The plan as it is, or bent towards one thing. The chance is its own: plans without stay what they were."""
    rng = random.Random(f"{plan.seed}/flavour")
    flavour = rng.choices(list(_FLAVOURS), list(_FLAVOURS.values()))[0]
    return flavour(plan, rng)


def _plain(plan: Plan, rng: random.Random) -> Plan:
    return plan


def _forgotten(plan: Plan, rng: random.Random) -> Plan:
    """A region is cut off and talks on, its log keeps hardly anything, then its stores go: what it had alone is a
    named hole (R6). It is filled where a second store, or the disk of its Redis as it was, comes back."""
    where = rng.choice(plan.shape.regions)
    nodes = tuple(2 if name == where else n for name, n in zip(plan.shape.regions, plan.shape.nodes, strict=True))
    shape = replace(
        plan.shape, nodes=nodes, log_cap_bytes=64 * 1024, log_keep=0, log_keep_s=rng.choice((0.5, 1.0)),
        checkpoint_s=rng.choice((0.3, 0.6)),
    )  # fmt: skip
    cut_s, quiet_s = rng.uniform(0.2, 0.6), rng.uniform(2.0, 2.5)
    wiped_s = quiet_s + rng.uniform(3.5, 4.5)
    back_s = wiped_s + rng.uniform(4.5, 5.5)
    faults = [Fault(cut_s, "isolate", where, back_s + rng.uniform(-1.5, 1.5) - cut_s, rng.getrandbits(32))]
    acts = plan.acts
    match rng.choice(("gone", "store", "store", "disk", "disk")):
        case "store":
            faults.append(Fault(wiped_s - 0.5, "kill_node", f"{where}-2", back_s - wiped_s, rng.getrandbits(32)))
            faults.append(Fault(wiped_s, "wipe_node", f"{where}-1", 0.1, rng.getrandbits(32)))
        case other:
            faults.append(Fault(wiped_s, "wipe_stores", where, 0.1, rng.getrandbits(32)))
            if other == "disk":
                faults.append(Fault(quiet_s, "roll_back_redis", where, back_s - quiet_s, rng.getrandbits(32)))
                acts = tuple(act for act in acts if not quiet_s - 0.5 < act.at_s < back_s)
    return replace(plan, shape=shape, acts=acts, faults=_sorted(faults), seconds=max(plan.seconds, back_s + 2.0))


def _slow_readers(plan: Plan, rng: random.Random) -> Plan:
    """Long messages, and people who do not read for seconds: what waits for them passes its bound (P8)."""
    kept = [limit for limit in plan.shape.limits if limit[0] not in ("SESSION_QUEUE_BYTES", "MAX_ENTRY_BYTES")]
    shape = replace(plan.shape, limits=(*kept, ("SESSION_QUEUE_BYTES", 40_000)))
    acts = tuple(
        replace(act, what="long") if act.what == "message" and rng.random() < 0.6 else act for act in plan.acts
    )
    freezes = [
        Fault(
            rng.uniform(0.2, plan.seconds / 2), "freeze_client", user.name, rng.uniform(2.0, 6.0), rng.getrandbits(32)
        )
        for user in plan.users
        if rng.random() < 0.7
    ]
    return replace(plan, shape=shape, acts=acts, faults=_sorted([*plan.faults, *freezes]))


def _whispers(plan: Plan, rng: random.Random) -> Plan:
    """Some messages disappear after seconds (P9); clocks are no more than that apart."""
    shape = replace(plan.shape, clock_offsets_ms=tuple(ms // 10 for ms in plan.shape.clock_offsets_ms))
    acts = tuple(
        replace(act, what="whisper") if act.what == "message" and rng.random() < 0.5 else act for act in plan.acts
    )
    return replace(plan, shape=shape, acts=acts, faults=_without(plan.faults, "jump_clock"))


def _joining(plan: Plan, rng: random.Random) -> Plan:
    """The last region comes while the others run."""
    shape = plan.shape
    if len(shape.regions) < len(REGIONS):
        shape = replace(
            shape, regions=REGIONS, nodes=(*shape.nodes, rng.choice((1, 2))),
            clock_offsets_ms=(*shape.clock_offsets_ms, rng.randint(-30_000, 30_000)), drifts=(*shape.drifts, 0.0),
        )  # fmt: skip
    join = Fault(rng.uniform(0.3, plan.seconds * 0.7), "join", REGIONS[-1], 0.0, rng.getrandbits(32))
    return replace(plan, shape=replace(shape, joins=REGIONS[-1]), faults=_sorted([*plan.faults, join]))


_LOSING = ("wipe_node", "empty_redis", "roll_back_redis", "burn_region")


def _aging(plan: Plan, rng: random.Random) -> Plan:
    """Thirty days pass within seconds: stamps, tokens and the records of folded origins grow too old (R12, R16).

    Nothing is lost meanwhile: an outbox may not send again what is that old.
    """
    limits = (*plan.shape.limits, ("MAX_AGE_MS", rng.choice((3_000, 5_000))))
    shape = replace(plan.shape, limits=limits, clock_offsets_ms=(0,) * len(plan.shape.regions))
    away = [
        Fault(rng.uniform(0.3, 2.0), rng.choice(("crash_client", "freeze_client")), user.name, rng.uniform(3.0, 7.0),
              rng.getrandbits(32))
        for user in plan.users
        if rng.random() < 0.5
    ]  # fmt: skip
    redis = Fault(rng.uniform(0.3, 2.0), "kill_redis", rng.choice(shape.regions), 0.2, rng.getrandbits(32))
    kept = _without(plan.faults, "jump_clock", *_LOSING)
    return replace(plan, shape=shape, faults=_sorted([*kept, *away, redis]), seconds=max(plan.seconds, 9.0))


def _copying(plan: Plan, rng: random.Random) -> Plan:
    """Some messages bear an id that is another's."""
    acts = tuple(
        replace(act, what="copy") if act.what == "message" and rng.random() < 0.2 else act for act in plan.acts
    )
    return replace(plan, acts=acts)


def _without(faults: tuple[Fault, ...], *verbs: str) -> tuple[Fault, ...]:
    return tuple(fault for fault in faults if fault.verb not in verbs)


def _sorted(faults: list[Fault]) -> tuple[Fault, ...]:
    return tuple(sorted(faults, key=lambda fault: fault.at_s))


_FLAVOURS = {_plain: 63, _copying: 3, _forgotten: 9, _slow_readers: 7, _whispers: 8, _joining: 6, _aging: 4}
