"""Fixtures of the contract suites of stores; each suite names this module as a plugin."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from evertalk.adapters.clock import SystemIds
from evertalk.adapters.sqlite_store import SqliteStore
from evertalk.ports import Store
from evertalk.sim.disk import Disk, SimStore
from evertalk.sim.process import Process
from tests.adapters.sim_world import RealLoop
from tests.adapters.store_helpers import BUSAN, SEOUL, SHARDS, MakeStore, Pen, Region


@pytest.fixture(params=["sqlite", "sim"])
async def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeStore]:
    """Makes empty stores and closes them."""
    async with AsyncExitStack() as stack:
        made = 0

        async def make() -> Store:
            nonlocal made
            made += 1
            store: SqliteStore
            if request.param == "sim":
                process = Process(RealLoop(), f"store{made}", "seoul")  # type: ignore[arg-type]
                store = await SimStore.start(process, Disk(SHARDS, random.Random(made)), SystemIds())
            else:
                store = await SqliteStore.open(tmp_path / f"store{made}.db", SystemIds(), SHARDS)
            stack.push_async_callback(store.close)
            return store

        yield make


@pytest.fixture
async def store(make_store: MakeStore) -> Store:
    return await make_store()


@pytest.fixture
def pen() -> Pen:
    return Pen()


@pytest.fixture
def seoul() -> Region:
    return Region(SEOUL)


@pytest.fixture
def busan() -> Region:
    return Region(BUSAN)
