-- Who may: the sessions of people, their API tokens, and what they set for themselves.

CREATE TABLE sessions (                                      -- one that ended before its time is gone from here and on the blacklist
    jti uuid PRIMARY KEY,
    user_id int4 NOT NULL REFERENCES users ON DELETE CASCADE,
    begun_on timestamptz NOT NULL,
    last_used_on timestamptz NOT NULL,                       -- to the minute: a request does not cost a write
    expires_on timestamptz NOT NULL,
    confirmed_on timestamptz NOT NULL,                       -- when the password was given last
    address text NOT NULL,                                   -- where it began
    user_agent text NOT NULL
);
CREATE INDEX sessions_user ON sessions (user_id, last_used_on);

CREATE TABLE api_tokens (
    id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id uuid NOT NULL UNIQUE,
    user_id int4 NOT NULL REFERENCES users ON DELETE CASCADE,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    hash bytea NOT NULL UNIQUE,                              -- SHA-256 of 256 random bits
    role text NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    scopes text[] NOT NULL,
    dashboard_public_id uuid,                                -- of a kiosk token: all that it opens
    created_on timestamptz NOT NULL,
    expires_on timestamptz,
    last_used_on timestamptz,                                -- to the minute
    last_address text
);
CREATE INDEX api_tokens_user ON api_tokens (user_id);
CREATE INDEX api_tokens_dashboard ON api_tokens (dashboard_public_id) WHERE dashboard_public_id IS NOT NULL;

-- a ticket is also for who comes with an API token; it ends with it
ALTER TABLE socket_tickets ADD token_hash bytea;
ALTER TABLE socket_tickets ALTER jti DROP NOT NULL, ALTER session_expires_on DROP NOT NULL, ALTER session_issued_on DROP NOT NULL;
ALTER TABLE socket_tickets ADD CHECK ((token_hash IS NULL) = (jti IS NOT NULL));
CREATE INDEX socket_tickets_user ON socket_tickets (user_id);

ALTER TABLE users ADD last_login_on timestamptz;
ALTER TABLE users ADD password_changed_on timestamptz NOT NULL DEFAULT now();
ALTER TABLE users ADD initial_password_until timestamptz;    -- set: the password was made for them, and only lets them choose their own
ALTER TABLE users ADD language text NOT NULL DEFAULT 'en' CHECK (length(language) BETWEEN 2 AND 35);
ALTER TABLE users ADD time_zone text CHECK (length(time_zone) <= 64);   -- NULL: the browser's
ALTER TABLE users ADD theme text NOT NULL DEFAULT 'auto' CHECK (theme IN ('light', 'dark', 'auto'));
ALTER TABLE users ADD version int4 NOT NULL DEFAULT 1;

-- sessions that began before are not in the table: they end, so that every session can be listed and ended
UPDATE users SET sessions_valid_from = now();
