"""Keeps the outbox and the token before anything is shown or sent: in a store, or nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from evertalk.core.sending import Changes, Copy, Saved


class OutboxStore(Protocol):
    """A durable outbox with the token beside it."""

    async def load(self) -> tuple[list[Saved], bytes]:
        """What an earlier process left, in order, and its token (b"" if none).

        Raises:
            StoreError.
        """
        ...

    async def write(self, changes: Changes, token: bytes) -> None:
        """Write all in one transaction; durable when it returns.

        Raises:
            StoreError.
        """
        ...

    async def close(self) -> None: ...


class Journal:
    """Collects changes; calls back once they are kept. Without a store that is at once.

    Args:
        token: what to keep beside the changes, read at the time of writing.
    """

    def __init__(self, store: OutboxStore | None, token: Callable[[], bytes]) -> None:
        self._store = store
        self._token = token
        self._changes = Changes()
        self._then: list[Callable[[], None]] = []
        self._dirty = asyncio.Event()

    @property
    def durable(self) -> bool:
        """True if it needs `run`."""
        return self._store is not None

    def add(self, number: int, raw: bytes) -> None:
        """A new event."""
        if self._store:
            self._changes.added[number] = raw

    def ack(self, number: int, copies: Iterable[Copy]) -> None:
        """Its copies, all of them."""
        if self._store:
            self._changes.acked[number] = tuple(copies)

    def remove(self, number: int) -> None:
        """It has left the outbox."""
        if self._store:
            self._changes.removed.add(number)

    def then(self, call: Callable[[], None]) -> None:
        """Call back, in order, once everything noted so far is kept."""
        if self._store:
            self._then.append(call)
            self._dirty.set()
        else:
            call()

    async def run(self) -> None:
        """Write whenever there is something; until cancelled.

        Raises:
            StoreError.
        """
        while True:
            await self._dirty.wait()
            await self.flush()

    async def flush(self) -> None:
        """Write what has gathered (one caller at a time).

        Raises:
            StoreError.
        """
        if self._store is None:
            return
        self._dirty.clear()
        changes, calls = self._changes, self._then
        self._changes, self._then = Changes(), []
        try:
            await self._store.write(changes, self._token())
        except asyncio.CancelledError:
            self._put_back(changes, calls)
            raise
        for call in calls:
            call()

    def _put_back(self, changes: Changes, calls: list[Callable[[], None]]) -> None:
        """A write was cut short: the last flush, on leaving, does it again."""
        changes.added.update(self._changes.added)
        changes.acked.update(self._changes.acked)
        changes.removed.update(self._changes.removed)
        self._changes, self._then = changes, calls + self._then
