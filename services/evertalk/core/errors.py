"""The error tree: definite (nothing was written) or unknown (it may have been; retry with the same id).

| error                | kind     | gRPC status         |
|----------------------|----------|---------------------|
| MALFORMED            | definite | INVALID_ARGUMENT    |
| TOO_LARGE            | definite | INVALID_ARGUMENT    |
| STAMP_AHEAD          | definite | INVALID_ARGUMENT    |
| STAMP_TOO_OLD        | definite | INVALID_ARGUMENT    |
| UNKNOWN_CONVERSATION | definite | NOT_FOUND           |
| UNKNOWN_ACCOUNT      | definite | NOT_FOUND           |
| NOT_A_MEMBER         | definite | PERMISSION_DENIED   |
| NOT_ALLOWED          | definite | PERMISSION_DENIED   |
| BAD_TOKEN            | definite | UNAUTHENTICATED     |
| BAD_PASSWORD         | definite | UNAUTHENTICATED     |
| HANDLE_TAKEN         | definite | ALREADY_EXISTS      |
| OVERLOADED           | definite | RESOURCE_EXHAUSTED  |
| LOG_FULL             | definite | RESOURCE_EXHAUSTED  |
| SLOW_READER          | stream   | RESOURCE_EXHAUSTED  |
| CATCHING_UP          | definite | UNAVAILABLE         |
| DRAINING             | definite | UNAVAILABLE         |
| NEW_ORIGIN           | stream   | UNAVAILABLE         |
| NOT_YET              | definite for the attempt, retry | UNAVAILABLE |
| UNKNOWN_OUTCOME      | unknown  | UNKNOWN             |
"""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """Same numbers as `ErrorCode` of the protocol."""

    UNSPECIFIED = 0
    MALFORMED = 1
    TOO_LARGE = 2
    STAMP_AHEAD = 3
    STAMP_TOO_OLD = 4
    UNKNOWN_CONVERSATION = 5
    NOT_A_MEMBER = 6
    NOT_ALLOWED = 7
    UNKNOWN_ACCOUNT = 8
    OVERLOADED = 9
    LOG_FULL = 10
    BAD_TOKEN = 11
    BAD_PASSWORD = 12
    HANDLE_TAKEN = 13
    CATCHING_UP = 14
    DRAINING = 15
    NOT_YET = 16
    UNKNOWN_OUTCOME = 17
    SLOW_READER = 18
    NEW_ORIGIN = 19


#: Definite for the attempt, and worth another: the SDK keeps the event and tries again.
RETRY = frozenset(
    {
        Code.NOT_YET,
        Code.OVERLOADED,
        Code.LOG_FULL,
        Code.CATCHING_UP,
        Code.DRAINING,
        Code.UNKNOWN_OUTCOME,
        Code.SLOW_READER,
        Code.NEW_ORIGIN,
    }
)
#: It may have been written.
UNKNOWN = frozenset({Code.UNKNOWN_OUTCOME, Code.UNSPECIFIED})


class EvertalkError(Exception):
    """Base of every error that Evertalk raises on purpose; `str()` is a sentence a person can act on."""


class Refused(EvertalkError):
    """An attempt was refused by name.

    Args:
        code: what was refused.
        sentence: for a person.
        retry_after_ms: 0, or when another attempt makes sense.
    """

    def __init__(self, code: Code, sentence: str, retry_after_ms: int = 0) -> None:
        super().__init__(sentence)
        self.code = code
        self.sentence = sentence
        self.retry_after_ms = retry_after_ms

    @property
    def definite(self) -> bool:
        """True if nothing was written by this attempt."""
        return self.code not in UNKNOWN


class SendFailed(Refused):
    """A send has failed definitely: no attempt of it was written or may have been."""


class SendUnknown(Refused):
    """A send was given up while some attempt of it may have been written."""


class NotReplicated(EvertalkError):
    """`wait_for=REPLICATED` ran into its deadline: the event is ACCEPTED and stays in the outbox."""


class LogError(EvertalkError):
    """Base of what can happen at a region's Redis."""


class LogUnavailable(LogError):
    """Nothing was written: Redis cannot be reached or is not ready."""


class LoginRefused(LogUnavailable):
    """Redis does not take the user or the password it was given."""


class LogOutcomeUnknown(LogError):
    """The connection broke after a command was sent: it may have run."""


class OriginLost(LogError):
    """The origin this node appended to is gone; claim again (R3)."""


class LogFull(LogError):
    """Redis refused the write for lack of memory, or the log is at its cap; nothing was written."""


class UnsafeRedis(LogError):
    """This Redis does not keep what it acknowledges (R3); the sentence says which setting is wrong."""


class ShardsMismatch(LogError):
    """The cluster was created with another number of shards; refuse to start."""


class StoreError(EvertalkError):
    """The store cannot be opened or written; the sentence names the file."""


class StoreDamaged(StoreError):
    """The store's file is no longer a database; it can be thrown away and built again (R8)."""


class PeerUnavailable(EvertalkError):
    """Another node or region did not answer."""
