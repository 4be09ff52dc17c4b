"""What a node does with the store it finds."""

from __future__ import annotations

import os
from pathlib import Path

from evertalk.adapters.clock import SystemIds
from evertalk.adapters.settings import NodeSettings
from evertalk.adapters.sqlite_store import SqliteStore
from evertalk.chatnode.app import _open_store

SHARDS = 4
_LONG_AGO_S = 1_600_000_000


async def test_a_store_that_nobody_opened_for_months_is_kept(tmp_path: Path) -> None:
    """A cluster that was switched off for a month has nothing else."""
    path = tmp_path / "store.db"
    store = await SqliteStore.open(path, SystemIds(), SHARDS)
    life = store.life
    await store.close()
    os.utime(path, (_LONG_AGO_S, _LONG_AGO_S))
    settings = NodeSettings(
        region="seoul", redis="redis://127.0.0.1:1", shards=SHARDS, node="seoul-1", listen="127.0.0.1:1",
        store=path, keys=tmp_path,
    )  # fmt: skip
    again = await _open_store(settings, SystemIds())
    try:
        assert again.life == life
    finally:
        await again.close()
