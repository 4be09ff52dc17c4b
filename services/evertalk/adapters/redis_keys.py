"""Names of everything that a region keeps in its Redis; ARCHITECTURE.md says what each holds."""

from __future__ import annotations

from evertalk.core.model import Stream

META = "meta"
ORIGINS = "origins"
FLOOR = "floor"
BASE = "base"
WAKE = "wake"
LOG = "log:"
MIRROR = "mirror:"
STORE = "store:"
WATERMARKS = "wm"
RELAYED = "wm:relayed"
#: Channel of what is appended to own logs: "KEY ID PAYLOAD", or nothing: origins have changed.
APPENDED = "appended"
#: The same of mirrors, for own nodes.
MIRRORED = "mirrored"

#: The one field of a log or mirror entry: a serialized Batch.
PAYLOAD = "b"


def stream_key(stream: Stream) -> str:
    """Key of a log or mirror."""
    return f"{MIRROR if stream.mirror else LOG}{stream.origin}:{stream.shard}"


def store_key(node: str) -> str:
    """Key of what a node's store publishes."""
    return STORE + node


def entry_id(position: int) -> str:
    """Entry ID of a position: dense, so the time part is always 0."""
    return f"0-{position}"


def position_of(entry: bytes) -> int:
    """Position of an entry ID."""
    return int(entry[entry.index(b"-") + 1 :])
