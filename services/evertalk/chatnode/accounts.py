"""Register and sign in: any node can, alone; accounts and handles replicate as events (R14)."""

from __future__ import annotations

import asyncio

from evertalk.adapters.tokens import USER, Claims, Keyring
from evertalk.adapters.wire import encode_event
from evertalk.chatnode.batcher import Batcher, Pending, refusal_of
from evertalk.chatnode.node import Node, State
from evertalk.core import limits
from evertalk.core.errors import Code, LogError, Refused
from evertalk.core.ids import account_of, fold_handle, handle_scope, normalize_handle, shard_of
from evertalk.core.model import Account, Durability, Event, HandleClaim, Kind, Record
from evertalk.core.vector import Vector
from evertalk.ports import AccountState, Passwords
from evertalk.v1 import accounts_pb2

_REPLICATED_S = 2.0
_APPLIED_S = 2.0
#: Password hashes waiting for a core; each takes 64 MiB and a tenth of a second.
_HASHES_WAITING = 200


class Accounts:
    """AccountService of one node."""

    def __init__(self, node: Node, batcher: Batcher, keyring: Keyring, passwords: Passwords) -> None:
        self._node = node
        self._batcher = batcher
        self._keyring = keyring
        self._passwords = passwords
        self._hashing = 0
        self._registering = asyncio.Lock()  # two at once on one node must not both find a handle free
        self.replicated = asyncio.Condition()

    # ------------------------------------------------------------ register

    async def register(self, request: accounts_pb2.RegisterRequest) -> accounts_pb2.RegisterResponse:
        """Make an account and claim its handle. Retrying with the same ids is safe.

        Raises:
            Refused: MALFORMED, HANDLE_TAKEN, BAD_PASSWORD, CATCHING_UP, OVERLOADED, UNKNOWN_OUTCOME …
        """
        self._need_serving()
        handle = normalize_handle(request.handle)
        name = (request.display_name or request.handle).strip()
        _check_register(request, name)
        account = account_of(request.secret)
        if known := await self._node.store.accounts([account]):
            if not await self._verify(known[0], request.password):
                raise Refused(Code.BAD_PASSWORD, "this account exists with another password")
            phc = known[0].password_hash
        else:
            phc = await self._hash(request.password)
        async with self._registering:
            holder = next(iter(await self._node.store.claimants(handle)), None)
            if holder is not None and holder.account != account:
                raise Refused(Code.HANDLE_TAKEN, f"the handle {handle!r} is taken: choose another")
            if holder is not None:
                return self._registered(account, Durability.ACCEPTED)
            need = await self._write(request, account, handle, name, phc)
        return self._registered(account, await self._durable(need))

    async def _write(
        self, request: accounts_pb2.RegisterRequest, account: bytes, handle: str, name: str, phc: str
    ) -> Vector:
        body = Account(handle, name, phc)
        claim = HandleClaim(handle, account)
        need = Vector()
        for event in (
            self._event(request.account_event, account, account, Kind.ACCOUNT, body),
            self._event(request.claim_event, handle_scope(handle), account, Kind.HANDLE_CLAIM, claim),
        ):
            origin, shard, position = await self._append(event)
            need.advance(origin, shard, position)
        await self._node.wait_for(need, _APPLIED_S)
        return need

    def _event(self, id: bytes, scope: bytes, sender: bytes, kind: Kind, body: Account | HandleClaim) -> Event:
        stamp = self._node.hlc.tick(self._node.clock.wall_ms())
        return encode_event(Event(id, scope, sender, bytes(limits.SESSION_BYTES), stamp, kind, body))

    async def _append(self, event: Event) -> tuple[str, int, int]:
        node = self._node
        shard = shard_of(event.scope, node.settings.shards)
        outcome: asyncio.Future[int | LogError] = asyncio.get_running_loop().create_future()

        def done(_: Pending, result: int | LogError) -> None:
            if not outcome.done():
                outcome.set_result(result)

        origin = node.origin
        self._batcher.submit(Pending(Record(event, event.hlc), shard, done))
        result = await outcome
        if isinstance(result, LogError):
            raise refusal_of(result)
        return origin, shard, result

    async def _durable(self, need: Vector) -> Durability:
        """REPLICATED as soon as it is, ACCEPTED if no peer is live or it takes too long."""
        if not self._node.live_peers():
            return Durability.ACCEPTED
        try:
            async with asyncio.timeout(_REPLICATED_S), self.replicated:
                await self.replicated.wait_for(lambda: all(self._node.is_replicated(key, p) for key, p in need))
        except TimeoutError:
            return Durability.ACCEPTED
        return Durability.REPLICATED

    def _registered(self, account: bytes, durability: Durability) -> accounts_pb2.RegisterResponse:
        token, expires = self._keyring.mint(account.hex(), USER, self._node.clock.wall_ms())
        return accounts_pb2.RegisterResponse(
            account=account,
            token=token,
            token_expires_ms=expires,
            durability=int(durability),  # type: ignore[arg-type]
        )

    # ------------------------------------------------------------ sign in

    async def sign_in(self, request: accounts_pb2.SignInRequest) -> accounts_pb2.SignInResponse:
        """A token for whoever knows the password of an account that claimed the handle.

        Raises:
            Refused: BAD_PASSWORD (definite), UNKNOWN_ACCOUNT or NOT_YET, CATCHING_UP.
        """
        self._need_serving()
        handle = fold_handle(request.handle)
        claimants = await self._node.store.claimants(handle)
        if not claimants:
            refused = await self._node.until_known(
                Refused(Code.UNKNOWN_ACCOUNT, f"there is no account {handle[:64]!r}")
            )
            claimants = await self._node.store.claimants(handle)
            if not claimants:
                raise refused
        for state in claimants[:4]:
            if await self._verify(state, request.password):
                token, expires = self._keyring.mint(state.account.hex(), USER, self._node.clock.wall_ms())
                return accounts_pb2.SignInResponse(
                    account=state.account, token=token, token_expires_ms=expires, handle=state.handle
                )
        raise Refused(Code.BAD_PASSWORD, f"wrong password for {handle[:64]!r}")

    def refresh(self, claims: Claims) -> accounts_pb2.RefreshResponse:
        """A new token for who still has a valid one."""
        token, expires = self._keyring.mint(claims.subject, USER, self._node.clock.wall_ms())
        return accounts_pb2.RefreshResponse(token=token, token_expires_ms=expires)

    async def look_up(self, request: accounts_pb2.LookUpRequest) -> accounts_pb2.LookUpResponse:
        """Names of accounts, by handle or id; those not known here are left out."""
        if len(request.handles) + len(request.accounts) > limits.MAX_MEMBERS:
            raise Refused(Code.TOO_LARGE, f"at most {limits.MAX_MEMBERS} names in one call")
        found = await self._node.store.accounts(request.accounts)
        for handle in request.handles:
            found.extend((await self._node.store.claimants(fold_handle(handle)))[:1])
        return accounts_pb2.LookUpResponse(
            accounts=[
                accounts_pb2.AccountView(account=a.account, handle=a.handle, display_name=a.display_name) for a in found
            ]
        )

    # ------------------------------------------------------------ helpers

    def _need_serving(self) -> None:
        if self._node.state is not State.SERVING:
            raise Refused(Code.CATCHING_UP, "this node does not serve clients right now: use another", 200)

    def _crowded(self) -> None:
        if self._hashing >= _HASHES_WAITING:
            raise Refused(Code.OVERLOADED, "too many sign-ins at once: try again in a moment", 1000)

    async def _hash(self, password: str) -> str:
        self._crowded()
        self._hashing += 1
        try:
            return await self._passwords.hash(password)
        finally:
            self._hashing -= 1

    async def _verify(self, state: AccountState, password: str) -> bool:
        self._crowded()
        self._hashing += 1
        try:
            return await self._passwords.verify(state.password_hash, password)
        finally:
            self._hashing -= 1


def _check_register(request: accounts_pb2.RegisterRequest, name: str) -> None:
    if len(request.secret) != limits.SECRET_BYTES:
        raise Refused(Code.MALFORMED, f"an account is made with a secret of {limits.SECRET_BYTES} random bytes")
    for field in (request.account_event, request.claim_event):
        if len(field) != limits.ID_BYTES:
            raise Refused(Code.MALFORMED, f"event ids have {limits.ID_BYTES} bytes")
    if not limits.MIN_PASSWORD_CHARS <= len(request.password) <= limits.MAX_PASSWORD_CHARS:
        raise Refused(
            Code.MALFORMED,
            f"a password has {limits.MIN_PASSWORD_CHARS} to {limits.MAX_PASSWORD_CHARS} characters",
        )
    if not name or len(name.encode()) > limits.MAX_TITLE_BYTES:
        raise Refused(Code.MALFORMED, f"a display name has 1 to {limits.MAX_TITLE_BYTES} bytes")
