"""What a process has of its own: a clock that drifts and jumps, ids from a seed, cheap keys and passwords."""

from __future__ import annotations

import base64
import json
import random

from evertalk.adapters.tokens import USER, Claims, Keyring
from evertalk.core import limits
from evertalk.core.errors import Code, Refused
from evertalk.sim.loop import SimLoop

START_MS = 1_800_000_000_000
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class SimClock:
    """The Clock port: one per region; `offset_ms` may jump, `drift` is a share of real time."""

    def __init__(self, loop: SimLoop, offset_ms: int = 0, drift: float = 0.0) -> None:
        self._loop = loop
        self.offset_ms, self.drift = offset_ms, drift

    def wall_ms(self) -> int:
        return START_MS + self.offset_ms + int(self._loop.time() * 1000 * (1 + self.drift))

    def monotonic(self) -> float:
        return self._loop.time()


class SimIds:
    """The Ids port from a seed; ids carry the clock's time, as real ones do."""

    def __init__(self, rng: random.Random, clock: SimClock) -> None:
        self._rng, self._clock = rng, clock

    def uuid7(self) -> bytes:
        rest = bytearray(self._rng.randbytes(10))
        rest[0], rest[2] = 0x70 | rest[0] & 0x0F, 0x80 | rest[2] & 0x3F
        return self._clock.wall_ms().to_bytes(6, "big") + bytes(rest)

    def ulid(self) -> str:
        number = self._clock.wall_ms() << 80 | self._rng.getrandbits(80)
        return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))

    def token(self, size: int) -> bytes:
        return self._rng.randbytes(size)

    def random(self) -> float:
        return self._rng.random()


class SimKeyring(Keyring):
    """Tokens of the real form without the real signatures."""

    def __init__(self, region: str) -> None:
        self._region = region

    def mint(self, subject: str, scope: str, now_ms: int, life_s: float = limits.TOKEN_LIFE_S) -> tuple[str, int]:
        expires = now_ms // 1000 + int(life_s)
        claims = json.dumps({"sub": subject, "scope": scope, "iss": self._region, "exp": expires})
        return f"e30.{base64.urlsafe_b64encode(claims.encode()).decode()}.simulated", expires * 1000

    def verify(self, token: str, now_ms: int, scope: str = USER) -> Claims:
        parts = token.split(".")
        if len(parts) != 3 or parts[2] != "simulated":
            raise Refused(Code.BAD_TOKEN, "no token of this cluster")
        claims = json.loads(base64.urlsafe_b64decode(parts[1]))
        if now_ms >= claims["exp"] * 1000:
            raise Refused(Code.BAD_TOKEN, "the token has expired: sign in again")
        if claims["scope"] != scope:
            raise Refused(Code.BAD_TOKEN, f"this call needs a token with scope {scope!r}")
        return Claims(claims["sub"], claims["scope"], claims["exp"] * 1000)


class SimPasswords:
    """The Passwords port without the work."""

    async def hash(self, password: str) -> str:
        return f"plain:{password}"

    async def verify(self, phc: str, password: str) -> bool:
        return phc == f"plain:{password}"
