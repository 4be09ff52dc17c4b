"""Bugs planted one at a time must be caught; what catches them must hold without them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evertalk.core.merge import slot_of
from evertalk.core.model import Event
from evertalk.ports import Store
from tests.adapters.store_helpers import ANNA, BORIS, NOW_MS, MakeStore, Pen, Region, shown
from tests.chatnode import test_sends
from tests.chatnode.conftest import d  # noqa: F401 a fixture
from tests.chatnode.world import Desk
from tests.sim import stories
from tests.sim.planted import CAUGHT_BY, planted

pytest_plugins = ["tests.adapters.store_fixtures"]

pytestmark = pytest.mark.timeout(300)

_ROOT = Path(__file__).parents[2]
_MOST_S = 280.0  # half a minute where nobody else wants the cores

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


async def _two_of_one_id(store: Store, pen: Pen, seoul: Region) -> list[str]:
    one = pen.message("anna's", ANNA)
    await store.apply(seoul.each(one, pen.message("boris's", BORIS, id=one.id)), NOW_MS)
    return sorted(await shown(store))


async def test_a_key_without_the_sender_would_lose_a_message(
    make_store: MakeStore, pen: Pen, seoul: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids are made by clients: one of them may use another's. A story has it too; here it is one store alone."""
    assert await _two_of_one_id(await make_store(), pen, seoul) == ["anna's", "boris's"]

    def without(event: Event) -> bytes:
        return event.id + bytes(16) if slot_of(event) == event.id + event.sender else slot_of(event)

    monkeypatch.setattr("evertalk.adapters.sqlite_merge.slot_of", without)
    assert len(await _two_of_one_id(await make_store(), pen, Region(seoul.origin))) == 1


async def test_without_order_after_a_refusal_one_event_overtakes_another(d: Desk, pen: Pen) -> None:  # noqa: F811
    """R10 at one node; a story has it with somebody who reads just then."""
    with planted("r10_no_order_after_a_refusal"), pytest.raises((AssertionError, TimeoutError)):
        await test_sends.test_nothing_overtakes_an_event_that_redis_had_no_memory_for(d, pen)


def test_the_page_names_what_catches_each_bug() -> None:
    page = (_ROOT / "docs" / "simulation.md").read_text()
    for name, by in CAUGHT_BY.items():
        told = f"seed {by}" if isinstance(by, int) else f"`{by.__name__}`"
        assert f"| `{name}` | {told} |" in page
