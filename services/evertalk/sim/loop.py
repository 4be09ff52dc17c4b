"""An event loop on virtual time: no sockets, no threads, no waiting; the same seed runs the same way."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, ContextVar, copy_context
from heapq import heapify, heappop, heappush
from typing import Any, TypeVar

from evertalk.core.errors import EvertalkError

T = TypeVar("T")

_COMPACT = 256


class Stuck(EvertalkError):
    """Everything waits for something that will not come."""


class Owner:
    """Whose code runs; while it is frozen (SIGSTOP) nothing of it does."""

    __slots__ = ("frozen", "parked")

    def __init__(self) -> None:
        self.frozen = False
        self.parked: list[asyncio.Handle] = []


#: The process that the running code belongs to; None for the world around them.
OWNER: ContextVar[Owner | None] = ContextVar("owner", default=None)

#: In which the world's own callbacks run.
OWNERLESS = Context()


# Sets of futures go by their hashes, which are addresses, and so differ from run to run; these do not.
_numbers = itertools.count()


class SimFuture(asyncio.Future[Any]):
    """A future with a hash that depends on the run alone: a number, given when first asked for."""

    __slots__ = ("_number",)
    _number: int

    def __hash__(self) -> int:
        try:
            return self._number
        except AttributeError:
            self._number = next(_numbers)
            return self._number


class SimTask(asyncio.Task[Any]):
    """A task with a hash that depends on the run alone."""

    __slots__ = ("_number",)
    _number: int

    def __hash__(self) -> int:
        try:
            return self._number
        except AttributeError:
            self._number = next(_numbers)
            return self._number


def _make_task(loop: asyncio.AbstractEventLoop, coro: Any, context: Context | None = None) -> SimTask:
    return SimTask(coro, loop=loop, context=context)


class SimHandle(asyncio.TimerHandle):
    """A handle without what asyncio keeps for debugging: most of the loop's work is to make them."""

    __slots__ = ()
    _scheduled: bool

    def __init__(self, loop: SimLoop, callback: Callable[..., object], args: tuple[Any, ...], context: Context) -> None:
        self._loop = loop
        self._callback: Callable[..., object] | None = callback
        self._args: Sequence[Any] = args
        self._context = context
        self._cancelled = False
        self._scheduled = False

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._callback, self._args = None, ()
            if self._scheduled:
                self._loop.cancelled += 1

    def __repr__(self) -> str:
        return f"<SimHandle {self._callback!r}>"


#: When, in which order, and either a timer of asyncio's or a call of the world's with its arguments.
_Due = tuple[float, int, SimHandle | None, Callable[..., object] | None, tuple[Any, ...]]


class SimLoop(asyncio.BaseEventLoop):
    """Time jumps to the next timer whenever nothing is ready; what is due at one time runs in order of asking."""

    _ready: Any

    def __init__(self) -> None:
        super().__init__()
        self._now = 1000.0
        self._order = itertools.count()
        self._due: list[_Due] = []
        self.cancelled = 0  # timers that are still in `_due`
        global _numbers
        _numbers = itertools.count()
        self.set_task_factory(_make_task)

    def time(self) -> float:
        return self._now

    def create_future(self) -> asyncio.Future[Any]:
        return SimFuture(loop=self)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = SimHandle(self, callback, args, context if context is not None else copy_context())
        self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = SimHandle(self, callback, args, context if context is not None else copy_context())
        timer._scheduled = True
        timer._when = when  # type: ignore[attr-defined]
        heappush(self._due, (when, next(self._order), timer, None, ()))
        return timer

    def at(self, when: float, call: Callable[..., object], *args: Any) -> None:
        """Call at a time, on nobody's behalf: a frozen or dead process does not hold it up."""
        heappush(self._due, (when, next(self._order), None, call, args))

    def thaw(self, owner: Owner) -> None:
        """What came due while it was frozen runs now, in order."""
        owner.frozen = False
        self._ready.extend(owner.parked)
        owner.parked.clear()

    def _run_once(self) -> None:
        ready = self._ready
        if not ready:
            self._jump()
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            context = handle._context
            owner = context.get(OWNER)
            if owner is not None and owner.frozen:
                owner.parked.append(handle)
                continue
            try:
                context.run(handle._callback, *handle._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 told, as asyncio's own loop does
                message = f"Exception in callback {handle._callback!r}"
                self.call_exception_handler({"message": message, "exception": error, "handle": handle})

    def _jump(self) -> None:
        """To the next timer, and everything that is due then."""
        due, ready = self._due, self._ready
        if self.cancelled > _COMPACT and self.cancelled * 2 > len(due):
            due[:] = [one for one in due if one[2] is None or not one[2]._cancelled]
            heapify(due)
            self.cancelled = 0
        run = OWNERLESS.run
        while due and not ready and not self._stopping:  # type: ignore[attr-defined]
            now, _, timer, call, args = heappop(due)
            while True:
                if timer is None:
                    self._now = now
                    run(call, *args)  # type: ignore[arg-type]
                elif timer._cancelled:
                    self.cancelled -= 1
                else:
                    self._now = now
                    timer._scheduled = False
                    ready.append(timer)
                if not due or due[0][0] > now:
                    break
                _, _, timer, call, args = heappop(due)
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            raise Stuck("nothing is left that could happen")

    def _process_events(self, event_list: object) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody else could wake us: there are no threads."""


def play(story: Coroutine[Any, Any, T], on_error: Callable[[dict[str, Any]], None]) -> T:
    """Run a story to its end on a loop of its own.

    Args:
        on_error: called with what asyncio would log: an exception that nobody took.
    """
    loop = SimLoop()
    loop.set_exception_handler(lambda _, context: on_error(context))
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(story)
    finally:
        left = asyncio.all_tasks(loop)
        for task in sorted(left, key=hash):
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*sorted(left, key=hash), return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()
