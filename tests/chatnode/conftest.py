"""A node with people and conversations, for stories of sessions and sends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.adapters.store_helpers import ANNA, BORIS, CHLOE, Pen
from tests.chatnode.world import DORA, Desk, club, desk


@pytest.fixture
def pen() -> Pen:
    return Pen()


@pytest.fixture
async def d(tmp_path: Path, pen: Pen) -> AsyncIterator[Desk]:
    """A node that knows four people, a room of anna, boris and chloe, and a club of anna and boris."""
    async with desk(tmp_path) as found:
        people = {ANNA: "anna", BORIS: "boris", CHLOE: "chloe", DORA: "dora"}
        await found.wrote(*(pen.account(who, name) for who, name in people.items()))
        await found.wrote(pen.conversation((ANNA, BORIS, CHLOE)), club(pen.conversation()))
        yield found
