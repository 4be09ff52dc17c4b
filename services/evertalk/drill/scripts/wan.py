"""Drills that break the WAN between one region and the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from evertalk.core.checker.figures import GAP_HANG_MS
from evertalk.drill.faults import Faults
from evertalk.drill.plan import Drill, Script
from evertalk.drill.run import Run
from evertalk.drill.scripts import BREAK, MEND, SHORT_S


def _wan(break_it: Callable[[Faults, str], Awaitable[None]]) -> Script:
    async def script(run: Run) -> None:
        await run.until(BREAK)
        await break_it(run.faults, run.regions[0])
        await run.until(MEND)
        await run.faults.heal_wan(run.regions[0])

    return script


_GO_ON = "people of both sides go on in their own region; when the WAN is whole both have the same history"


def _drill(name: str, breaks: str, break_it: Callable[[Faults, str], Awaitable[None]]) -> Drill:
    return Drill(name, breaks, _GO_ON, _wan(break_it), gap_ms=GAP_HANG_MS, seconds=SHORT_S)


DRILLS = (
    _drill("wan-cut", "every connection between one region and the others, in both directions", Faults.cut_wan),
    _drill("wan-one-way", "one region reaches no other one; the others reach it", Faults.cut_wan_one_way),
    _drill("wan-replies", "one region's requests arrive, their replies vanish", Faults.swallow_replies),
    _drill("wan-black-hole", "bytes between the regions vanish, connections stay open", Faults.black_hole_wan),
    _drill("wan-slow", "the WAN takes 400 to 800 ms one way", lambda faults, name: faults.delay_wan(name, 400, 400)),
    _drill(
        "wan-narrow", "each link has 32 KB/s, less than is said", lambda faults, name: faults.narrow_wan(name, 32e3)
    ),
)
