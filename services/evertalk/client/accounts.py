"""Accounts: register, sign in, and the access token of a running client."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from evertalk.adapters.clock import SystemClock, SystemIds
from evertalk.adapters.grpc_transport import GrpcTransport
from evertalk.client.endpoints import Backoff, Directory, Endpoint, race
from evertalk.core import limits
from evertalk.core.errors import RETRY, Code, PeerUnavailable, Refused
from evertalk.core.model import Durability
from evertalk.ports import Clock, Ids, Transport
from evertalk.v1 import accounts_pb2

_SERVICE = "evertalk.v1.AccountService"
ATTEMPT_S = 5.0
SIGN_IN_STAGGER_S = 0.5  # a password hash takes a while
_REFRESH_SHARE = 0.8  # of a token's life
_LATER_S = 30.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Registered:
    """A new account. `durability`: REPLICATED while another region answers (R14)."""

    account: bytes
    token: str
    expires_ms: int
    durability: Durability


@dataclass(frozen=True, slots=True)
class SignedIn:
    """An account that was signed in to; `handle` may have got a suffix (R14)."""

    account: bytes
    token: str
    expires_ms: int
    handle: str


async def retry(ids: Ids, timeout_s: float, once: Callable[[], Awaitable[T]]) -> T:
    """Call until it works, fails by name, or time is up.

    Raises:
        Refused: by name. PeerUnavailable: nobody answered in time.
    """
    backoff = Backoff(ids)
    last: Exception = PeerUnavailable("nobody was asked")
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    return await once()
                except PeerUnavailable as error:
                    last = error
                except Refused as error:
                    if error.code not in RETRY:
                        raise
                    last = error
                await asyncio.sleep(backoff.next_s())
    except TimeoutError as error:
        if isinstance(last, Refused):
            raise last from error
        raise PeerUnavailable(f"no answer within {timeout_s} s: {last}") from last


async def ask(
    directory: Directory,
    method: str,
    request: Any,
    token: str = "",
    stagger_s: float = ATTEMPT_S,
    first: Endpoint | None = None,
) -> Any:
    """One round over all nodes, `first` first: the next is asked when one fails, or stagger_s after the one before.

    Raises:
        Refused, PeerUnavailable.
    """

    async def one(endpoint: Endpoint) -> Any:
        try:
            answer = await directory.peer(endpoint).call(method, request, ATTEMPT_S, token)
        except PeerUnavailable:
            directory.failed(endpoint)
            raise
        directory.succeeded(endpoint)
        return answer

    order = sorted(directory.order(), key=lambda endpoint: endpoint != first)
    return await race(order, one, lambda late: None, stagger_s)


async def register(
    endpoints: Sequence[Endpoint],
    handle: str,
    password: str,
    display_name: str = "",
    *,
    region: str = "",
    timeout: float = 10.0,
    transport: Transport | None = None,
    clock: Clock | None = None,
    ids: Ids | None = None,
) -> Registered:
    """Make an account. Retries carry the same ids, so that one call makes one account.

    Raises:
        Refused: HANDLE_TAKEN, MALFORMED … PeerUnavailable: nobody answered in time; it may have been made.
    """
    clock, ids = clock or SystemClock(), ids or SystemIds()
    directory = Directory(endpoints, region, transport or GrpcTransport(), clock, ids)
    request = accounts_pb2.RegisterRequest(
        handle=handle, display_name=display_name or handle, password=password,
        secret=ids.token(limits.SECRET_BYTES), account_event=ids.uuid7(), claim_event=ids.uuid7(),
    )  # fmt: skip
    try:
        # One node at a time: two that hash the same password get two hashes, and one must be thrown away.
        answer = await retry(ids, timeout, lambda: ask(directory, f"{_SERVICE}/Register", request))
    finally:
        await directory.close()
    return Registered(
        answer.account, answer.token, answer.token_expires_ms, Durability(answer.durability or Durability.ACCEPTED)
    )


async def sign_in(
    endpoints: Sequence[Endpoint],
    handle: str,
    password: str,
    *,
    region: str = "",
    timeout: float = 10.0,
    transport: Transport | None = None,
    clock: Clock | None = None,
    ids: Ids | None = None,
) -> SignedIn:
    """An access token for a password, from any region.

    Raises:
        Refused: BAD_PASSWORD, UNKNOWN_ACCOUNT. PeerUnavailable: nobody answered in time.
    """
    clock, ids = clock or SystemClock(), ids or SystemIds()
    directory = Directory(endpoints, region, transport or GrpcTransport(), clock, ids)
    try:
        return await _sign_in(directory, ids, handle, password, timeout)
    finally:
        await directory.close()


async def _sign_in(directory: Directory, ids: Ids, handle: str, password: str, timeout_s: float) -> SignedIn:
    request = accounts_pb2.SignInRequest(handle=handle, password=password)
    answer = await retry(
        ids, timeout_s,
        lambda: ask(directory, f"{_SERVICE}/SignIn", request, stagger_s=SIGN_IN_STAGGER_S),
    )  # fmt: skip
    return SignedIn(answer.account, answer.token, answer.token_expires_ms, answer.handle)


def expiry_of(token: str) -> int:
    """When an access token expires (ms), as it says itself; 0 if it does not."""
    parts = token.split(".")
    if len(parts) != 3:
        return 0
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return int(claims["exp"]) * 1000
    except (ValueError, KeyError, TypeError, binascii.Error):
        return 0


class Access:
    """The access token of a running client, renewed before it expires.

    Args:
        handle, password: may be empty if a token is given; then it is renewed by itself only.
        token: may be empty if a password is given.
    """

    def __init__(
        self, directory: Directory, clock: Clock, ids: Ids, handle: str, password: str, token: str, timeout_s: float
    ) -> None:
        if not token and not (handle and password):
            raise ValueError("a client needs a handle and a password, or an access token")
        self.refresh_s = float("inf")
        self._directory = directory
        self._clock = clock
        self._ids = ids
        self._handle = handle
        self._password = password
        self._timeout_s = timeout_s
        self._token = ""
        self._renewing = asyncio.Lock()
        if token:
            self._use(token, expiry_of(token))

    def _use(self, token: str, expires_ms: int) -> None:
        self._token = token
        life_s = (expires_ms - self._clock.wall_ms()) / 1000
        self.refresh_s = self._clock.monotonic() + max(1.0, life_s * _REFRESH_SHARE) if expires_ms else float("inf")

    def later(self) -> None:
        """Renewing did not work now."""
        self.refresh_s = self._clock.monotonic() + _LATER_S * (0.5 + self._ids.random())

    async def token(self) -> str:
        """The token; signs in if there is none yet."""
        if not self._token:
            await self.renew()
        return self._token

    async def renew(self) -> None:
        """A new token: by the old one, or else by the password.

        Raises:
            Refused: neither is good any more. PeerUnavailable.
        """
        old = self._token
        async with self._renewing:
            if self._token != old:
                return  # somebody else has just done it
            if old:
                try:
                    request = accounts_pb2.RefreshRequest()
                    answer = await ask(self._directory, f"{_SERVICE}/Refresh", request, old, SIGN_IN_STAGGER_S)
                    self._use(answer.token, answer.token_expires_ms)
                    return
                except Refused as refused:
                    if refused.code != Code.BAD_TOKEN or not self._password:
                        raise
            signed = await _sign_in(self._directory, self._ids, self._handle, self._password, self._timeout_s)
            self._use(signed.token, signed.expires_ms)
