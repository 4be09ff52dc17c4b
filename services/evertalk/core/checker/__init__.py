"""The history checker: one pure function that says, from a recorded history alone, whether the promises held."""

from __future__ import annotations

from collections import Counter
from itertools import chain

from evertalk.core.checker import figures
from evertalk.core.checker.index import Index, indexed
from evertalk.core.checker.order import live_causal, live_order, misordered
from evertalk.core.checker.presence import diverged, duplicated, lost, phantom, resurrected
from evertalk.core.checker.report import VIOLATIONS, Limit, Report, Violation
from evertalk.core.checker.session import broken_sessions
from evertalk.core.history import History

__all__ = ["VIOLATIONS", "Limit", "Report", "Violation", "check"]

_WORDS = {
    "lost": "acknowledged messages lost",
    "duplicated": "events duplicated",
    "phantom": "events that were never said like that",
    "sender_order": "messages out of their session's order",
    "causal_order": "messages before what caused them",
    "diverged": "differences between replicas",
    "session": "session guarantees broken",
    "resurrected": "deleted messages that are back",
}


def check(history: History) -> Report:
    """What a history says about the promises (DESIGN, sections 1 and 5); deterministic, touches nothing.

    Args:
        history: as `core.history_lines.from_lines` gives it.
    """
    known = indexed(history)
    inverted = live_causal(known)
    found = list(
        chain(
            lost(known),
            duplicated(known),
            phantom(known),
            misordered(known),
            live_order(inverted),
            diverged(known),
            broken_sessions(known),
            resurrected(known),
        )
    )
    found.sort(key=lambda violation: VIOLATIONS.index(violation.kind))
    number = Counter(violation.kind for violation in found)
    gap = figures.gap_ms(known)
    converged = figures.converged_s(known)
    limits = figures.limits(known, gap["p99"], converged)
    return Report(
        counts=figures.counts(known),
        violations={kind: number[kind] for kind in VIOLATIONS},
        found=found,
        rpo=figures.rpo(known, {v.ids[0] for v in found if v.kind == "lost"}),
        gap_ms=gap,
        delivery_ms=figures.delivery_ms(known),
        replication_ms=figures.replication_ms(known),
        converged_s=converged,
        figures={
            "live_causal": len(inverted),
            "parent_missing": sum(1 for _, r in known.received if r.parent_missing),
        },
        limits=limits,
        verdict="broken" if found or converged is None else "held",
        reasons=_reasons(known, found, converged, limits),
    )


def _reasons(known: Index, found: list[Violation], converged: float | None, limits: list[Limit]) -> list[str]:
    """Sentences: why it is broken, and which limits were passed (which does not break it)."""
    reasons = []
    for kind in VIOLATIONS:
        of_kind = [v for v in found if v.kind == kind]
        if of_kind:
            lines = ", ".join(map(str, of_kind[0].lines))
            reasons.append(f"{len(of_kind)} {_WORDS[kind]}; the first: {of_kind[0].sentence} (lines {lines}).")
    if converged is None:
        reasons.append(_unconverged(known))
    reasons += [
        f"Limit exceeded: {one.name} is {one.measured}, the limit is {one.limit}."
        for one in limits
        if not one.within and one.measured is not None
    ]
    return reasons


def _unconverged(known: Index) -> str:
    if not known.finals:
        return "No replica was read at the end."
    unread = figures.unread(known)
    if unread:
        return f"Not read at the end though nothing had taken them away: {', '.join(unread)}."
    return "The replicas' digests did not become equal in time."
