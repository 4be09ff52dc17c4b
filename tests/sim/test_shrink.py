"""Shrinking: what is left of a failing plan is what it takes, and the promise it breaks is the same one."""

from __future__ import annotations

from evertalk.sim.plan import Act, Fault, Plan
from evertalk.sim.shrink import shrink
from tests.sim import stories

_ACTS = [Act(1.0 + n * 0.1, 0, "message", 0, n) for n in range(23)]
_FAULTS = [Fault(1.0 + n * 0.3, "cut", "seoul", 1.0, n) for n in range(9)]
_WHOLE = stories.plan(_ACTS, _FAULTS, 20.0)


def _lost(plan: Plan) -> str:
    """Breaks by act 7 together with fault 3; another promise by act 11 alone."""
    acts, faults = {act.pick for act in plan.acts}, {fault.pick for fault in plan.faults}
    if 7 in acts and 3 in faults:
        return "lost"
    return "duplicated" if 11 in acts else ""


def test_only_what_it_takes_is_left() -> None:
    small = shrink(_WHOLE, breaks=_lost)
    assert [act.pick for act in small.acts] == [7]
    assert [fault.pick for fault in small.faults] == [3]
    assert small.seconds < _WHOLE.seconds


def test_tries_are_bounded_and_what_was_found_by_then_still_breaks() -> None:
    asked = []

    def counted(plan: Plan) -> str:
        asked.append(plan)
        return _lost(plan)

    small = shrink(_WHOLE, tries=10, breaks=counted)
    assert len(asked) == 11
    assert _lost(small) == "lost"
    assert len(small.acts) + len(small.faults) < len(_ACTS) + len(_FAULTS)


def test_a_plan_that_holds_is_left_alone() -> None:
    assert shrink(_WHOLE, breaks=lambda plan: "") is _WHOLE
