"""The tables of the spine: people, sources, streams, events, experiments, readings, gaps, rules."""

from pathlib import Path

from alembic import op
from sqlalchemy.util import await_only

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    statements = Path(__file__).with_name("0001_the_spine.sql").read_text("utf-8")
    connection = op.get_bind().connection.driver_connection
    await_only(connection.execute(statements))  # the driver's own call: the only one that takes a whole file


def downgrade() -> None:
    op.get_bind().exec_driver_sql(
        "DROP TABLE rule_transitions, rules, quality, gaps, latest, datapoints, experiment_events, experiments, events,"
        " receipts, streams, flushes, writers, sources, socket_tickets, blacklist_tokens, users"
    )
