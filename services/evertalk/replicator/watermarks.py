"""Listens to what a peer's mirrors hold, and relays it to this region's nodes at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from evertalk.core.errors import LogUnavailable
from evertalk.replicator.region import Peer, Region
from evertalk.replicator.retry import Retry


class Listener:
    """One peer's listener."""

    def __init__(self, region: Region, peer: Peer) -> None:
        self._region = region
        self._peer = peer

    async def attempt(self, retry: Retry) -> None:
        """Listen until something fails. Once the subscription stands the mirrors are read anew, because what
        was announced before it is lost.

        Raises:
            LogUnavailable.
        """
        batches = self._peer.board.watermarks()
        try:
            async for batch in batches:
                if batch:
                    await self._region.relay([mark for mark in batch if mark.holder == self._peer.region])
                else:
                    await self._region.watch(self._peer)
                retry.worked()
        finally:
            if isinstance(batches, AsyncGenerator):
                await batches.aclose()
        raise LogUnavailable(f"{self._peer.region} ended the subscription to its watermarks")
