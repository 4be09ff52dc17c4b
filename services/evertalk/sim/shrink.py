"""Cuts a failing plan short: fewer faults, fewer acts, an earlier end, as long as it still breaks the same promise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from evertalk.sim.plan import Plan
from evertalk.sim.run import run

Breaks = Callable[[Plan], str]
T = TypeVar("T")


def broken_promise(plan: Plan) -> str:
    """The first word of the first violation; empty if the plan holds."""
    violations = run(plan).violations
    return violations[0].split(":")[0].split(" ")[0] if violations else ""


def shrink(plan: Plan, tries: int = 200, breaks: Breaks = broken_promise) -> Plan:
    """A smaller plan that breaks the same promise, found within so many runs."""
    wanted = breaks(plan)
    if not wanted:
        return plan
    smaller = True
    while smaller and tries > 0:
        smaller = False
        for candidate in _smaller(plan):
            tries -= 1
            if breaks(candidate) == wanted:
                plan, smaller = candidate, True
                break
            if tries <= 0:
                break
    return plan


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Cuts to try, the deepest first."""
    for faults in _without(plan.faults):
        yield replace(plan, faults=faults)
    for acts in _without(plan.acts):
        yield replace(plan, acts=acts)
    last = max([a.at_s for a in plan.acts] + [f.at_s for f in plan.faults], default=0.0) + 1.0
    if last < plan.seconds:
        yield replace(plan, seconds=last)


def _without(whole: tuple[T, ...]) -> Iterator[tuple[T, ...]]:
    size = len(whole)
    while size >= 1:
        for start in range(0, len(whole), size):
            yield whole[:start] + whole[start + size :]
        size //= 2
