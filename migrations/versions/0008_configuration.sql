-- What changes at run time, long work, the deletion of readings, and a place in order for each version.

CREATE TABLE settings (                                      -- one row: everything that has no need of a restart
    one bool PRIMARY KEY DEFAULT true CHECK (one),
    public_id uuid NOT NULL,
    content jsonb NOT NULL,                                  -- what people set; the rest has its default
    smtp_password bytea,                                     -- sealed
    changed_on timestamptz NOT NULL DEFAULT now(),
    version int4 NOT NULL DEFAULT 1
);
INSERT INTO settings (public_id, content) VALUES ('00000000-0000-7000-8000-000000000001', '{}');

CREATE TABLE jobs (                                          -- work that takes longer than a request may
    id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id uuid NOT NULL UNIQUE,
    kind text NOT NULL,
    subject text NOT NULL,                                   -- what it is about, for people
    parameters jsonb NOT NULL,
    owner_public_id uuid,
    owner_name text,                                         -- a name, not a reference: people leave, what they asked for goes on
    state text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    progress float8 NOT NULL DEFAULT 0 CHECK (progress BETWEEN 0 AND 1),
    progress_text text NOT NULL DEFAULT '',
    result jsonb,
    problem jsonb,
    cancel_requested bool NOT NULL DEFAULT false,
    created_on timestamptz NOT NULL DEFAULT now(),
    started_on timestamptz,
    finished_on timestamptz,
    expires_on timestamptz,                                  -- when it is forgotten; NULL while it is not over
    heartbeat_on timestamptz,                                -- of whoever works on it, by the database's clock
    runner uuid,
    attempts int4 NOT NULL DEFAULT 0,
    CHECK ((finished_on IS NULL) = (state IN ('queued', 'running')))
);
CREATE INDEX jobs_owner ON jobs (owner_public_id, id);
CREATE INDEX jobs_kind ON jobs (kind, id);
CREATE INDEX jobs_open ON jobs (id) WHERE finished_on IS NULL;
CREATE INDEX jobs_expires ON jobs (expires_on);

CREATE TABLE rewriting ();                                   -- empty: only its lock is wanted, by whoever rewrites or deletes runs

ALTER TABLE versions ADD id int8 GENERATED ALWAYS AS IDENTITY;
CREATE UNIQUE INDEX versions_id ON versions (id);
CREATE INDEX versions_kind ON versions (kind, id);
CREATE INDEX versions_object ON versions (object_public_id, id);
CREATE INDEX versions_actor ON versions (actor_name, id);
