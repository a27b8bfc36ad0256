"""Events that were deleted and whose readings were kept, and what an experiment covers, frozen by id and name."""

from pathlib import Path

from alembic import op
from sqlalchemy.util import await_only

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


REVIVE = """
DO $$
DECLARE
    revived record;
    number int4;
    wanted text;
BEGIN
    FOR revived IN SELECT id, public_id, name, version, deleted_on FROM events WHERE deleted_on IS NOT NULL ORDER BY id LOOP
        number := 1;
        wanted := revived.name;
        WHILE EXISTS (SELECT FROM events WHERE deleted_on IS NULL AND name = wanted) LOOP
            number := number + 1;
            wanted := left(revived.name, 399 - length(number::text)) || ' ' || number;
        END LOOP;
        UPDATE events SET deleted_on = NULL, name = wanted, writer_id = DEFAULT, instance = NULL, changed_on = now(), version = version + 1
         WHERE id = revived.id;
        INSERT INTO versions (kind, object_public_id, version, at, content)
        SELECT kind, object_public_id, revived.version + 1, now(),
               content || jsonb_build_object('name', wanted, 'source', NULL, 'instance', NULL, 'channel_key', NULL,
                                             'version', revived.version + 1, 'changed_on', now())
          FROM versions WHERE kind = 'event' AND object_public_id = revived.public_id AND content IS NOT NULL
         ORDER BY version DESC LIMIT 1;
        INSERT INTO audit_log (at, action, kind, object_public_id, object_name, actor_kind, before, after, detail)
        VALUES (now(), 'update', 'event', revived.public_id, wanted, 'system',
                jsonb_build_object('name', revived.name, 'deleted_on', revived.deleted_on),
                jsonb_build_object('name', wanted, 'deleted_on', NULL),
                'it was deleted; the schema before 0011 keeps readings of live events only');
    END LOOP;
END $$
"""
"""On the way back: deleting these events would leave their readings without a name. Of a name that is taken each gets the first number
that is free behind it."""


def upgrade() -> None:
    statements = Path(__file__).with_name("0011_deleted_events.sql").read_text("utf-8")
    connection = op.get_bind().connection.driver_connection
    await_only(connection.execute(statements))  # the driver's own call: the only one that takes a whole file


def downgrade() -> None:
    bind = op.get_bind()
    for statement in (
        REVIVE,
        "DELETE FROM experiment_events m WHERE NOT EXISTS (SELECT FROM events e WHERE e.id = m.event_id)",
        "ALTER TABLE experiment_events DROP event_public_id, DROP event_name,"
        " ADD CONSTRAINT experiment_events_event_id_fkey FOREIGN KEY (event_id) REFERENCES events ON DELETE CASCADE",
        "DROP INDEX events_name",
        "ALTER TABLE events DROP deleted_on, ADD CONSTRAINT events_name_key UNIQUE (name)",
    ):
        bind.exec_driver_sql(statement)
