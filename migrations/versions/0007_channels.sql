-- What an event is besides a channel: where it belongs, how it is judged, shown and kept; experiments' parameters; annotations.

ALTER TABLE events
    ADD description text NOT NULL DEFAULT '' CHECK (length(description) <= 2000),
    ADD path text COLLATE "C" NOT NULL DEFAULT '' CHECK (length(path) <= 500),  -- plant/line/machine; "C", so that a subtree is a range
    ADD tags text[] NOT NULL DEFAULT '{}',
    ADD limit_lolo float8,
    ADD limit_lo float8,
    ADD limit_hi float8,
    ADD limit_hihi float8,
    ADD deadband float8 CHECK (deadband >= 0),
    ADD colour text CHECK (colour ~ '^#[0-9a-fA-F]{6}$'),
    ADD raw_retention_days int4 CHECK (raw_retention_days > 0),                 -- NULL: the installation's
    ADD statistics_retention_days int4 CHECK (statistics_retention_days > 0),
    ADD critical bool NOT NULL DEFAULT false,
    ADD CHECK (statistics_retention_days >= raw_retention_days);
CREATE INDEX events_path ON events (path);
CREATE INDEX events_tags ON events USING gin (tags);

ALTER TABLE experiments ADD parameters jsonb NOT NULL DEFAULT '{}';
CREATE INDEX experiments_tags ON experiments USING gin (tags);

CREATE TABLE annotations (
    id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    public_id uuid NOT NULL UNIQUE,
    from_on timestamptz NOT NULL,
    to_on timestamptz,                                       -- NULL: a point
    text text NOT NULL CHECK (length(text) BETWEEN 1 AND 10000),
    tags text[] NOT NULL DEFAULT '{}',
    scoped bool NOT NULL,                                    -- false: it concerns every channel
    experiment_id int4 REFERENCES experiments ON DELETE SET NULL,
    author_name text NOT NULL,                               -- a name, not a reference: people leave, what they noted stays
    author_public_id uuid NOT NULL,
    created_on timestamptz NOT NULL,
    changed_on timestamptz NOT NULL,
    version int4 NOT NULL DEFAULT 1,
    CHECK (to_on > from_on)
);
CREATE INDEX annotations_time ON annotations USING gist (tstzrange(from_on, coalesce(to_on, from_on), '[]'));
CREATE INDEX annotations_from ON annotations (from_on DESC, id DESC);
CREATE INDEX annotations_tags ON annotations USING gin (tags);
CREATE INDEX annotations_experiment ON annotations (experiment_id) WHERE experiment_id IS NOT NULL;

CREATE TABLE annotation_events (
    annotation_id int8 NOT NULL REFERENCES annotations ON DELETE CASCADE,
    event_id int4 NOT NULL REFERENCES events ON DELETE CASCADE,
    PRIMARY KEY (annotation_id, event_id)
);
CREATE INDEX annotation_events_event ON annotation_events (event_id);
