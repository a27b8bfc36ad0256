-- An event that is deleted stays while its readings are kept (docs/decisions/0016-deleted-events-stay-with-their-readings.md).

ALTER TABLE events
    ADD deleted_on timestamptz,                              -- NULL: it lives
    ADD CHECK (deleted_on IS NULL OR channel_key IS NULL),   -- the source's channel may have another event then ...
    DROP CONSTRAINT events_name_key;
CREATE UNIQUE INDEX events_name ON events (name) WHERE deleted_on IS NULL;  -- ... and the name, too

ALTER TABLE experiment_events                                -- no reference: what an experiment covered is true also when the event is gone
    DROP CONSTRAINT experiment_events_event_id_fkey,
    ADD event_public_id uuid,
    ADD event_name text;                                     -- as it was called at the start
UPDATE experiment_events m SET event_public_id = e.public_id, event_name = e.name FROM events e WHERE e.id = m.event_id;
ALTER TABLE experiment_events ALTER event_public_id SET NOT NULL, ALTER event_name SET NOT NULL;
