"""The tables of plugins: instances on sources, channels, packages."""

from pathlib import Path

from alembic import op
from sqlalchemy.util import await_only

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    statements = Path(__file__).with_name("0010_plugins.sql").read_text("utf-8")
    connection = op.get_bind().connection.driver_connection
    await_only(connection.execute(statements))  # the driver's own call: the only one that takes a whole file


def downgrade() -> None:
    bind = op.get_bind()
    bind.exec_driver_sql("DROP TABLE plugin_packages, channel_mappings, plugin_instances")
    bind.exec_driver_sql("ALTER TABLE sources DROP described_digest")
