"""What is typed or piped in, line by line."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from evertalk.console.lines import LONGEST, Lines


@asynccontextmanager
async def pipe() -> AsyncIterator[tuple[Lines, int]]:
    """Lines, and where to write them; the writing end is closed by the story."""
    read, write = os.pipe()
    lines = Lines(read)
    yield lines, write
    async with asyncio.timeout(10):
        while await lines.next() is not None:  # only then does no thread read from this number any more
            pass
    os.close(read)


async def test_lines_come_whole_in_order_and_then_the_end() -> None:
    async with pipe() as (lines, write):
        os.write(write, "hello\r\n안".encode()[:-1])
        assert await lines.next() == "hello"
        os.write(write, "안".encode()[-1:] + b"\n\nlast")
        os.close(write)
        assert [await lines.next() for _ in range(3)] == ["안", "", "last"]


async def test_what_is_not_utf_8_is_shown_and_does_not_end_it() -> None:
    async with pipe() as (lines, write):
        os.write(write, b"\xff!\n")
        os.close(write)
        assert await lines.next() == "\N{REPLACEMENT CHARACTER}!"


async def test_more_lines_than_are_read_ahead_all_come() -> None:
    async with pipe() as (lines, write):
        os.write(write, b"".join(b"%d\n" % n for n in range(1000)))
        os.close(write)
        assert [await lines.next() for _ in range(1000)] == [str(n) for n in range(1000)]


async def test_a_stream_without_line_ends_is_cut() -> None:
    async with pipe() as (lines, write):

        def endless() -> None:
            with os.fdopen(write, "wb") as file:
                file.write(b"x" * 3 * LONGEST)

        writing = asyncio.create_task(asyncio.to_thread(endless))
        found = [await lines.next(), await lines.next()]
        assert all(line and LONGEST < len(line) < 2 * LONGEST for line in found)
        await writing
