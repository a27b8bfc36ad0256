-- A dashboard for all has its name to itself, as a document of the configuration finds it by that. Of several of one name the first keeps
-- it; each of the others gets the first number that is free behind it, as a change with its version and its row of the audit log.

DO $$
DECLARE
    renamed record;
    number int4;
    wanted text;
BEGIN
    FOR renamed IN
        SELECT id, public_id, name, version
          FROM (SELECT *, row_number() OVER (PARTITION BY name ORDER BY id) AS place FROM dashboards WHERE is_global) d
         WHERE place > 1 ORDER BY id
    LOOP
        number := 1;
        LOOP
            number := number + 1;
            wanted := left(renamed.name, 199 - length(number::text)) || ' ' || number;
            EXIT WHEN NOT EXISTS (SELECT FROM dashboards WHERE is_global AND name = wanted);
        END LOOP;
        UPDATE dashboards SET name = wanted, changed_on = now(), version = version + 1 WHERE id = renamed.id;
        INSERT INTO versions (kind, object_public_id, version, at, content)
        SELECT kind, object_public_id, version + 1, now(),
               content || jsonb_build_object('name', wanted, 'version', version + 1, 'changed_on', now())
          FROM versions WHERE kind = 'dashboard' AND object_public_id = renamed.public_id AND version = renamed.version;
        INSERT INTO audit_log (at, action, kind, object_public_id, object_name, actor_kind, before, after, detail)
        VALUES (now(), 'update', 'dashboard', renamed.public_id, wanted, 'system', jsonb_build_object('name', renamed.name),
                jsonb_build_object('name', wanted), 'another dashboard for all has its name');
    END LOOP;
END $$;

CREATE UNIQUE INDEX dashboards_for_all ON dashboards (name) WHERE is_global;
