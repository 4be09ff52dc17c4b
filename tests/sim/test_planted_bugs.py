"""Bugs planted one at a time must be caught; what catches them must hold without them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim import stories
from tests.sim.planted import CAUGHT_BY

_ROOT = Path(__file__).parents[2]
_MOST_S = 110.0

Told = dict[str, dict[str, list[str]]]


@pytest.fixture(scope="module")
def told() -> Told:
    """What every story says without a bug, and what is said of each bug; one process for all, seeds want their own."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.sim.planted"],
        cwd=_ROOT, env=os.environ | {"PYTHONHASHSEED": "0"}, capture_output=True, text=True, timeout=_MOST_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: Told = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("story", [story.__name__ for story in stories.STORIES])
def test_a_story_holds(told: Told, story: str) -> None:
    assert told["stories"][story] == []


@pytest.mark.parametrize("bug", CAUGHT_BY)
def test_a_planted_bug_is_caught(told: Told, bug: str) -> None:
    assert told["bugs"][bug], f"nothing catches {bug}"
