"""Password hashes: argon2id (RFC 9106, second recommended option), as PHC strings, off the event loop."""

from __future__ import annotations

import asyncio

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY

_hasher = PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)
#: Each hash takes 64 MiB: so many at once and no more.
_slots = asyncio.Semaphore(2)


def _verify(phc: str, password: str) -> bool:
    try:
        return _hasher.verify(phc, password)
    except (VerificationError, InvalidHashError):
        return False


class Argon2:
    """The Passwords port."""

    async def hash(self, password: str) -> str:
        """PHC string of a new salted hash."""
        async with _slots:
            return await asyncio.to_thread(_hasher.hash, password)

    async def verify(self, phc: str, password: str) -> bool:
        """True if the password fits."""
        async with _slots:
            return await asyncio.to_thread(_verify, phc, password)
