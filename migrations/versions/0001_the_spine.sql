-- The tables of the spine. Data never hangs on a person: no foreign key leaves datapoints, and nothing cascades into it.

CREATE TABLE users (
    id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id uuid NOT NULL UNIQUE,
    email text NOT NULL CHECK (length(email) BETWEEN 3 AND 254),
    username text NOT NULL UNIQUE CHECK (length(username) BETWEEN 2 AND 50),
    password_hash text NOT NULL,
    role text NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    enabled bool NOT NULL DEFAULT true,
    registered_on timestamptz NOT NULL DEFAULT now(),
    sessions_valid_from timestamptz NOT NULL DEFAULT now()   -- a token issued earlier is void (password change, reset)
);
CREATE UNIQUE INDEX users_email ON users (lower(email));

CREATE TABLE blacklist_tokens (
    jti uuid PRIMARY KEY,
    expires_on timestamptz NOT NULL
);

CREATE TABLE socket_tickets (                                -- one use, 30 s; only the SHA-256 of a ticket is kept
    hash bytea PRIMARY KEY,
    user_id int4 NOT NULL REFERENCES users ON DELETE CASCADE,
    jti uuid NOT NULL,                                       -- of the session that asked: its end is the socket's end
    session_expires_on timestamptz NOT NULL,
    session_issued_on timestamptz NOT NULL,
    path text NOT NULL,
    expires_on timestamptz NOT NULL
);

CREATE TABLE sources (
    id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id uuid NOT NULL UNIQUE,
    name text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 100),
    credential_hash bytea NOT NULL UNIQUE,                   -- SHA-256 of 256 random bits
    enabled bool NOT NULL DEFAULT true,
    created_on timestamptz NOT NULL DEFAULT now(),
    software text,
    last_seen_on timestamptz,
    clock_offset_us int8                                     -- the source's clock less the server's
);

CREATE TABLE writers (                                       -- whoever writes an event does so under (generation, owner)
    id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_id int4 UNIQUE REFERENCES sources ON DELETE SET NULL,
    generation int8 NOT NULL DEFAULT 0,
    owner uuid                                               -- the backend process
);
INSERT INTO writers (source_id) VALUES (NULL);               -- id 1, the pseudo-source rest

CREATE TABLE flushes (                                       -- a process's last committed flush: tells whether a COMMIT took place
    owner uuid PRIMARY KEY,
    number int8 NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE streams (                                       -- delivery's whole memory: one number per stream
    source_id int4 NOT NULL REFERENCES sources ON DELETE CASCADE,
    stream bytea NOT NULL CHECK (length(stream) = 16),
    committed_seq int8 NOT NULL DEFAULT 0,
    started_on timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source_id, stream)
) WITH (fillfactor = 50);

CREATE TABLE receipts (                                      -- what arrived in a minute, as numbered by the source
    source_id int4 NOT NULL,
    stream bytea NOT NULL,
    minute timestamptz NOT NULL,
    first_seq int8 NOT NULL,
    last_seq int8 NOT NULL,
    frames int8 NOT NULL,
    readings int8 NOT NULL,
    PRIMARY KEY (source_id, stream, minute)
) WITH (fillfactor = 70);

CREATE TABLE events (
    id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id uuid NOT NULL UNIQUE,
    name text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 400), -- a channel's, made unique by its source's and its key
    type text NOT NULL CHECK (type IN ('sensor', 'actuator', 'range', 'cmd_button', 'cmd_opened', 'cmd_closed')),
    unit text NOT NULL CHECK (length(unit) <= 50),
    min_value float8,
    max_value float8,
    decimals int2 CHECK (decimals BETWEEN 0 AND 12),
    expected_interval_ms int4 CHECK (expected_interval_ms > 0),
    writer_id int4 NOT NULL DEFAULT 1 REFERENCES writers ON DELETE SET DEFAULT,
    instance text,                                           -- the source's device it belongs to
    channel_key text,
    created_on timestamptz NOT NULL DEFAULT now(),
    changed_on timestamptz NOT NULL DEFAULT now(),
    CHECK (min_value <= max_value),
    UNIQUE (writer_id, channel_key)
);

