"""`python -m evertalk.wan --config FILE`: run the WAN proxy until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

from evertalk.wan.control import serve_control
from evertalk.wan.lane import Quality
from evertalk.wan.proxy import LinkConfig, Proxy


async def run(wanted: dict[str, Any]) -> None:
    """Relay as the configuration says: {"control": "host:port", "seed", "quality": {...}, "links": [{...}]}.

    Raises:
        OSError, ValueError, KeyError, TypeError: the configuration is not as it should be.
    """
    links = [LinkConfig(**link) for link in wanted["links"]]
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Proxy(links, Quality(**wanted.get("quality", {})), wanted.get("seed", 0)) as proxy:
        control = await serve_control(proxy, wanted["control"])
        try:
            await stop.wait()
        finally:
            control.close()


def main() -> int:
    """Exit code 0 after a signal, 2 if the configuration cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m evertalk.wan", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    try:
        asyncio.run(run(json.loads(parser.parse_args().config.read_text())))
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"evertalk.wan: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
