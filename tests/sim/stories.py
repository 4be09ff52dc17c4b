"""Hand-built plans: schedules for what random ones meet too rarely. Each holds, and breaks with its bug planted."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

from evertalk.sim.plan import Act, Fault, Plan, Shape, User

SHAPE = Shape(
    regions=("seoul", "busan"), nodes=(1, 1), shards=1, replicators=1, wan_s=0.01, clock_offsets_ms=(0, 0),
    drifts=(0.0, 0.0), log_cap_bytes=1 << 26, log_keep=1000, log_keep_s=3600.0, checkpoint_s=1.0,
)  # fmt: skip
SEOUL = User("user0", "seoul", "nothing", False)
BUSAN = User("user1", "busan", "all", False)


def plan(
    acts: Iterable[Act], faults: Iterable[Fault], seconds: float, shape: Shape = SHAPE, seed: int = 1,
    users: tuple[User, ...] = (SEOUL, BUSAN), talks: tuple[tuple[int, ...], ...] = ((0, 1),),
) -> Plan:  # fmt: skip
    """A plan with what it needs, the rest as usual."""
    return Plan(seed, shape, users, talks, tuple(acts), tuple(faults), seconds)


def says(who: int, first: float, last: float, every: float = 0.2, what: str = "message") -> list[Act]:
    """One thing after the other."""
    count = max(1, int((last - first) / every) + 1)
    return [Act(first + n * every, who, what, 0, n + 1) for n in range(count)]


def _both_ways() -> int:
    """The chance with which `cut` cuts both ways, of two regions."""
    for pick in range(1000):
        rng = random.Random(pick)
        rng.choice(["other"])
        if rng.choice(("both", "both", "there", "back")) == "both":
            return pick
    raise AssertionError("no such chance")


def _at_once() -> int:
    """The chance with which `crash_client` kills now, not at some later step."""
    return next(pick for pick in range(1000) if random.Random(pick).random() >= 0.5)


def _with_seoul() -> int:
    """The chance with which `reset` breaks connections with seoul (regions and clients are its choices)."""
    return next(pick for pick in range(1000) if random.Random(pick).choice((0, 1, 2)) == 0)


def _to_clients() -> int:
    """The chance with which `reset` breaks connections of clients."""
    return next(pick for pick in range(1000) if random.Random(pick).choice((0, 1, 2)) == 2)


def cut(at_s: float, lasts_s: float) -> Fault:
    """seoul and busan do not hear each other."""
    return Fault(at_s, "cut", "seoul", lasts_s, _both_ways())


def only_copy_is_trimmed() -> Plan:
    """What only seoul's log holds is past its retention when the power goes, and no checkpoint has it (R5)."""
    shape = replace(SHAPE, log_keep=0, log_keep_s=2.0, log_cap_bytes=1000, checkpoint_s=50.0)
    faults = (
        cut(0.5, 12.0),
        Fault(7.0, "crash_client", "user0", 20.0, _at_once()),
        Fault(8.0, "power_region", "seoul", 2.0, 1),
    )
    return plan(says(0, 1.0, 5.0), faults, 13.0, shape, seed=3)


def one_of_three_falls_behind() -> Plan:
    """Two stores hold it, so the log is trimmed under a third that stands still (R6)."""
    shape = replace(SHAPE, nodes=(3, 1), log_keep=0, checkpoint_s=0.5)
    return plan(says(0, 1.0, 5.0), [Fault(1.5, "freeze_node", "seoul-3", 6.0, 1)], 9.0, shape)


def an_import_breaks_off() -> Plan:
    """The same, and what it asks others for breaks off again and again (R9)."""
    shape = replace(SHAPE, nodes=(3, 1), log_keep=0, checkpoint_s=0.5, limits=(("EXPORT_PAGE", 1),))
    resets = [Fault(8.51 + n * 0.006, "reset", where, 0.1, _with_seoul()) for n in range(30) for where in SHAPE.regions]
    return plan(says(0, 1.0, 5.0), [Fault(1.5, "freeze_node", "seoul-3", 6.0, 1), *resets], 10.0, shape)


