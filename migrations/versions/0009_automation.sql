-- What rules lead to and what people look at: log, rules in full, webhooks with their outbox, updates, dashboards, alarms, commands.

CREATE TABLE log_entries (                                   -- never changed; log_status says whether one was read
    id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id uuid NOT NULL UNIQUE,
    created_on timestamptz NOT NULL,
    logging_type text NOT NULL CHECK (logging_type IN ('info', 'warning', 'error')),
    content text NOT NULL CHECK (length(content) BETWEEN 1 AND 10000),
    author text,                                             -- a name, not a reference: people leave, what they wrote stays
    author_kind text NOT NULL CHECK (author_kind IN ('user', 'token', 'source', 'rule', 'system'))
);
CREATE INDEX log_entries_created ON log_entries (created_on, id);
CREATE INDEX log_entries_type ON log_entries (logging_type, created_on, id);

-- Words of a text, lower-case; whatever ASCII has besides letters and digits parts them, else the parser would take 'pump/inlet' for a file.
CREATE FUNCTION log_words(content text) RETURNS tsvector LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN to_tsvector('simple'::regconfig, translate(content, '!"#$%&''()*+,-./:;<=>?@[\]^_`{|}~', repeat(' ', 32)));
CREATE INDEX log_entries_words ON log_entries USING gin (log_words(content));

CREATE TABLE log_status (
    entry_id int8 PRIMARY KEY REFERENCES log_entries ON DELETE CASCADE,
    read bool NOT NULL DEFAULT false,
    created_on timestamptz NOT NULL                          -- of the entry
);
CREATE INDEX log_status_read ON log_status (read, created_on, entry_id);

ALTER TABLE rules RENAME changed_on TO state_changed_on;     -- time of the reading that changed `fired`
ALTER TABLE rules
    ADD description text NOT NULL DEFAULT '',
    ADD severity text NOT NULL DEFAULT 'medium' CHECK (severity IN ('low', 'medium', 'high', 'critical')),
    ADD dead_band float8 NOT NULL DEFAULT 0 CHECK (dead_band >= 0),
    ADD for_ms int4 NOT NULL DEFAULT 0 CHECK (for_ms >= 0),
    ADD clear_for_ms int4 NOT NULL DEFAULT 0 CHECK (clear_for_ms >= 0),
    ADD cooldown_seconds int4 NOT NULL DEFAULT 60 CHECK (cooldown_seconds >= 0),
    ADD actions jsonb NOT NULL DEFAULT '[]',
    ADD created_on timestamptz NOT NULL DEFAULT now(),
    ADD changed_on timestamptz NOT NULL DEFAULT now(),       -- by people
    ADD version int4 NOT NULL DEFAULT 1;

CREATE TABLE webhooks (
    id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id uuid NOT NULL UNIQUE,
    name text NOT NULL,
    description text NOT NULL,
    url text NOT NULL UNIQUE CHECK (length(url) <= 2048),
    secret_sealed bytea,
    events text[] NOT NULL CHECK (cardinality(events) > 0 AND events <@ ARRAY[
        'sensor.reading', 'sensor.threshold_exceeded', 'experiment.started', 'experiment.stopped', 'system.health_changed']),
    scoped bool NOT NULL,                                    -- only what concerns the channels of webhook_events, be they none
    enabled bool NOT NULL,
    created_on timestamptz NOT NULL,
    changed_on timestamptz NOT NULL,
    version int4 NOT NULL DEFAULT 1
);

CREATE TABLE webhook_events (
    webhook_id int4 NOT NULL REFERENCES webhooks ON DELETE CASCADE,
    event_id int4 NOT NULL REFERENCES events ON DELETE CASCADE,
    PRIMARY KEY (webhook_id, event_id)
);
CREATE INDEX webhook_events_event ON webhook_events (event_id);

CREATE TABLE webhook_deliveries (                            -- an outbox: written in the transaction of what it tells of
    id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id uuid NOT NULL UNIQUE,                          -- the receiver's means to know a repetition
    webhook_id int4 NOT NULL REFERENCES webhooks ON DELETE CASCADE,
    event_type text NOT NULL CHECK (event_type IN (
        'sensor.reading', 'sensor.threshold_exceeded', 'experiment.started', 'experiment.stopped', 'system.health_changed')),
    payload text NOT NULL CHECK (payload IS JSON),           -- as it is signed, to the byte
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'failed', 'dead_letter')),
    attempts int4 NOT NULL DEFAULT 0,
    next_attempt_on timestamptz,
    response_code int2,                                      -- of the last attempt, as the other three
    duration_ms int4,
    last_error text,
    created_on timestamptz NOT NULL,
    delivered_on timestamptz,
    CHECK ((status = 'pending') = (next_attempt_on IS NOT NULL)),
    CHECK ((status = 'delivered') = (delivered_on IS NOT NULL))
);
CREATE INDEX webhook_deliveries_webhook ON webhook_deliveries (webhook_id, id);
CREATE INDEX webhook_deliveries_status ON webhook_deliveries (webhook_id, status, id);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (next_attempt_on) WHERE status = 'pending';

