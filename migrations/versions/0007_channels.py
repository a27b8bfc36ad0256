"""What events also hold (place, limits, looks, retention), parameters of experiments, and annotations."""

from pathlib import Path

from alembic import op
from sqlalchemy.util import await_only

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

EVENT_COLUMNS = (
    "description", "path", "tags", "limit_lolo", "limit_lo", "limit_hi", "limit_hihi", "deadband", "colour", "raw_retention_days",
    "statistics_retention_days", "critical",
)  # fmt: skip


def upgrade() -> None:
    statements = Path(__file__).with_name("0007_channels.sql").read_text("utf-8")
    connection = op.get_bind().connection.driver_connection
    await_only(connection.execute(statements))  # the driver's own call: the only one that takes a whole file


def downgrade() -> None:
    bind = op.get_bind()
    bind.exec_driver_sql("DROP TABLE annotation_events, annotations")
    bind.exec_driver_sql("ALTER TABLE experiments DROP parameters")
    bind.exec_driver_sql("DROP INDEX experiments_tags")
    bind.exec_driver_sql("ALTER TABLE events " + ", ".join(f"DROP {column}" for column in EVENT_COLUMNS))
