-- What every change leaves behind: who did what, what a thing was before, and what a repeated request was answered.

CREATE TABLE audit_log (
    id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    action text NOT NULL,                                    -- create, update, delete, login, logout, refused, ...
    kind text NOT NULL,                                      -- of the object: event, user, session, request, ...
    object_public_id uuid,
    object_name text,
    actor_kind text NOT NULL CHECK (actor_kind IN ('user', 'token', 'kiosk', 'source', 'nobody', 'system')),
    actor_public_id uuid,
    actor_name text,                                         -- a name, not a reference: people leave, what they did stays
    address text,
    request_id text,
    before jsonb,                                            -- of a change: the fields that differ; never a secret
    after jsonb,
    detail text,
    n int4 NOT NULL DEFAULT 1                                -- refusals of one kind within a second are one row
);
CREATE INDEX audit_log_at ON audit_log (at, id);
CREATE INDEX audit_log_actor ON audit_log (actor_public_id, id);
CREATE INDEX audit_log_object ON audit_log (object_public_id, id);
CREATE INDEX audit_log_kind ON audit_log (kind, id);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never changed', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER audit_log_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE versions (                                      -- every state of what people configure
    kind text NOT NULL,
    object_public_id uuid NOT NULL,
    version int4 NOT NULL,
    at timestamptz NOT NULL,
    actor_name text,
    content jsonb,                                           -- NULL: deleted
    PRIMARY KEY (kind, object_public_id, version)
);
CREATE INDEX versions_at ON versions (at);

CREATE TABLE idempotency_keys (                              -- what a request under a key was answered; kept for 24 h
    owner uuid NOT NULL,
    key text NOT NULL,
    request_hash bytea NOT NULL,
    status int2,
    headers jsonb,
    body bytea,                                              -- sealed: an answer may hold a credential that is shown once
    created_on timestamptz NOT NULL,
    PRIMARY KEY (owner, key)
);
CREATE INDEX idempotency_keys_created ON idempotency_keys (created_on);

-- what people edit carries a version, so that two of them do not overwrite each other unseen
ALTER TABLE events ADD version int4 NOT NULL DEFAULT 1;
ALTER TABLE experiments ADD version int4 NOT NULL DEFAULT 1;
ALTER TABLE sources ADD version int4 NOT NULL DEFAULT 1;