CREATE TABLE firmware_updates (
    id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id uuid NOT NULL UNIQUE,
    version text NOT NULL UNIQUE CHECK (length(version) <= 50),
    changelog text NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (
        status IN ('pending', 'downloading', 'verifying', 'applying', 'completed', 'failed', 'rolled_back')),
    error text,
    file_name text,                                          -- as its owner calls it; on the disk it is called by the public id
    file_size int8,
    file_sha256 text,
    created_by text,
    created_on timestamptz NOT NULL,
    started_on timestamptz,
    completed_on timestamptz,
    CHECK ((file_name IS NULL) = (file_sha256 IS NULL) AND (file_size IS NULL) = (file_sha256 IS NULL))
);
CREATE INDEX firmware_updates_created ON firmware_updates (created_on, id);

CREATE TABLE dashboards (
    id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id uuid NOT NULL UNIQUE,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    description text NOT NULL,
    tags text[] NOT NULL,
    is_global bool NOT NULL,
    range_seconds int4 CHECK (range_seconds > 0),
    owner_id int4 REFERENCES users ON DELETE SET NULL,
    owner_name text NOT NULL,                                -- stays when its owner leaves
    created_on timestamptz NOT NULL,
    changed_on timestamptz NOT NULL,
    version int4 NOT NULL DEFAULT 1                          -- counts the changes of its widgets, too
);
CREATE INDEX dashboards_owner ON dashboards (owner_id);

CREATE TABLE dashboard_widgets (
    id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id uuid NOT NULL UNIQUE,
    dashboard_id int4 NOT NULL REFERENCES dashboards ON DELETE CASCADE,
    config jsonb NOT NULL,
    widget_type text NOT NULL GENERATED ALWAYS AS (config ->> 'widget_type') STORED CHECK (widget_type IN (
        'line_chart', 'gauge', 'stat_card', 'actuator_toggle', 'slider', 'bar', 'table', 'state_timeline', 'histogram', 'xy_chart',
        'spectrum', 'process_picture', 'alarm_list', 'log', 'text', 'experiment')),
    title text NOT NULL,
    x int2 NOT NULL CHECK (x >= 0),
    y int2 NOT NULL CHECK (y >= 0),
    w int2 NOT NULL CHECK (w BETWEEN 1 AND 12),
    h int2 NOT NULL CHECK (h BETWEEN 1 AND 12),
    CHECK (x + w <= 12)
);
CREATE INDEX dashboard_widgets_dashboard ON dashboard_widgets (dashboard_id);

CREATE TABLE dashboard_widget_events (                       -- in the order in which the widget shows them
    widget_id int4 NOT NULL REFERENCES dashboard_widgets ON DELETE CASCADE,
    position int2 NOT NULL,
    event_id int4 NOT NULL REFERENCES events ON DELETE CASCADE,
    PRIMARY KEY (widget_id, position),
    UNIQUE (event_id, widget_id)
);