CREATE TABLE experiments (
    id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id uuid NOT NULL UNIQUE,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    notes text NOT NULL DEFAULT '',
    tags text[] NOT NULL DEFAULT '{}',
    started_on timestamptz NOT NULL,
    stopped_on timestamptz,
    started_by text,                                         -- a name, not a reference: people leave, data stays
    scoped bool NOT NULL DEFAULT false,
    CHECK (stopped_on > started_on)
);
CREATE INDEX experiments_running ON experiments (id) WHERE stopped_on IS NULL;
CREATE INDEX experiments_started ON experiments (started_on DESC, id DESC);

CREATE TABLE experiment_events (                             -- the frozen scope of a scoped experiment
    experiment_id int4 NOT NULL REFERENCES experiments ON DELETE CASCADE,
    event_id int4 NOT NULL REFERENCES events ON DELETE CASCADE,
    PRIMARY KEY (experiment_id, event_id)
);
CREATE INDEX experiment_events_event ON experiment_events (event_id);

CREATE TABLE datapoints (                                    -- one row is a run of readings (docs/decisions/0003-runs-not-rows.md)
    event_id int4 NOT NULL,
    created_on timestamptz NOT NULL,                         -- the first reading's time
    last_on timestamptz NOT NULL,
    id int8 GENERATED ALWAYS AS IDENTITY,                    -- the order of writing
    n int4 NOT NULL,
    min float8 NOT NULL,
    max float8 NOT NULL,
    sum float8 NOT NULL,
    first float8 NOT NULL,
    last float8 NOT NULL,
    experiment_id int4,
    encoding int2 NOT NULL,
    overlapping bool NOT NULL,
    payload bytea NOT NULL,
    PRIMARY KEY (event_id, created_on, id)
) PARTITION BY RANGE (created_on);
ALTER TABLE datapoints ALTER payload SET STORAGE EXTERNAL;
CREATE INDEX datapoints_overlapping ON datapoints (event_id, created_on) WHERE overlapping;

CREATE TABLE latest (
    event_id int4 PRIMARY KEY,
    created_on timestamptz NOT NULL,
    value float8 NOT NULL,
    experiment_id int4
) WITH (fillfactor = 50);

CREATE TABLE gaps (                                          -- what is missing, declared: by the source, or by a refusal
    id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source_id int4,
    stream bytea,
    seq int8,
    event_id int4,                                           -- NULL: all channels of the source
    from_on timestamptz,                                     -- NULL: the refused frame did not say
    to_on timestamptz,
    n int8,                                                  -- NULL: unknown
    cause text NOT NULL,                                     -- a cause of the protocol, or refused
    code text,                                               -- of a refusal
    detail text,
    created_on timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX gaps_event ON gaps (event_id, from_on);
CREATE INDEX gaps_source ON gaps (source_id, created_on);

CREATE TABLE quality (
    id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id int4 NOT NULL,
    from_on timestamptz NOT NULL,
    to_on timestamptz,                                       -- NULL: still so
    code text NOT NULL,
    CHECK (to_on >= from_on)
);
CREATE INDEX quality_event ON quality (event_id, from_on);
CREATE UNIQUE INDEX quality_open ON quality (event_id) WHERE to_on IS NULL;

CREATE TABLE rules (
    id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id uuid NOT NULL UNIQUE,
    name text NOT NULL UNIQUE,
    event_id int4 NOT NULL REFERENCES events ON DELETE CASCADE,
    operator text NOT NULL CHECK (operator IN ('gt', 'lt', 'gte', 'lte', 'eq', 'between', 'not_between')),
    threshold float8 NOT NULL,
    threshold_high float8,
    enabled bool NOT NULL DEFAULT true,
    fired bool NOT NULL DEFAULT false,                       -- changes with the readings that caused it
    changed_on timestamptz,                                  -- time of the reading that caused it
    CHECK ((operator IN ('between', 'not_between')) = (threshold_high IS NOT NULL)),
    CHECK (threshold <= threshold_high)
);
CREATE INDEX rules_event ON rules (event_id);

CREATE TABLE rule_transitions (
    id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    rule_id int4 NOT NULL REFERENCES rules ON DELETE CASCADE,
    fired bool NOT NULL,
    at timestamptz NOT NULL,
    value float8 NOT NULL
);
CREATE INDEX rule_transitions_rule ON rule_transitions (rule_id, id);
