"""The tables of changes: audit log, versions, idempotency keys; and a version on what people edit."""

from pathlib import Path

from alembic import op
from sqlalchemy.util import await_only

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    statements = Path(__file__).with_name("0003_changes.sql").read_text("utf-8")
    connection = op.get_bind().connection.driver_connection
    await_only(connection.execute(statements))  # the driver's own call: the only one that takes a whole file


def downgrade() -> None:
    bind = op.get_bind()
    for statement in (
        "DROP TABLE idempotency_keys, versions, audit_log",
        "DROP FUNCTION refuse_change",
        "ALTER TABLE events DROP version",
        "ALTER TABLE experiments DROP version",
        "ALTER TABLE sources DROP version",
    ):
        bind.exec_driver_sql(statement)
