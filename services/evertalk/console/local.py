"""`evertalk up` and `evertalk status`: a cluster started, and one looked at."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

from evertalk.cluster.processes import ProcessCluster
from evertalk.cluster.verbs import ClusterError
from evertalk.console.places import find_operator
from evertalk.console.status import show, to_json


async def run_up(directory: Path, regions: tuple[str, ...], nodes: int, shards: int) -> int:
    """Start a cluster, say where it is, and keep it until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    starting = asyncio.create_task(_create(directory, regions, nodes, shards))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return 130
    async with await starting as cluster:
        print(f"Redis-compatible server: {cluster.file.redis_server}")
        for endpoint in cluster.file.endpoints:
            print(f"{endpoint.region:10} {endpoint.node:12} {endpoint.address}")
        print(
            f"{sys.argv[0]} chat --as NAME --dir {directory}\nCtrl-C stops it; the data stays in {directory}",
            flush=True,
        )
        await stopping
        print("stopping", flush=True)
    return 0


async def _create(directory: Path, regions: tuple[str, ...], nodes: int, shards: int) -> ProcessCluster:
    try:
        return await ProcessCluster.create(directory, regions, nodes, shards)
    except ValueError as error:  # names and numbers that a person typed
        raise ClusterError(str(error)) from error


async def run_status(directory: Path | None, default: Path, as_json: bool) -> int:
    """Print the state of a running cluster; 0 only if redundancy is whole.

    Args:
        directory, default: as `find_operator`.
    """
    operator = find_operator(directory, default)
    try:
        look = await operator.look()
    finally:
        await operator.close()
    if as_json:
        print(json.dumps(to_json(look), indent=1))
    else:
        show(look)
    return 0 if look.redundancy.whole else 1