def a_tail_that_nobody_else_has() -> Plan:
    """seoul's Redis dies behind a cut, so its origin closes with a tail that busan lacks; then seoul burns (R16).

    Connections to busan's nodes break meanwhile, so that user0 goes back to seoul, and is told what it is told there.
    """
    faults = (
        cut(1.0, 7.0),
        Fault(3.0, "kill_redis", "seoul", 0.2, 1),
        *(Fault(3.0 + n * 0.008, "reset", "busan", 0.1, _to_clients()) for n in range(425)),
        Fault(6.5, "burn_region", "seoul", 1.0, 1),
    )
    return plan(says(0, 1.5, 2.9), faults, 9.0)


def nodes_crash_while_they_apply() -> Plan:
    """Each node dies in the middle of something, often."""
    shape = replace(SHAPE, nodes=(2, 2))
    faults = [
        Fault(1.0 + n * 0.8, "crash_node", f"{region}-{1 + n % 2}", 0.7, 7 * n + i)
        for n in range(12)
        for i, region in enumerate(("seoul", "busan"))
    ]
    return plan([*says(0, 1.0, 10.0, 0.1), *says(1, 1.05, 10.0, 0.1)], faults, 11.5, shape)


def a_store_is_lost_after_a_deletion() -> Plan:
    """A message lies in busan's log, which is short and kept; its deletion in seoul's, which is trimmed: a new store
    hears of it only by Export (R12)."""
    shape = replace(SHAPE, nodes=(2, 1), log_keep=5, checkpoint_s=0.5)
    acts = [*says(1, 1.0, 1.0), Act(4.5, 1, "delete", 0, 1), *says(0, 5.0, 7.0)]
    faults = [Fault(2.0, "kill_node", "busan-1", 2.0, 1), Fault(9.5, "wipe_node", "seoul-2", 0.5, 1)]
    return plan(acts, faults, 11.0, shape)


def somebody_registers_where_it_burns() -> Plan:
    """An account is made behind a cut; then its region burns (R14)."""
    faults = (cut(1.0, 5.0), Fault(4.0, "burn_region", "seoul", 1.0, 1))
    return plan([Act(1.2, 0, "newcomer", 0, 1)], faults, 7.0)


def redis_is_full_now_and_then() -> Plan:
    """Some of a stream's sends are refused, while those behind them are on their way; others read (R10)."""
    full = next(pick for pick in range(1000) if random.Random(pick).choice((0.9, 1.1)) < 1)
    faults = [Fault(1.0 + n * 0.45, "fill_redis", "seoul", 0.03, full) for n in range(8)]
    acts = [*says(0, 0.9, 4.5, 0.013), *says(1, 1.0, 5.5, 0.02, "read")]
    return plan(acts, faults, 6.0, replace(SHAPE, wan_s=0.05), users=(SEOUL, replace(BUSAN, home="seoul")))


def redis_is_emptied_and_nobody_says_anything_there() -> Plan:
    """seoul's Redis forgets everything while seoul's people are silent: busan's messages must be REPLICATED again."""
    return plan(says(1, 3.0, 4.0), [Fault(1.5, "empty_redis", "seoul", 0.1, 1)], 5.0)


def replicators_race() -> Plan:
    """Two in each region (R4)."""
    return plan([*says(0, 1.0, 3.0), *says(1, 1.05, 3.0)], (), 4.0, replace(SHAPE, replicators=2))


def power_fails_between_checkpoint_and_trim() -> Plan:
    """The log is trimmed up to the last checkpoint, and not one entry further (R5)."""
    shape = replace(SHAPE, log_keep=0, log_keep_s=0.5, log_cap_bytes=1000, checkpoint_s=2.0)
    faults = (
        cut(0.5, 12.0),
        Fault(9.1, "crash_client", "user0", 20.0, _at_once()),
        Fault(9.2, "power_region", "seoul", 2.0, 1),
    )
    return plan(says(0, 1.0, 9.0, 0.1), faults, 13.0, shape, seed=11)


