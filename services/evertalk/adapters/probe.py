"""python -m evertalk.adapters.probe HOST:PORT: asks gRPC health once; exit code 0 only if it is SERVING."""

from __future__ import annotations

import asyncio
import sys

from evertalk.adapters.grpc_health import SERVING, health

_TIMEOUT_S = 2.0


def main(arguments: list[str]) -> int:
    """The container's health check; says why not."""
    if len(arguments) != 1:
        print("usage: python -m evertalk.adapters.probe HOST:PORT", file=sys.stderr)
        return 2
    found = asyncio.run(health(arguments[0], _TIMEOUT_S))
    print(found)
    return 0 if found == SERVING else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
