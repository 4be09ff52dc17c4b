"""Drills that take whole regions away: killed, paused, stopped, one after the other, again and again."""

from __future__ import annotations

from evertalk.core.checker.figures import GAP_HANG_MS
from evertalk.drill.plan import Drill
from evertalk.drill.run import Run
from evertalk.drill.scripts import BREAK, MEND

#: Small, so that a run of a minute goes far beyond it.
PEER_DOWN_CAP = 256 * 1024
_FLAPS = 4


async def _nothing(run: Run) -> None:
    return None


async def _kill(run: Run, lose_disks: bool) -> None:
    """SIGKILL for every process of the first region; it returns while people still talk."""
    victim = run.regions[0]
    await run.until(BREAK)
    await run.faults.kill_region(victim, lose_disks)
    await run.prove_life_without(victim)
    await run.until(MEND)
    await run.faults.return_region(victim)


async def _kill_region(run: Run) -> None:
    await _kill(run, run.plan.lose_disks)


async def _lose_region(run: Run) -> None:
    await _kill(run, True)


async def _kill_two(run: Run) -> None:
    """One region, and when redundancy is whole again the next: the third one serves."""
    first, second, *_ = run.regions
    await run.until(0.2)
    await run.faults.kill_region(first, run.plan.lose_disks)
    await run.prove_life_without(first)
    await run.until_redundant(first)
    await run.until(0.45)
    await run.faults.kill_region(second, run.plan.lose_disks)
    await run.prove_life_without(first, second)
    await run.until(MEND)
    await run.faults.return_region(first)
    await run.faults.return_region(second)


async def _pause_region(run: Run) -> None:
    victim = run.regions[0]
    await run.until(BREAK)
    await run.faults.pause_region(victim)
    await run.prove_life_without(victim)
    await run.until(MEND)
    await run.faults.resume_region(victim)


async def _stop_region(run: Run) -> None:
    victim = run.regions[0]
    await run.until(0.1)
    await run.faults.stop_region(victim)
    await run.prove_life_without(victim)


async def _first_returns(run: Run) -> None:
    await run.faults.return_region(run.regions[0])


async def _flapping(run: Run) -> None:
    """The first region dies again as soon as it serves."""
    victim = run.regions[0]
    for flap in range(_FLAPS):
        await run.until(0.15 + 0.2 * flap)
        await run.until_redundant()  # P1: only then may it fall again
        await run.faults.kill_region(victim, run.plan.lose_disks)
        await run.faults.return_region(victim)


async def _peer_down(run: Run) -> None:
    await run.faults.kill_region(run.regions[1], run.plan.lose_disks)


async def _peer_returns(run: Run) -> None:
    run.must_be_bounded(PEER_DOWN_CAP)
    await run.faults.return_region(run.regions[1])


DRILLS = (
    Drill("baseline", "nothing", "everything; the figures to compare others with", _nothing),
    Drill(
        "kill-region",
        "every process of one region, by SIGKILL, under load (with --lose-disks its data too)",
        "nothing acknowledged is lost or doubled, order is kept, people go on within a second, "
        "others sign in and start conversations meanwhile; the region returns and becomes equal",
        _kill_region,
    ),
    Drill(
        "lose-region",
        "every process of one region, by SIGKILL, and all it had stored",
        "as kill-region; what only the lost disks held comes again out of outboxes",
        _lose_region,
    ),
    Drill(
        "pause-region",
        "every process of one region stands still (SIGSTOP), its connections stay open",
        "people go on within two seconds; the region goes on where it stood and shows nobody anything old",
        _pause_region,
        gap_ms=GAP_HANG_MS,
    ),
    Drill(
        "stop-region",
        "one region is stopped in order (SIGTERM) near the beginning and stays away for the rest of the load",
        "people are handed over without losing an acknowledgement; the region returns, far behind, and becomes equal",
        _stop_region,
        _first_returns,
    ),
    Drill(
        "kill-two",
        "one region of three; when redundancy is whole again, the next one",
        "the third region serves everybody; both return and become equal",
        _kill_two,
        regions=3,
    ),
    Drill(
        "flapping",
        f"one region is killed and returned {_FLAPS} times in a row",
        "as kill-region, each time",
        _flapping,
    ),
    Drill(
        "peer-down",
        "the other region is away for the whole run, with logs capped at 256 KB a stream",
        "logs, memory and outboxes stay bounded; the region returns, far behind, and becomes equal",
        _peer_down,
        _peer_returns,
        {"EVERTALK_LOG_CAP_BYTES": str(PEER_DOWN_CAP), "EVERTALK_LOG_KEEP": "50", "EVERTALK_CHECKPOINT_S": "2"},
        seconds=60.0,
    ),
)