def streams_break_between_ack_and_delivery() -> Plan:
    """Two people of one region talk at once; streams break while acks and deliveries are on their way (R7)."""
    users = (replace(SEOUL, keeps="all"), replace(BUSAN, home="seoul"))
    times = [1.0 + n * 0.6 for n in range(20)]
    faults = [Fault(t + 0.0035 + n * 0.0002, "reset", "seoul", 0.1, _to_clients()) for n, t in enumerate(times)]
    acts = [act for t in times for act in (*says(0, t, t), *says(1, t + 0.0003, t))]
    return plan(acts, faults, 14.0, replace(SHAPE, nodes=(2, 1), wan_s=0.002), seed=1, users=users)


def a_reply_overtakes_its_parent() -> Plan:
    """busan's words reach seoul slowly and daegu fast; daegu answers, and seoul has the answer first (R11)."""
    shape = replace(
        SHAPE, regions=("seoul", "busan", "daegu"), nodes=(1, 1, 1), clock_offsets_ms=(0, 0, 0), drifts=(0.0,) * 3
    )
    users = (SEOUL, BUSAN, User("user2", "daegu", "all", False))
    slow = [Fault(0.5, "slow", "seoul", 8.0, _slowly(shape))]
    acts = [*says(1, 1.0, 7.0, 1.0), *says(2, 1.3, 7.3, 1.0, "reply")]
    return plan(acts, slow, 9.0, shape, users=users, talks=((0, 1, 2),))


def _slowly(shape: Shape) -> int:
    """The chance with which `slow` slows both ways between seoul and busan by less than half a second."""
    for pick in range(100_000):
        rng = random.Random(pick)
        other = rng.choice(shape.regions[1:])
        ways = rng.choice(("both", "both", "there", "back"))
        if other == "busan" and ways == "both" and max(rng.uniform(0.1, 1.5), rng.uniform(0.1, 1.5)) < 0.35:
            return pick
    raise AssertionError("no such chance")


def somebody_uses_anothers_ids() -> Plan:
    """Each message of user1 bears the id of the one of user0's that it has seen last: two messages, not one (R1)."""
    return plan([*says(0, 1.0, 3.0, 0.4), *says(1, 1.2, 3.2, 0.4, "copy")], (), 4.0)


def stores_are_lost_behind_a_cut() -> Plan:
    """What user0 said behind a cut is in seoul's stores alone, for its log is short and user0 is gone. Then one store
    is lost while the other is down: a named hole, that is filled when the other comes back (R6)."""
    shape = replace(SHAPE, nodes=(2, 1), log_keep=0, log_keep_s=0.5, checkpoint_s=0.3)
    faults = (
        Fault(0.8, "isolate", "seoul", 17.0, 1),
        Fault(4.5, "crash_client", "user0", 20.0, _at_once()),
        Fault(6.0, "kill_node", "seoul-2", 9.0, 1),
        Fault(6.5, "wipe_node", "seoul-1", 0.1, 1),
    )
    return plan(says(0, 1.0, 2.6), faults, 19.0, shape)


def a_disk_comes_back_as_it_was() -> Plan:
    """As before, but both stores are lost; the hole is filled from the disk of seoul's Redis, rolled back (R6, R3)."""
    shape = replace(SHAPE, log_keep=0, log_keep_s=2.0, checkpoint_s=0.3)
    faults = (
        Fault(0.8, "isolate", "seoul", 16.0, 1),
        Fault(3.0, "roll_back_redis", "seoul", 10.0, 1),
        Fault(4.5, "crash_client", "user0", 20.0, _at_once()),
        Fault(7.0, "wipe_stores", "seoul", 0.1, 1),
    )
    return plan(says(0, 1.0, 2.6), faults, 16.0, shape)


