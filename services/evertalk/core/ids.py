"""Names and numbers that every region computes alike: shards, scopes, handles, origins."""

from __future__ import annotations

import hashlib
import unicodedata
from functools import lru_cache

from evertalk.core import limits
from evertalk.core.errors import Code, Refused

_ALLOWED = "._-"


@lru_cache(4096)  # asked for every message and every delivery
def shard_of(scope: bytes, shards: int) -> int:
    """Shard of a scope (conversation id, account id or handle scope), 0 ≤ shard < shards."""
    return int.from_bytes(hashlib.blake2b(scope, digest_size=8).digest(), "big") % shards


def direct_scope(one: bytes, other: bytes) -> bytes:
    """Id of the direct conversation of two accounts: the same from both sides and in both regions (R14)."""
    first, second = sorted((one, other))
    return _uuid8(hashlib.blake2b(b"direct:" + first + second, digest_size=limits.ID_BYTES).digest())


def group_scope(sender: bytes, event_id: bytes) -> bytes:
    """Id of the group that an event creates: no other event can create it, in any region."""
    return _uuid8(hashlib.blake2b(b"group:" + sender + event_id, digest_size=limits.ID_BYTES).digest())


def account_of(secret: bytes) -> bytes:
    """Id of the account that is made with a secret: whoever sees the id cannot register it again."""
    return _uuid8(hashlib.blake2b(b"account:" + secret, digest_size=limits.ID_BYTES).digest())


def fold_handle(handle: str) -> str:
    """A handle as it is compared: NFKC, case folded, trimmed; not checked, for looking up."""
    return unicodedata.normalize("NFKC", handle).casefold().strip().lstrip("@")


def handle_scope(handle: str) -> bytes:
    """Scope of the claims on a normalized handle."""
    return _uuid8(hashlib.blake2b(b"handle:" + handle.encode(), digest_size=limits.ID_BYTES).digest())


def _uuid8(digest: bytes) -> bytes:
    """A digest as a UUIDv8 (RFC 9562): no id that somebody makes, a UUIDv7, can ever be one."""
    return digest[:6] + bytes([digest[6] & 0x0F | 0x80, digest[7], digest[8] & 0x3F | 0x80]) + digest[9:]


def normalize_handle(handle: str) -> str:
    """The one form of a handle: NFKC, case folded, trimmed.

    Raises:
        Refused: MALFORMED, with what is allowed.
    """
    folded = fold_handle(handle)
    good = all(c.isalnum() or c in _ALLOWED for c in folded)
    if not good or not limits.MIN_HANDLE_CHARS <= len(folded) <= limits.MAX_HANDLE_CHARS:
        raise Refused(
            Code.MALFORMED,
            f"a handle has {limits.MIN_HANDLE_CHARS} to {limits.MAX_HANDLE_CHARS} letters, digits, "
            f"dots, dashes or underscores; {handle[:40]!r} does not fit",
        )
    return folded


def suffixed_handle(handle: str, account: bytes) -> str:
    """What the later of two claimants of one handle is called (R14)."""
    return f"{handle}~{account.hex()[-6:]}"


def origin_name(region: str, ulid: str) -> str:
    """Name of an origin: one life of one region's Redis."""
    return f"{region}-{ulid}"


def region_of(origin: str) -> str:
    """Region of an origin; region names may hold dashes, ULIDs do not."""
    return origin.rpartition("-")[0]
