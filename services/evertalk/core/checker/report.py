"""What the checker says: violations by kind with the lines that show them, figures, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

#: Kinds of violation, in the order of the report.
VIOLATIONS = (
    "lost",
    "duplicated",
    "phantom",
    "sender_order",
    "causal_order",
    "diverged",
    "session",
    "resurrected",
)


class Violation(NamedTuple):
    """A promise that was broken: `ids` of events, `lines` of the history that show it, and a sentence."""

    kind: str
    ids: tuple[str, ...]
    lines: tuple[int, ...]
    sentence: str


class Limit(NamedTuple):
    """A promise in numbers. `measured` is None if there was nothing to measure; then it is not within."""

    name: str
    measured: float | None
    limit: float
    within: bool


@dataclass(frozen=True, slots=True)
class Report:
    """The whole of what a history says.

    counts: invoked, accepted, replicated, failed, unknown (events); delivered (receptions); gaps (told or on
        reads); late (events marked so).
    violations: number by kind; `found` holds them.
    rpo: accepted_messages, accepted_seconds, replicated_messages; see `figures.rpo`.
    gap_ms, delivery_ms, replication_ms: p50, p99, max in milliseconds, None if there was nothing.
    converged_s: seconds from the last return to equal digests, None if never.
    figures: live_causal (replies shown before their parents, unmarked ones being violations) and
        parent_missing (deliveries so marked).
    verdict: "held" if there is no violation and the replicas converged, else "broken". Limits do not enter.
    """

    counts: dict[str, int]
    violations: dict[str, int]
    found: list[Violation]
    rpo: dict[str, float]
    gap_ms: dict[str, float | None]
    delivery_ms: dict[str, float | None]
    replication_ms: dict[str, float | None]
    converged_s: float | None
    figures: dict[str, int]
    limits: list[Limit]
    verdict: str
    reasons: list[str] = field(default_factory=list)