def who_was_removed_talks_while_a_hole_is_open() -> Plan:
    """What only seoul had is lost, and its origin lives on: nobody is left to fill the hole, so user2 must be told that
    it is no member any more, and not NOT_YET for ever."""
    shape = replace(SHAPE, log_keep=0, log_keep_s=0.5, checkpoint_s=0.3)
    users = (SEOUL, BUSAN, User("user2", "busan", "all", False))
    user2 = next(pick for pick in range(1000) if random.Random(pick).choice((0, 1, 2)) == 2)
    faults = (Fault(0.8, "isolate", "seoul", 9.0, 1), Fault(6.5, "wipe_stores", "seoul", 0.1, 1))
    acts = [*says(0, 1.0, 2.6), Act(1.5, 1, "remove", 0, user2), *says(2, 2.5, 3.5)]
    return plan(acts, faults, 12.0, shape, users=users, talks=((1, 0, 2),))


def a_region_joins_and_another_burns() -> Plan:
    """daegu comes while people talk; once it has everything seoul burns."""
    shape = replace(
        SHAPE, regions=("seoul", "busan", "daegu"), nodes=(1, 1, 2), clock_offsets_ms=(0, 0, 0), drifts=(0.0,) * 3,
        joins="daegu",
    )  # fmt: skip
    faults = (Fault(2.0, "join", "daegu", 0.0, 1), Fault(5.0, "burn_region", "seoul", 2.0, 1))
    return plan([*says(0, 1.0, 8.0), *says(1, 1.1, 8.0)], faults, 9.0, shape)


def whispers_in_a_region_that_burns() -> Plan:
    """Messages that disappear, edited and answered meanwhile, over a cut and a fire (P9)."""
    acts = [*says(0, 1.0, 5.0, 0.3, "whisper"), *says(1, 1.1, 5.0, 0.5, "reply"), *says(0, 1.2, 5.0, 0.7, "edit"),
            *says(0, 1.3, 5.0, 0.9, "delete")]  # fmt: skip
    return plan(acts, (cut(1.5, 2.0), Fault(4.5, "burn_region", "seoul", 1.0, 1)), 7.0)


def one_does_not_read() -> Plan:
    """What waits for user1 passes every bound while it stands still (P8); user2 hears everything all the same."""
    shape = replace(SHAPE, limits=(("SESSION_QUEUE_BYTES", 40_000),))
    users = (SEOUL, BUSAN, User("user2", "busan", "all", False))
    freeze = Fault(1.0, "freeze_client", "user1", 5.0, 1)
    return plan(says(0, 1.2, 5.0, 0.2, "long"), [freeze], 7.0, shape, users=users, talks=((0, 1, 2),))


def a_region_stands_still_while_people_talk() -> Plan:
    """Nobody says goodbye; people of seoul go on in busan (P6)."""
    users = (SEOUL, BUSAN, User("user2", "seoul", "all", False))
    freeze = Fault(2.0, "freeze_region", "seoul", 20.0, 1)
    return plan([*says(0, 1.0, 12.0), *says(2, 1.1, 12.0)], [freeze], 13.0, users=users, talks=((0, 1, 2),))


STORIES = (
    only_copy_is_trimmed, one_of_three_falls_behind, an_import_breaks_off, a_tail_that_nobody_else_has,
    nodes_crash_while_they_apply, a_store_is_lost_after_a_deletion, somebody_registers_where_it_burns,
    redis_is_full_now_and_then, redis_is_emptied_and_nobody_says_anything_there, replicators_race,
    power_fails_between_checkpoint_and_trim, streams_break_between_ack_and_delivery, a_reply_overtakes_its_parent,
    somebody_uses_anothers_ids, stores_are_lost_behind_a_cut, a_disk_comes_back_as_it_was,
    who_was_removed_talks_while_a_hole_is_open,
    a_region_joins_and_another_burns, whispers_in_a_region_that_burns, one_does_not_read,
    a_region_stands_still_while_people_talk,
)  # fmt: skip
