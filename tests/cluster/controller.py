"""A controller as a process of its own, for tests that end it: a cluster of stubs in a directory, until a signal."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from evertalk.cluster.processes import ProcessCluster
from tests.cluster.stubs import stub_command


async def run(directory: Path) -> None:
    """Print "ready" once it stands, then wait."""
    async with await ProcessCluster.create(directory, nodes_per_region=1, commands=stub_command):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
