"""python -m evertalk.chatnode: settings from EVERTALK_*, drains on SIGTERM; signals are nowhere else."""

from __future__ import annotations

import asyncio
import signal
import sys

from evertalk.adapters import launch
from evertalk.adapters.settings import NodeSettings
from evertalk.chatnode import app

_STOP = (signal.SIGTERM, signal.SIGINT)


async def _serve(settings: NodeSettings) -> None:
    stop = asyncio.Event()
    for number in _STOP:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await app.run(settings, stop)


def main() -> int:
    """Returns the exit code: 0 after a drain, 78 for settings, 69 when it cannot serve."""
    return launch.run("chatnode", NodeSettings, _serve)


if __name__ == "__main__":
    sys.exit(main())
