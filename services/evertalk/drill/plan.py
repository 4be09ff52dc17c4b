"""What a run of a drill is made of: the plan, and how it says that it could not be carried out."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertalk.core.checker.figures import GAP_CRASH_MS
from evertalk.core.errors import EvertalkError
from evertalk.core.transcript import Transcript

if TYPE_CHECKING:
    from evertalk.drill.run import Run

Script = Callable[["Run"], Coroutine[Any, Any, None]]


class DrillFailed(EvertalkError):
    """A drill could not be carried out to its end; the sentence says where it stopped."""


@dataclass(frozen=True, slots=True)
class Drill:
    """One drill. `script` runs beside the load and must end before or with it.

    Args:
        breaks, holds: for `drill list`.
        after: runs when the load has ended, before replicas are compared.
        env: more environment of every node and replicator.
        gap_ms: limit of the 99th percentile of clients' gaps (P6).
        converged_s: limit of the time to equal digests (P7).
        regions: how many it needs at least.
        seconds: how long its load is if nobody says.
    """

    name: str
    breaks: str
    holds: str
    script: Script
    after: Script | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    gap_ms: float = GAP_CRASH_MS
    converged_s: float | None = None
    regions: int = 2
    seconds: float = 40.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run."""

    drill: Drill
    out: Path
    users: int = 40
    rate: float = 200.0
    seconds: float = 40.0
    seed: int = 1
    lose_disks: bool = False
    transcript: Transcript | None = None
    regions: tuple[str, ...] = ("seoul", "busan")
    nodes_per_region: int = 2
    shards: int = 4
    driver: str = "process"
