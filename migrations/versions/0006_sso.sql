-- Single sign-on: who a person is at the provider, and the sign-ins that are under way.

ALTER TABLE users ALTER password_hash DROP NOT NULL;         -- NULL: signs in at the provider only, no password is right

CREATE TABLE sso_identities (
    id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    issuer text NOT NULL,
    subject text NOT NULL,                                   -- the provider's name for the person; never given to another
    user_id int4 NOT NULL REFERENCES users ON DELETE CASCADE,
    created_on timestamptz NOT NULL,
    last_login_on timestamptz NOT NULL,
    UNIQUE (issuer, subject),
    UNIQUE (user_id, issuer)                                 -- an e-mail that passed to another person leads nowhere
);

CREATE TABLE sso_logins (                                    -- answers of the provider; only hashes are kept
    state_hash bytea PRIMARY KEY,                            -- SHA-256: a state is used once
    state_expires_on timestamptz NOT NULL,
    code_hash bytea UNIQUE,                                  -- SHA-256 of the code that becomes a session; NULL: none, or used
    code_expires_on timestamptz,
    user_id int4 REFERENCES users ON DELETE CASCADE
);
CREATE INDEX sso_logins_expires ON sso_logins (state_expires_on);
CREATE INDEX sso_logins_user ON sso_logins (user_id);
