"""A dashboard for all has its name to itself."""

from pathlib import Path

from alembic import op
from sqlalchemy.util import await_only

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    statements = Path(__file__).with_name("0012_dashboards_for_all.sql").read_text("utf-8")
    connection = op.get_bind().connection.driver_connection
    await_only(connection.execute(statements))  # the driver's own call: the only one that takes a whole file


def downgrade() -> None:
    op.get_bind().exec_driver_sql("DROP INDEX dashboards_for_all")
