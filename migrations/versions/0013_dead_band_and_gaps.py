"""One spelling of the dead band, pages of gaps by their own order, and how far behind a source is."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

RESPELL = "UPDATE versions SET content = (content - '{0}') || jsonb_build_object('{1}', content -> '{0}') WHERE content ? '{0}'"


def upgrade() -> None:
    bind = op.get_bind()
    for statement in (
        "ALTER TABLE events RENAME deadband TO dead_band",
        RESPELL.format("deadband", "dead_band") + " AND kind = 'event'",
        "DROP INDEX gaps_source",
        "CREATE INDEX gaps_source ON gaps (source_id, id)",
        "CREATE INDEX gaps_newest ON gaps (event_id, id)",
        "ALTER TABLE sources ADD lag_ms float8",
    ):
        bind.exec_driver_sql(statement)


def downgrade() -> None:
    bind = op.get_bind()
    for statement in (
        "ALTER TABLE sources DROP lag_ms",
        "DROP INDEX gaps_newest",
        "DROP INDEX gaps_source",
        "CREATE INDEX gaps_source ON gaps (source_id, created_on)",
        RESPELL.format("dead_band", "deadband") + " AND kind = 'event'",
        "ALTER TABLE events RENAME dead_band TO deadband",
    ):
        bind.exec_driver_sql(statement)
