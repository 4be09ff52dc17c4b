"""A send that is under way, as the application holds it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from evertalk.client.notices import Sent
from evertalk.core.errors import Refused
from evertalk.core.model import Durability, Event


class Posted:
    """A send that is under way. Awaiting is cancellation safe, and cancels nothing."""

    def __init__(self, event: Event) -> None:
        self.event = event
        loop = asyncio.get_running_loop()
        self._accepted: asyncio.Future[Sent] = loop.create_future()
        self._replicated: asyncio.Future[Sent] = loop.create_future()

    @property
    def accepted(self) -> Awaitable[Sent]:
        """Done when a node has accepted it (P2). Raises SendFailed or SendUnknown."""
        return asyncio.shield(self._accepted)

    @property
    def replicated(self) -> Awaitable[Sent]:
        """Done when it is durable in enough regions (P1). Raises SendFailed or SendUnknown."""
        return asyncio.shield(self._replicated)

    @property
    def outcome(self) -> Sent | None:
        """The best answer so far."""
        for future in (self._replicated, self._accepted):
            if future.done() and not future.cancelled() and future.exception() is None:
                return future.result()
        return None

    def settle(self, sent: Sent) -> None:
        """An answer has come."""
        if not self._accepted.done():
            self._accepted.set_result(sent)
        if sent.durability == Durability.REPLICATED and not self._replicated.done():
            self._replicated.set_result(sent)

    def fail(self, error: Refused) -> None:
        """No (further) answer will come."""
        for future in (self._accepted, self._replicated):
            if not future.done():
                future.set_exception(error)
                future.exception()  # whoever does not ask need not be told
