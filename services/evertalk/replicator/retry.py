"""Waiting between attempts, and saying once that something fails and once that it works again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from evertalk.core.errors import LogFull, LogUnavailable
from evertalk.ports import Ids

FIRST_S = 0.05
MOST_S = 1.0

_log = structlog.get_logger()


class Retry:
    """State of one loop: working or not, and how long to wait before the next attempt.

    Args:
        what: for the log, as in "pull".
        peer: the region it concerns, own one included.
    """

    def __init__(self, what: str, peer: str, ids: Ids) -> None:
        self._log = _log.bind(loop=what, peer=peer)
        self._ids = ids
        self._wait_s = 0.0

    def worked(self) -> None:
        """An attempt succeeded: the next failure starts from the shortest wait."""
        if self._wait_s:
            self._log.info("works again")
        self._wait_s = 0.0

    async def failed(self, error: LogUnavailable | LogFull) -> None:
        """An attempt failed: wait, twice as long each time, half of it by chance ("equal jitter", AWS 2015)."""
        if not self._wait_s:
            self._log.warning("does not work", reason=str(error))
        self._wait_s = min(MOST_S, self._wait_s * 2 or FIRST_S)
        await asyncio.sleep(self._wait_s * (0.5 + self._ids.random() / 2))


async def keep_on(attempt: Callable[[Retry], Awaitable[None]], retry: Retry) -> None:
    """Run `attempt` again and again until cancelled; it calls `retry.worked()` once something got through."""
    while True:
        try:
            await attempt(retry)
        except (LogUnavailable, LogFull) as error:
            await retry.failed(error)
