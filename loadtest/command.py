"""Runs a command's work to its end, or until it is asked to stop: then nothing of its cluster is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from evertalk.console.signals import when_asked_to_stop

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """What the work returns; Ctrl-C and SIGTERM cancel it.

    Raises:
        SystemExit: it was asked to stop, and has cleaned up.
    """
    try:
        return asyncio.run(_until_asked(work))
    except asyncio.CancelledError:
        raise SystemExit("stopped before its end; nothing was written") from None


async def _until_asked(work: Coroutine[Any, Any, T]) -> T:
    task = asyncio.current_task()
    assert task is not None
    with when_asked_to_stop(task.cancel):
        return await work
