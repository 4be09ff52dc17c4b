"""Access tokens: JWT signed with Ed25519 (RFC 8037) by the region that minted them, verified by all alone (P10)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey

from evertalk.core import limits
from evertalk.core.errors import Code, EvertalkError, Refused

K = TypeVar("K")
CLUSTER = "cluster"
USER = "user"
_ALG = "Ed25519"


@dataclass(frozen=True, slots=True)
class Claims:
    """Who a token is for: an account (16 bytes) with scope "user", or a node or tool with scope "cluster"."""

    subject: str
    scope: str
    expires_ms: int

    @property
    def account(self) -> bytes:
        """The account id of a user token."""
        return bytes.fromhex(self.subject)


def make_keys(directory: Path, regions: list[str]) -> None:
    """Make a signing key for each region that has none, and `public.json` with all public ones.

    A region's directory needs only its own {region}.private.json and public.json.
    """
    directory.mkdir(parents=True, exist_ok=True)
    public: list[dict[str, object]] = []
    for region in regions:
        path = directory / f"{region}.private.json"
        if not path.exists():
            key = OKPKey.generate_key("Ed25519", {"kid": region})
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                json.dump(key.as_dict(private=True), file)
        public.append(dict(OKPKey.import_key(json.loads(path.read_text())).as_dict(private=False)))
    (directory / "public.json").write_text(json.dumps({"keys": public}, indent=1))


def share_public_keys(directories: Mapping[str, Path]) -> None:
    """Each region gets every region's public key; no directory ever holds another's private one.

    Args:
        directories: by region, each with its private key.
    """
    public = [
        dict(OKPKey.import_key(json.loads((path / f"{region}.private.json").read_text())).as_dict(private=False))
        for region, path in directories.items()
    ]
    for path in directories.values():
        fresh = path / "public.json.new"
        fresh.write_text(json.dumps({"keys": public}, indent=1))
        fresh.replace(path / "public.json")  # at once: nodes may be reading


class BadKeys(EvertalkError):
    """The keys of a region cannot be read; the sentence names the file."""


def _read(path: Path, take: Callable[[Any], K]) -> K:
    try:
        return take(json.loads(path.read_text()))
    except OSError as error:
        raise BadKeys(f"the key file {path} cannot be read: {error.strerror}") from error
    except (JoseError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadKeys(f"the key file {path} holds no key of this kind") from error


class Keyring:
    """Signs with one region's key, verifies with every region's.

    Raises:
        BadKeys: the directory does not hold what it should.
    """

    def __init__(self, directory: Path, region: str) -> None:
        self._directory = directory
        self._region = region
        self._private = _read(directory / f"{region}.private.json", OKPKey.import_key)
        self.read()

    def read(self) -> None:
        """Take in the public keys of regions that have joined.

        Raises:
            BadKeys
        """
        self._public = _read(self._directory / "public.json", KeySet.import_key_set)

    def mint(self, subject: str, scope: str, now_ms: int, life_s: float = limits.TOKEN_LIFE_S) -> tuple[str, int]:
        """A token and when it expires (ms)."""
        expires = now_ms // 1000 + int(life_s)
        claims = {"sub": subject, "scope": scope, "iss": self._region, "iat": now_ms // 1000, "exp": expires}
        header = {"alg": _ALG, "kid": self._region}
        return jwt.encode(header, claims, self._private, algorithms=[_ALG]), expires * 1000

    def verify(self, token: str, now_ms: int, scope: str = USER) -> Claims:
        """Who the token is for.

        Raises:
            Refused: BAD_TOKEN, with what is wrong.
        """
        if not token:
            raise Refused(Code.BAD_TOKEN, "no token: send 'authorization: Bearer <token>' in the metadata")
        try:
            claims = jwt.decode(token, self._public, algorithms=[_ALG]).claims
            found = Claims(str(claims["sub"]), str(claims["scope"]), int(claims["exp"]) * 1000)
        except (JoseError, ValueError, KeyError) as error:
            raise Refused(Code.BAD_TOKEN, "the token is not one of this cluster's: sign in again") from error
        if now_ms >= found.expires_ms:
            raise Refused(Code.BAD_TOKEN, "the token has expired: sign in again")
        if found.scope != scope:
            raise Refused(Code.BAD_TOKEN, f"this call needs a token with scope {scope!r}, not {found.scope!r}")
        return found
