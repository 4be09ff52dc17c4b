"""The drills by name: what each breaks, when, and what must hold."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evertalk.drill.run import Run


@dataclass(frozen=True, slots=True)
class Drill:
    """One drill. `script` runs beside the load and must end before or with it.

    env: environment of every node and replicator. returns: what brings everything back after the load.
    """

    name: str
    breaks: str
    holds: str
    script: Callable[[Run], Coroutine[Any, Any, None]]
    after: Callable[[Run], Coroutine[Any, Any, None]] | None = None
    env: Mapping[str, str] = field(default_factory=dict)


async def _nothing(run: Run) -> None:
    return None


async def _kill_region(run: Run) -> None:
    """SIGKILL for every process of the first region; it returns while people still talk."""
    victim = run.regions[0]
    await run.until(0.35)
    await run.kill_region(victim)
    await run.prove_life_without(victim)
    await run.until(0.7)
    await run.return_region(victim)


async def _peer_down(run: Run) -> None:
    await run.kill_region(run.regions[1])


async def _peer_returns(run: Run) -> None:
    run.must_be_bounded(PEER_DOWN_CAP)
    await run.return_region(run.regions[1])


#: Small, so that a run of a minute goes far beyond it.
PEER_DOWN_CAP = 256 * 1024

DRILLS: dict[str, Drill] = {
    drill.name: drill
    for drill in (
        Drill("baseline", "nothing", "everything; the figures to compare others with", _nothing),
        Drill(
            "kill-region",
            "every process of one region, by SIGKILL, under load (with --lose-disks its data too)",
            "nothing acknowledged is lost or doubled, order is kept, people go on within a second, "
            "others sign in and start conversations meanwhile; the region returns and becomes equal",
            _kill_region,
        ),
        Drill(
            "peer-down",
            "the other region is away for the whole run, with logs capped at 256 KB a stream",
            "logs, memory and outboxes stay bounded; the region returns, far behind, and becomes equal",
            _peer_down,
            _peer_returns,
            {"EVERTALK_LOG_CAP_BYTES": str(PEER_DOWN_CAP), "EVERTALK_LOG_KEEP": "50", "EVERTALK_CHECKPOINT_S": "2"},
        ),
    )
}
