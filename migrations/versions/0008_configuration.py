"""Settings, jobs, the lock of those who rewrite runs, and the order of versions."""

from pathlib import Path

from alembic import op
from sqlalchemy.util import await_only

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    statements = Path(__file__).with_name("0008_configuration.sql").read_text("utf-8")
    connection = op.get_bind().connection.driver_connection
    await_only(connection.execute(statements))  # the driver's own call: the only one that takes a whole file


def downgrade() -> None:
    bind = op.get_bind()
    for statement in (
        "DROP INDEX versions_object, versions_actor",
        "ALTER TABLE versions DROP id",
        "DROP TABLE rewriting, jobs, settings",
    ):
        bind.exec_driver_sql(statement)
