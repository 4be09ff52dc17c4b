"""A client process that says what was accepted, then waits to be killed."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from evertalk.client import Client, Endpoint


async def main(address: str, token: str, conversation: str, outbox: str) -> None:
    """Send 20 messages; print "accepted ID" for each; never leave."""
    async with Client([Endpoint("seoul", address)], region="seoul", access_token=token, outbox=Path(outbox)) as chat:
        for number in range(20):
            sent = await chat.send(bytes.fromhex(conversation), f"message {number}")
            print("accepted", sent.id.hex(), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
