"""python -m evertalk.replicator: ends on SIGTERM, or when its settings change; signals are nowhere else."""

from __future__ import annotations

import asyncio
import signal
import sys

import structlog

from evertalk.adapters import launch
from evertalk.adapters.settings import ReplicatorSettings
from evertalk.replicator.app import serve

_STOP = (signal.SIGTERM, signal.SIGINT)


async def _serve(settings: ReplicatorSettings) -> None:
    structlog.contextvars.bind_contextvars(region=settings.region)
    task = asyncio.create_task(serve(settings))
    for number in _STOP:
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    changed = asyncio.create_task(launch.until_changed())
    await asyncio.wait([task, changed], return_when=asyncio.FIRST_COMPLETED)
    if changed.done():  # a region has joined: whoever keeps this process running starts it again with it
        structlog.get_logger().info("the configuration has changed: ending")
        task.cancel()
    changed.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


def main() -> int:
    """Returns the exit code: 0 stopped, 78 for settings, 69 when it cannot serve."""
    return launch.run("replicator", ReplicatorSettings, _serve)


if __name__ == "__main__":
    sys.exit(main())
