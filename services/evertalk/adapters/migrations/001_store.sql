-- Every event lies in its slot; the integer primary key is the change number, so any change of a row gives it
-- the next one and Export is a range scan. `sum` is a checksum of what no index covers (sqlite_checks.py): a store
-- whose node has died is compared with them before it is trusted again.
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    life TEXT NOT NULL,
    shards INTEGER NOT NULL,
    change INTEGER NOT NULL, -- the highest ever given, so that none is given twice
    dead INTEGER NOT NULL,   -- bytes emptied in texts
    sum INTEGER AS (checksum(life, shards, change, dead)) STORED
) STRICT;

CREATE TABLE scopes (id INTEGER PRIMARY KEY, scope BLOB NOT NULL UNIQUE) STRICT;

CREATE TABLE origins (
    id INTEGER PRIMARY KEY,
    origin TEXT NOT NULL UNIQUE,
    folded INTEGER NOT NULL DEFAULT 0,
    sum INTEGER AS (checksum(folded)) STORED
) STRICT;

CREATE TABLE facts (
    change INTEGER PRIMARY KEY,
    scope INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    slot BLOB NOT NULL,
    hlc INTEGER NOT NULL,
    origin INTEGER NOT NULL, -- origin, position and accepted_at are those of the smallest copy
    position INTEGER NOT NULL,
    accepted_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    marks INTEGER NOT NULL,  -- 1 late, 2 parent missing: local, never exported
    copies TEXT,             -- JSON [[origin, position], ...] of further copies; mostly NULL
    event BLOB,              -- the event's bytes, or NULL and:
    text INTEGER,            -- where they lie in texts
    sum INTEGER AS (checksum(hlc, accepted_at, expires_at, marks, copies, event, text)) STORED
) STRICT;
CREATE UNIQUE INDEX facts_slot ON facts (scope, kind, slot);
CREATE INDEX facts_position ON facts (scope, origin, position);
CREATE INDEX facts_message ON facts (scope, hlc, slot) WHERE kind = 16;
CREATE INDEX facts_expiry ON facts (expires_at) WHERE expires_at > 0;

-- What people wrote and may delete. Rows are only ever appended, and emptied in place, never removed: SQLite
-- moves rows between pages when it merges them and leaves what it moved in the gap of the old page, where
-- secure_delete does not reach.
CREATE TABLE texts (
    id INTEGER PRIMARY KEY,
    event BLOB NOT NULL,
    sum INTEGER AS (checksum(event)) STORED
) STRICT;

-- Messages that expired, with the rank of their smallest copy, so that an edit that comes later does not stay, and
-- another text of the same id is judged as if the message were still there. Exported as facts are: a new store is told
-- of the edit, and not of the message. A deletion is a fact.
CREATE TABLE expired (
    scope INTEGER NOT NULL,
    slot BLOB NOT NULL,
    expires_at INTEGER NOT NULL,
    accepted_at INTEGER NOT NULL,
    origin TEXT NOT NULL,
    change INTEGER NOT NULL,
    sum INTEGER AS (checksum(scope, slot, expires_at, accepted_at, origin)) STORED,
    PRIMARY KEY (scope, slot)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX expired_change ON expired (change);

-- Who is in what, derived from conversations and memberships. One row per origin of a copy of an event by which
-- the account came in or stayed in (or, with role NONE, left), at its lowest position.
CREATE TABLE members (
    account BLOB NOT NULL,
    scope INTEGER NOT NULL,
    origin TEXT NOT NULL,
    position INTEGER NOT NULL,
    role INTEGER NOT NULL,
    sum INTEGER AS (checksum(account, scope, origin, position, role)) STORED,
    PRIMARY KEY (account, scope, origin)
) STRICT, WITHOUT ROWID;

CREATE TABLE cursors (
    origin TEXT NOT NULL,
    shard INTEGER NOT NULL,
    position INTEGER NOT NULL,
    sum INTEGER AS (checksum(origin, shard, position)) STORED,
    PRIMARY KEY (origin, shard)
) STRICT, WITHOUT ROWID;

CREATE TABLE holes (
    origin TEXT NOT NULL,
    shard INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    sum INTEGER AS (checksum(origin, shard, first, last)) STORED,
    PRIMARY KEY (origin, shard, first, last)
) STRICT, WITHOUT ROWID;

CREATE TABLE bookmarks (
    source TEXT PRIMARY KEY,
    life TEXT NOT NULL,
    change INTEGER NOT NULL,
    sum INTEGER AS (checksum(life, change)) STORED
) STRICT;
