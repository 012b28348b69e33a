-- What nullpass keeps. A row has a record, as every backend writes it (src/store/record.rs), and beside it what queries
-- and constraints need. Times are milliseconds since 1970. The schema is the first of the search path.

CREATE TABLE users (
    id         uuid PRIMARY KEY,
    email      text COLLATE "C" NOT NULL UNIQUE,
    -- What a search looks at: the address and the display name, in lower case.
    searched   text COLLATE "C" NOT NULL,
    -- The hashed groups of one to three characters in it, so that a search for a part of it has an index without an extension.
    grams      int4[] NOT NULL,
    groups     text[] COLLATE "C" NOT NULL,
    revision   int8 NOT NULL,
    record     bytea NOT NULL
) WITH (fillfactor = 85);
CREATE INDEX users_by_grams ON users USING gin (grams);
CREATE INDEX users_by_groups ON users USING gin (groups);

-- SHA-256 of the addresses of deleted accounts.
CREATE TABLE retired_emails (
    digest     bytea PRIMARY KEY,
    at         int8 NOT NULL
);

CREATE TABLE sessions (
    id         uuid PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    expires_at int8 NOT NULL,
    record     bytea NOT NULL
) WITH (fillfactor = 85);
CREATE INDEX sessions_by_user ON sessions (user_id, id);
CREATE INDEX sessions_by_end ON sessions (expires_at);

CREATE TABLE api_tokens (
    id         uuid PRIMARY KEY,
    user_id    uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    digest     bytea NOT NULL,
    expires_at int8,
    record     bytea NOT NULL
) WITH (fillfactor = 85);
CREATE INDEX api_tokens_by_user ON api_tokens (user_id, id);
CREATE INDEX api_tokens_by_digest ON api_tokens (digest, id);
CREATE INDEX api_tokens_by_end ON api_tokens (expires_at) WHERE expires_at IS NOT NULL;

-- The last TOTP step that an account spent.
CREATE TABLE totp_steps (
    user_id    uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    step       int8 NOT NULL
);

-- What can be used once and was.
CREATE TABLE spent (
    purpose    int2 NOT NULL,
    digest     bytea NOT NULL,
    until      int8 NOT NULL,
    PRIMARY KEY (digest, purpose)
);
CREATE INDEX spent_by_end ON spent (until);

-- Failures that are counted. Owned: only a right password or an owner's device can make one.
CREATE TABLE locks (
    key             bytea PRIMARY KEY,
    owned           bool NOT NULL,
    failures        int8 NOT NULL,
    last_failure_at int8 NOT NULL,
    locked_until    int8 NOT NULL
);
CREATE INDEX locks_by_age ON locks (last_failure_at);

CREATE TABLE signing_keys (
    kid        text COLLATE "C" PRIMARY KEY,
    record     bytea NOT NULL
);

CREATE TABLE meta (
    name       text COLLATE "C" PRIMARY KEY,
    value      bytea NOT NULL
);

-- The audit log outlives the accounts it is about.
CREATE TABLE audit (
    at         int8 NOT NULL,
    id         uuid NOT NULL,
    user_id    uuid,
    action     text COLLATE "C" NOT NULL,
    record     bytea NOT NULL,
    PRIMARY KEY (at, id)
);
CREATE INDEX audit_by_user ON audit (user_id, at, id) WHERE user_id IS NOT NULL;
CREATE INDEX audit_by_action ON audit (action, at, id);

-- What other processes should hear of, kept for some minutes. The transaction's number tells what was not yet visible
-- to somebody who looked before: sequence numbers become visible in any order.
CREATE TABLE changes (
    seq        int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tx         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    kind       text COLLATE "C" NOT NULL,
    id         uuid NOT NULL
);
CREATE INDEX changes_by_tx ON changes (tx);
CREATE INDEX changes_by_age ON changes (at);

-- Written to find out whether the database writes.
CREATE TABLE alive (
    slot       int4 PRIMARY KEY,
    at         timestamptz NOT NULL
) WITH (fillfactor = 50);
