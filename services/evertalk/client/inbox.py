"""The bounded queue between a stream and the application: events and, between them, how far they reach."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

from evertalk.client.notices import Happening
from evertalk.core.model import Applied
from evertalk.core.vector import Vector

INBOX_CAP = 4096


class Inbox:
    """Items in order. Markers take effect when everything before them was taken.

    Args:
        took: called with an event or a marker when the application has got so far.
        drained: called when the application has taken all.
    """

    def __init__(
        self, took: Callable[[Applied | Vector], None], drained: Callable[[], None], cap: int = INBOX_CAP
    ) -> None:
        self._took = took
        self._drained = drained
        self._cap = cap
        self._items: deque[Happening | Vector] = deque()
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    @property
    def full(self) -> bool:
        """No more deliveries, please."""
        return len(self._items) >= self._cap

    def put(self, item: Happening) -> None:
        """Queue an item; the caller watches `full`."""
        self._items.append(item)
        self._filled.set()
        if self.full:
            self._room.clear()

    def mark(self, vector: Vector) -> None:
        """Everything up to `vector` is in the queue by now."""
        if not self._items:
            self._took(vector)
        elif isinstance(last := self._items[-1], Vector):
            last.absorb(vector)
        else:
            self._items.append(vector.copy())

    async def room(self, timeout_s: float) -> bool:
        """Wait until it is no longer full; False after timeout_s."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._room.wait()
        return not self.full

    def close(self) -> None:
        """Let the application take what is there, and then end."""
        self._closed = True
        self._filled.set()

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> Happening:
        """The next item, which then counts as taken."""
        while not self._items:
            if self._closed:
                raise StopAsyncIteration
            self._filled.clear()
            await self._filled.wait()
        item = self._items.popleft()
        assert not isinstance(item, Vector)
        if isinstance(item, Applied):
            self._took(item)
        while self._items and isinstance(self._items[0], Vector):
            self._pass_marker()
        if not self.full:
            self._room.set()
        if not self._items:
            self._drained()
        return item

    def _pass_marker(self) -> None:
        """A marker at the head: the event before it is being handed over now."""
        marker = self._items.popleft()
        assert isinstance(marker, Vector)
        self._took(marker)
