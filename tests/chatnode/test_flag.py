"""A flag wakes its one waiter, however soon it is taken down again, and can be waited for after a cancellation."""

from __future__ import annotations

import asyncio

from evertalk.chatnode.flag import Flag


async def test_who_waits_goes_on_though_the_flag_was_taken_down_again() -> None:
    flag = Flag()
    waiting = asyncio.create_task(flag.wait())
    await asyncio.sleep(0)
    flag.set()
    flag.clear()
    await asyncio.wait_for(waiting, 5)
    again = asyncio.create_task(flag.wait())
    await asyncio.sleep(0)
    assert not again.done()
    again.cancel()
    await asyncio.wait([again])
    flag.set()
    await flag.wait()


async def test_a_raised_flag_holds_nobody_up() -> None:
    flag = Flag()
    flag.set()
    flag.set()
    await flag.wait()
    await flag.wait()
