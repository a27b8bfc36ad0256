"""Events that were deleted and whose readings were kept, and what an experiment covers, frozen by id and name."""

from pathlib import Path

from alembic import op
from sqlalchemy.util import await_only

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    statements = Path(__file__).with_name("0011_deleted_events.sql").read_text("utf-8")
    connection = op.get_bind().connection.driver_connection
    await_only(connection.execute(statements))  # the driver's own call: the only one that takes a whole file


def downgrade() -> None:
    bind = op.get_bind()
    for statement in (
        "DELETE FROM events WHERE deleted_on IS NOT NULL",
        "DELETE FROM experiment_events m WHERE NOT EXISTS (SELECT FROM events e WHERE e.id = m.event_id)",
        "ALTER TABLE experiment_events DROP event_public_id, DROP event_name,"
        " ADD CONSTRAINT experiment_events_event_id_fkey FOREIGN KEY (event_id) REFERENCES events ON DELETE CASCADE",
        "DROP INDEX events_name",
        "ALTER TABLE events DROP deleted_on, ADD CONSTRAINT events_name_key UNIQUE (name)",
    ):
        bind.exec_driver_sql(statement)
