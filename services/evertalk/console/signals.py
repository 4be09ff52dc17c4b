"""Ctrl-C and SIGTERM as a request to come to an end, for commands that have something to finish."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_ASKS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def when_asked_to_stop(do: Callable[[], object]) -> Iterator[None]:
    """Inside, either signal calls `do` and nothing else; afterwards they end the process as ever."""
    loop = asyncio.get_running_loop()
    for number in _ASKS:
        loop.add_signal_handler(number, do)
    try:
        yield
    finally:
        for number in _ASKS:
            loop.remove_signal_handler(number)
