-- Devices as they are configured: instances of plugins on a source, their channels, and the packages that bring plugins.

CREATE TABLE plugin_instances (
    id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id uuid NOT NULL UNIQUE,
    source_id int4 NOT NULL REFERENCES sources ON DELETE CASCADE,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    plugin_id text NOT NULL CHECK (length(plugin_id) BETWEEN 1 AND 100),
    enabled bool NOT NULL DEFAULT true,
    demo_mode bool NOT NULL DEFAULT false,
    auto_create_events bool NOT NULL DEFAULT true,
    settings jsonb NOT NULL DEFAULT '{}',                    -- wanted; the source takes them over with its configuration
    settings_schema jsonb,                                   -- JSON Schema, as the source describes it; NULL: not yet described
    described_on timestamptz,
    created_on timestamptz NOT NULL,
    changed_on timestamptz NOT NULL,                         -- by people
    version int4 NOT NULL DEFAULT 1,
    UNIQUE (source_id, name)
);
CREATE INDEX plugin_instances_plugin ON plugin_instances (plugin_id);

CREATE TABLE channel_mappings (                              -- the event of a channel is the one with its source's writer and its key
    id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id uuid NOT NULL UNIQUE,
    instance_id int4 NOT NULL REFERENCES plugin_instances ON DELETE CASCADE,
    channel_key text NOT NULL CHECK (length(channel_key) BETWEEN 1 AND 100),
    name text NOT NULL,
    unit text NOT NULL,
    type text NOT NULL CHECK (type IN ('sensor', 'actuator', 'range', 'cmd_button', 'cmd_opened', 'cmd_closed')),
    min_value float8,
    max_value float8,
    decimals int2,
    expected_interval_ms int4,
    described bool NOT NULL,                                 -- false: the source has (no longer) such a channel
    created_on timestamptz NOT NULL,
    version int4 NOT NULL DEFAULT 1,
    UNIQUE (instance_id, channel_key)
);
CREATE INDEX channel_mappings_key ON channel_mappings (channel_key);

ALTER TABLE sources ADD described_digest bytea;              -- SHA-256 of the describe that was taken over last

CREATE TABLE plugin_packages (
    id int4 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id uuid NOT NULL UNIQUE,
    name text NOT NULL,                                      -- of the distribution, normalised
    version text NOT NULL,
    summary text NOT NULL,
    requires_python text,
    plugin_ids text[] NOT NULL CHECK (cardinality(plugin_ids) > 0),
    file_name text NOT NULL,                                 -- on the disk it is called by its SHA-256
    size int8 NOT NULL,
    sha256 text NOT NULL UNIQUE,
    uploaded_by text,
    created_on timestamptz NOT NULL,
    UNIQUE (name, version)
);
