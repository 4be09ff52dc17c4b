"""`python -m evertalk.wan --config FILE`: run the WAN proxy until SIGTERM, SIGINT, or another content of FILE."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from evertalk.wan.control import serve_control
from evertalk.wan.lane import Quality
from evertalk.wan.proxy import LinkConfig, Proxy

_LOOK_S = 2.0


async def run(path: Path) -> None:
    """Relay as the configuration says: {"control": "host:port", "seed", "quality": {...}, "links": [{...}]}.

    Raises:
        OSError, ValueError, KeyError, TypeError: the configuration is not as it should be.
    """
    text = _read(path)
    wanted = json.loads(text)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    links = [_link(link) for link in wanted["links"]]
    async with Proxy(links, Quality(**wanted.get("quality", {})), wanted.get("seed", 0)) as proxy:
        control = await serve_control(proxy, wanted["control"])
        try:
            while not stop.is_set() and _read(path) == text:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await stop.wait()
        finally:
            control.close()


def _read(path: Path) -> str:
    return path.read_text()


def _link(wanted: dict[str, Any]) -> LinkConfig:
    quality = wanted.get("quality")
    return LinkConfig(**{**wanted, "quality": None if quality is None else Quality(**quality)})


def main() -> int:
    """Exit code 0 after a signal or a change (start it again then), 2 if the configuration cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m evertalk.wan", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    try:
        asyncio.run(run(parser.parse_args().config))
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"evertalk.wan: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