CREATE TABLE alarms (                                        -- after ISA-18.2: one row from normal to normal again
    id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id uuid NOT NULL UNIQUE,
    rule_id int4 REFERENCES rules ON DELETE SET NULL,
    rule_name text NOT NULL,                                 -- both names stay when their things go
    event_id int4 REFERENCES events ON DELETE SET NULL,
    event_name text NOT NULL,
    severity text NOT NULL CHECK (severity IN ('low', 'medium', 'high', 'critical')),
    -- the process's half: written by the flush that stores the readings, times and values are the readings'
    raised_on timestamptz NOT NULL,
    raised_value float8 NOT NULL,
    raised_n int4 NOT NULL DEFAULT 1,                        -- it may come back before anybody acknowledges
    peak_on timestamptz NOT NULL,
    peak_value float8 NOT NULL,
    cleared_on timestamptz,
    cleared_value float8,
    -- the people's half: written by requests
    acknowledged_on timestamptz,
    acknowledged_by text,
    comment text,
    shelved_on timestamptz,
    shelved_until timestamptz,
    shelved_by text,
    shelved_reason text,
    -- by design: another rule or the maintenance of a source hides it
    suppressed_on timestamptz,
    suppressed_by text,
    out_of_service_on timestamptz,
    out_of_service_by text,
    state text NOT NULL GENERATED ALWAYS AS (CASE
        WHEN cleared_on IS NOT NULL AND acknowledged_on IS NOT NULL THEN 'normal'
        WHEN out_of_service_on IS NOT NULL THEN 'out_of_service'
        WHEN suppressed_on IS NOT NULL THEN 'suppressed'
        WHEN shelved_on IS NOT NULL THEN 'shelved'
        WHEN cleared_on IS NOT NULL THEN 'returned'
        WHEN acknowledged_on IS NOT NULL THEN 'acknowledged'
        ELSE 'unacknowledged' END) STORED,
    CHECK ((cleared_on IS NULL) = (cleared_value IS NULL)),
    CHECK ((acknowledged_on IS NULL) = (acknowledged_by IS NULL)),
    CHECK ((shelved_on IS NULL) = (shelved_until IS NULL) AND (shelved_on IS NULL) = (shelved_by IS NULL)
           AND (shelved_on IS NULL) = (shelved_reason IS NULL)),
    CHECK (shelved_until > shelved_on AND shelved_until <= shelved_on + interval '24 hours'),
    CHECK ((suppressed_on IS NULL) = (suppressed_by IS NULL)),
    CHECK ((out_of_service_on IS NULL) = (out_of_service_by IS NULL))
);
CREATE UNIQUE INDEX alarms_open ON alarms (rule_id) WHERE state <> 'normal';
CREATE INDEX alarms_state ON alarms (state, raised_on, id) WHERE state <> 'normal';
CREATE INDEX alarms_raised ON alarms (raised_on, id);
CREATE INDEX alarms_rule ON alarms (rule_id, id);
CREATE INDEX alarms_event ON alarms (event_id, id);
CREATE INDEX alarms_shelved ON alarms (shelved_until) WHERE shelved_until IS NOT NULL;

CREATE TABLE alarm_transitions (                             -- the journal
    id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    alarm_id int8 NOT NULL REFERENCES alarms ON DELETE CASCADE,
    at timestamptz NOT NULL,
    state text NOT NULL CHECK (state IN (
        'normal', 'unacknowledged', 'acknowledged', 'returned', 'shelved', 'suppressed', 'out_of_service')),
    value float8,                                            -- of the reading that caused it; NULL: a person or the end of a time did
    actor_name text,
    comment text
);
CREATE INDEX alarm_transitions_alarm ON alarm_transitions (alarm_id, id);
CREATE INDEX alarm_transitions_at ON alarm_transitions (at, id);

CREATE TABLE commands (                                      -- requested -> sent -> applied, refused, expired or unconfirmed
    id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id uuid NOT NULL UNIQUE,
    event_id int4 REFERENCES events ON DELETE SET NULL,
    event_name text NOT NULL,                                -- stays when the event goes, as the requester's
    source_id int4 REFERENCES sources ON DELETE SET NULL,    -- who is to apply it
    value float8 NOT NULL CHECK (value - value = 0),         -- finite
    ttl_ms int4 NOT NULL CHECK (ttl_ms BETWEEN 1 AND 300000),
    state text NOT NULL DEFAULT 'requested' CHECK (state IN ('requested', 'sent', 'applied', 'refused', 'expired', 'unconfirmed')),
    requested_by text NOT NULL,
    requested_by_kind text NOT NULL CHECK (requested_by_kind IN ('user', 'token', 'rule')),
    rule_id int4 REFERENCES rules ON DELETE SET NULL,
    requested_on timestamptz NOT NULL,
    expires_on timestamptz NOT NULL,
    sent_on timestamptz,
    done_on timestamptz,
    value_before float8,
    read_back float8,                                        -- what the device reported afterwards
    reason text,                                             -- of a refusal, in words
    CHECK (expires_on > requested_on),
    CHECK ((done_on IS NULL) = (state IN ('requested', 'sent'))),
    CHECK (sent_on IS NOT NULL OR state IN ('requested', 'refused', 'expired')),   -- those two may happen before it is sent
    CHECK (sent_on IS NULL OR state <> 'requested'),
    CHECK ((state = 'refused') = (reason IS NOT NULL)),
    CHECK (state <> 'applied' OR read_back IS NOT NULL)
);
CREATE INDEX commands_open ON commands (source_id, id) WHERE state IN ('requested', 'sent');
CREATE INDEX commands_due ON commands (expires_on) WHERE state IN ('requested', 'sent');
CREATE INDEX commands_event ON commands (event_id, id);
CREATE INDEX commands_source ON commands (source_id, id);
CREATE INDEX commands_rule ON commands (rule_id, id);
CREATE INDEX commands_requested ON commands (requested_on, id);
