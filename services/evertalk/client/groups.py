"""A task group whose single failure is raised as itself, so that `async with Client(...)` raises what it names."""

from __future__ import annotations

import asyncio
from types import TracebackType


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions in a group, groups in groups opened."""
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in leaves(inner)]


class FlatGroup:
    """`async with FlatGroup() as group`: as asyncio.TaskGroup, but one failure alone comes out bare."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> asyncio.TaskGroup:
        return await self._group.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._group.__aexit__(kind, error, trace)
        except BaseExceptionGroup as group:
            found = leaves(group)
            if len(found) > 1:
                raise
            if found[0] is not error:
                raise found[0] from None
