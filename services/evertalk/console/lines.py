"""Lines of standard input for an event loop, from a terminal, a pipe or a file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading

_CHUNK = 65_536
_AHEAD = 64
#: What is longer is cut here: no message may be that long, and a stream without line ends must not fill memory.
LONGEST = 256 * 1024


class Lines:
    """Reads in a thread of its own, which neither Ctrl-C nor the end of the loop has to wait for: an executor's
    would be joined, and a reader of `sys.stdin` would hold its lock while the interpreter ends.

    Args:
        fd: read to its end, _AHEAD lines ahead at most; stays open.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._room = threading.Semaphore(_AHEAD)
        threading.Thread(target=self._read, name="lines", daemon=True).start()

    async def next(self) -> str | None:
        """The next line without its end; None when there is no more."""
        line = await self._queue.get()
        self._room.release()
        return line

    def _read(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended before its input
            rest = b""
            while chunk := self._chunk():
                *whole, rest = (rest + chunk).split(b"\n")
                if len(rest) > LONGEST:
                    whole, rest = [*whole, rest], b""
                for line in whole:
                    self._give(line.decode(errors="replace").removesuffix("\r"))
            if rest:
                self._give(rest.decode(errors="replace"))
            self._give(None)

    def _chunk(self) -> bytes:
        try:
            return os.read(self._fd, _CHUNK)
        except OSError:
            return b""  # the terminal is gone: that is the end of what is typed

    def _give(self, line: str | None) -> None:
        self._room.acquire()
        self._loop.call_soon_threadsafe(self._queue.put_nowait, line)
