"""What one task waits for. An asyncio.Event does the same for many, and carries a deque of 600 bytes for them."""

from __future__ import annotations

import asyncio


class Flag:
    """Up or down. Whoever waits while it is raised goes on, be it taken down again by then."""

    __slots__ = ("_up", "_waiter")

    def __init__(self) -> None:
        self._up = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Raise it."""
        self._up = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def clear(self) -> None:
        """Take it down."""
        self._up = False

    async def wait(self) -> None:
        """Until it is up; one task at a time."""
        if self._up:
            return
        assert self._waiter is None, "a flag is for one task"
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
