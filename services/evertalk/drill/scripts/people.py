"""Drills about people who move: drained regions and home again, and thousands who return at once."""

from __future__ import annotations

from evertalk.drill.plan import Drill
from evertalk.drill.run import Run


async def _drain_and_home(run: Run) -> None:
    """The first region is stopped in order and returns; then its people come home, one by one (30 to 60 s)."""
    home = run.regions[0]
    await run.until(0.1)
    await run.faults.stop_region(home)
    run.must_be_elsewhere(home)
    await run.until(0.2)
    await run.faults.return_region(home)
    await run.until(1.0)
    run.must_be_home(home)


DRILLS = (
    Drill(
        "drain-and-home",
        "one region is drained, stopped, and returns",
        "its people are handed over without losing an acknowledgement, and have all come home a minute later",
        _drain_and_home,
        seconds=90.0,
    ),
)
