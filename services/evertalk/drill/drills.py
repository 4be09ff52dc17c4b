"""The drills by name: what each breaks, when, and what must hold."""

from __future__ import annotations

from evertalk.drill.plan import Drill
from evertalk.drill.scripts import nemesis, people, processes, regions, stores, wan

DRILLS: dict[str, Drill] = {
    drill.name: drill for part in (regions, processes, wan, stores, people, nemesis) for drill in part.DRILLS
}
