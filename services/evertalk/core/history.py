"""A history: what clients invoked, were told and received, the faults, and the final reads of every replica.

On disk (`core/history_lines.py`) it is `history.jsonl.gz`, one JSON object a line. Line 1 is the header
(`schema` names the format), the last line is {"k": "end", "lines": number of lines, both included}. Every
other line is one record: `k` names its kind (KINDS), the other keys are the fields of its class; a field
that has its default is left out.

Times `t` are seconds since the start of the run, on the one monotonic clock of the drill controller; the
order of lines is the order in which the controller saw things. Ids (`id`, `sender`, `session`,
`conversation`) are lower-case hex. `op` and `kind` use one set of words, see OPS. `body` is `body_digest`
of what the event itself carries, so an edited message keeps the digest of its first text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from evertalk.core.errors import EvertalkError
from evertalk.core.model import Edit, Event, Kind, Message, Reaction

SCHEMA = "evertalk.history/1"

#: The words for kinds of event, in `op` of an invocation and in `kind` of what was received or read.
OPS: Mapping[int, str] = {
    Kind.MESSAGE: "message",
    Kind.EDIT: "edit",
    Kind.DELETION: "delete",
    Kind.REACTION: "react",
    Kind.CONVERSATION: "create",
    Kind.MEMBERSHIP: "membership",
    Kind.TITLE: "title",
    Kind.RECEIPT: "receipt",
    Kind.ACCOUNT: "account",
    Kind.HANDLE_CLAIM: "handle",
}
#: What a send came to. A told "released" says that its outbox, at its cap, let go of an accepted event (P2).
OUTCOMES = frozenset({"accepted", "replicated", "failed", "unknown", "released"})
#: What a fault does to its target, whatever its verb: it died; it died and lost its disks (or its Redis was
#: emptied or rolled back); it fell silent without closing its connections; anything else.
EFFECTS = frozenset({"crash", "lost", "hang", ""})
#: Limits a header may set: P6 in milliseconds, P7 in seconds.
LIMITS = frozenset({"gap_p99_ms", "converged_s"})


class HistoryDamaged(EvertalkError):
    """A history cannot be read as one: truncated, altered or made by something else."""


class Cluster(NamedTuple):
    """What the drill ran on. nodes: node name -> region."""

    regions: tuple[str, ...]
    nodes: Mapping[str, str]
    shards: int
    copies: int = 2


class Load(NamedTuple):
    """What was offered. `kind` is a free word for the shape of the load."""

    users: int
    offered_per_s: float
    seconds: float
    kind: str = ""


class Header(NamedTuple):
    """Line 1. `started` is wall-clock time (ISO 8601); `limits` are those to be judged by, see LIMITS."""

    drill: str
    driver: str
    seed: int
    commit: str
    cluster: Cluster
    load: Load
    limits: Mapping[str, float]
    started: str


class Invoke(NamedTuple):
    """A client asked for an event to be sent; once per event, however often the SDK then sends it.

    reply_to: (sender, id) of the message it answers. target: (sender, id) of the message that an edit,
    deletion or reaction is about. need: ((origin, position), …) as the event carries it.
    """

    t: float
    client: str
    session: str
    op: str
    conversation: str
    sender: str
    id: str
    hlc: int
    body: str = ""
    reply_to: tuple[str, str] | None = None
    target: tuple[str, str] | None = None
    need: tuple[tuple[str, int], ...] = ()


class Told(NamedTuple):
    """What the SDK told its application about a send, see OUTCOMES; the last four only with "accepted".

    "failed" is the whole send's definite failure, "unknown" that it was given up while an attempt may have
    been written. One send may be told several things, also ACCEPTED by two origins.
    """

    t: float
    client: str
    id: str
    outcome: str
    code: str = ""
    origin: str = ""
    shard: int = 0
    position: int = 0
    node: str = ""
    region: str = ""


class Received(NamedTuple):
    """The SDK showed an event to its application."""

    t: float
    client: str
    session: str
    conversation: str
    id: str
    sender: str
    hlc: int
    kind: str
    body: str
    origin: str
    position: int
    late: bool = False
    parent_missing: bool = False


class Gap(NamedTuple):
    """A session was told that something it needs is not to be had. missing: (origin, shard, position), …"""

    t: float
    client: str
    session: str
    missing: tuple[tuple[str, int, int], ...] = ()


class Read(NamedTuple):
    """A read of a conversation's history, up to its newest message.

    asked: when it began; `t` is when it returned. whole: from the conversation's first message; else it was
    cut at its old end. parent_missing: those of `ids` that the answer marked so.
    """

    t: float
    asked: float
    client: str
    session: str
    conversation: str
    ids: tuple[str, ...]
    whole: bool = True
    gap: bool = False
    parent_missing: tuple[str, ...] = ()


class Gone(NamedTuple):
    """A client's process died or was closed. kept: its outbox is on disk and will be opened again."""

    t: float
    client: str
    session: str
    kept: bool = False


