"""Every number that two parts must agree on, in one place, with the relations between them asserted."""

from __future__ import annotations

# Identifiers
ID_BYTES = 16
SESSION_BYTES = 8
SECRET_BYTES = 32

# What one event may weigh. A frame carries many events; a log entry carries one batch.
MAX_TEXT_BYTES = 16 * 1024
MAX_TITLE_BYTES = 256
MAX_EMOJI_BYTES = 64
MAX_HANDLE_CHARS = 32
MIN_HANDLE_CHARS = 2
MIN_PASSWORD_CHARS = 8
MAX_PASSWORD_CHARS = 256
MAX_MEMBERS = 1000
MAX_NEEDS = 64
MAX_EVENT_BYTES = 64 * 1024
MAX_ENTRY_BYTES = 128 * 1024
MAX_FRAME_BYTES = 1024 * 1024
MAX_GRPC_BYTES = 4 * 1024 * 1024

# Time, in seconds unless named otherwise
BOUND_MS = 60_000  # R1: how far ahead a client's stamp may be
MAX_AGE_MS = 30 * 24 * 3600 * 1000  # R12: older stamps are refused, older tokens refetch
LATE_MS = 2_000  # R12: applied later than this after accepted_at, below a shown key: late
NEED_WAIT_S = 0.3  # R7, R11
HEARTBEAT_S = 10.0
SUSPECT_S = 30.0
HEDGE_AFTER_S = 0.4  # a send unacknowledged this long goes to another region too
HELLO_TIMEOUT_S = 1.0
PUBLISH_S = 1.0  # R8: a store publishes itself
STORE_LIVE_S = 5.0  # heard from within this: reachable
STORE_COUNTED_S = 60.0  # R5: counted for trimming
CHECKPOINT_MAX_S = 60.0  # P9
TOKEN_LIFE_S = 24 * 3600

# Bounded things
SESSION_QUEUE_BYTES = 1024 * 1024  # a slower reader is cut loose
SESSION_UNACKED = 1024  # sends of one stream not yet answered
NODE_QUEUE_EVENTS = 20_000  # sends waiting for their commit, all sessions
OUTBOX_CAP = 10_000  # events
SEEN_CAP = 65_536  # event ids an SDK session remembers
JOIN_PAGE = 50  # R13
HISTORY_PAGE_MAX = 500
EXPORT_PAGE = 500
HEDGE_SHARE = 0.05

assert HEARTBEAT_S * 3 <= SUSPECT_S, "one lost heartbeat is no reason to suspect"
assert MAX_TEXT_BYTES < MAX_EVENT_BYTES < MAX_ENTRY_BYTES < MAX_FRAME_BYTES < MAX_GRPC_BYTES
assert PUBLISH_S * 3 <= STORE_LIVE_S < STORE_COUNTED_S
assert HEDGE_AFTER_S < HELLO_TIMEOUT_S, "a hedge starts before the stream is given up"
