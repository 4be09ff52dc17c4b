"""A simulated process: its tasks, the fence that makes it dead, and the I/O at which it is to die."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar

from evertalk.sim.loop import OWNER, Owner, SimLoop

if TYPE_CHECKING:
    from evertalk.sim.network import Connection

T = TypeVar("T")


class Process(Owner):
    """Adapters call `step` before and after everything they do in the world; that is where it can die.

    Args:
        place: the region it runs in, or "clients".
    """

    __slots__ = (
        "_context",
        "_tasks",
        "alive",
        "connections",
        "crash_at",
        "io",
        "loop",
        "name",
        "on_crash",
        "on_failure",
        "place",
    )

    def __init__(self, loop: SimLoop, name: str, place: str) -> None:
        super().__init__()
        self.loop, self.name, self.place = loop, name, place
        self.alive = True
        self.io = 0
        self.crash_at = 0  # the number of the step at which it dies; 0: none
        self.on_crash: Callable[[], None] = self.kill
        self.on_failure: Callable[[Process, BaseException], None] = lambda process, error: None
        self.connections: dict[Connection, None] = {}
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._context = copy_context()
        self._context.run(OWNER.set, self)

    def step(self) -> None:
        """An I/O begins or ends.

        Raises:
            CancelledError: the process is dead, or dies here.
        """
        if not self.alive:
            raise asyncio.CancelledError
        self.io += 1
        if self.io == self.crash_at:
            self.on_crash()
            raise asyncio.CancelledError

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something as this process."""
        task: asyncio.Task[T] = self.loop.create_task(work, context=self._context.copy())
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if self.alive and not task.cancelled() and (error := task.exception()) is not None:
            self.on_failure(self, error)

    def freeze(self) -> None:
        """SIGSTOP."""
        self.frozen = self.alive

    def thaw(self) -> None:
        """SIGCONT."""
        self.loop.thaw(self)

    def kill(self) -> None:
        """kill -9: from here on it has no effect on anything; its tasks only unwind."""
        if not self.alive:
            return
        self.alive = False
        self.thaw()
        for task in list(self._tasks):
            task.cancel()
        for connection in list(self.connections):
            connection.died(self)
        self.connections.clear()
