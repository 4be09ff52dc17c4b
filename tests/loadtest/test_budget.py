"""What a message costs in commands, statements, frames and bytes: a change that asks for more must say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtest import counts

BUDGET = json.loads((Path(counts.__file__).parent / "budget.json").read_text())


@pytest.mark.timeout(180)
async def test_a_message_stays_within_its_recorded_budget() -> None:
    found = await counts.count()
    assert counts.over(found, BUDGET) == [], json.dumps(found)


def test_a_count_above_its_budget_is_named() -> None:
    found = {phase: {name: most / 2 for name, most in budget.items()} for phase, budget in BUDGET.items()}
    assert counts.over(found, BUDGET) == []
    found["burst"]["sqlite_statements"] = 9.0
    assert counts.over(found, BUDGET) == ["burst: sqlite_statements is 9 a message, its budget 4.4"]