class Connected(NamedTuple):
    t: float
    client: str
    region: str
    node: str


class Disconnected(NamedTuple):
    t: float
    client: str
    region: str
    node: str


class Hedged(NamedTuple):
    t: float
    client: str
    region: str
    node: str


class Fault(NamedTuple):
    """A verb of the harness was done at `t`. target: a region, a node, or any other thing by name.

    until: when it ended, None if it never did or `returned` says so. effect: see EFFECTS.
    """

    t: float
    verb: str
    target: str
    until: float | None = None
    effect: str = ""


class Returned(NamedTuple):
    """A region or node that a fault had taken away runs again."""

    t: float
    target: str


class Mark(NamedTuple):
    """A watermark: region `holder` holds the log of (origin, shard) up to `position`."""

    t: float
    holder: str
    origin: str
    shard: int
    position: int


class Shown(NamedTuple):
    """One visible message of a final read."""

    hlc: int
    id: str
    sender: str
    body: str
    kind: str


class Final(NamedTuple):
    """One conversation as one replica shows it at the end, in its order, with the node's own digest.

    vector: "origin/shard" -> position of the replica; for people, the checker does not judge it.
    """

    t: float
    node: str
    region: str
    conversation: str
    messages: tuple[Shown, ...]
    digest: str
    vector: Mapping[str, int] = {}


class Converged(NamedTuple):
    """All replicas had equal digests at `t`; or, timed out, the wait for it was given up."""

    t: float
    timed_out: bool = False


class Gauge(NamedTuple):
    """Anything measured (memory, bytes); the checker passes it by."""

    t: float
    name: str
    value: float
    target: str = ""


Record = (
    Invoke | Told | Received | Gap | Read | Gone | Connected | Disconnected | Hedged | Fault | Returned | Mark
    | Final | Converged | Gauge
)  # fmt: skip

KINDS: Mapping[str, type[Record]] = {
    "invoke": Invoke,
    "told": Told,
    "received": Received,
    "gap": Gap,
    "read": Read,
    "gone": Gone,
    "connected": Connected,
    "disconnected": Disconnected,
    "hedged": Hedged,
    "fault": Fault,
    "returned": Returned,
    "watermark": Mark,
    "final": Final,
    "converged": Converged,
    "gauge": Gauge,
}


FIRST_LINE = 2


@dataclass(frozen=True, slots=True)
class History:
    """A run as it was recorded; `records[i]` is line i + FIRST_LINE of the file."""

    header: Header
    records: list[Record]


def body_digest(event: Event) -> str:
    """Short SHA-256 of what an event says: of a message without attachments, of its text."""
    body = event.body
    sha = hashlib.sha256()
    match body:
        case Message():
            sha.update(body.text.encode() + body.encrypted)
            for attachment in body.attachments:
                sha.update(attachment.sha256)
        case Edit():
            sha.update(body.text.encode() + body.encrypted)
        case Reaction():
            sha.update(body.emoji.encode() + bytes([body.removed]))
        case _:
            return ""
    return sha.hexdigest()[:16]
