"""The tables of automation and dashboards: log, rules in full, webhooks with their outbox, updates, dashboards, alarms, commands."""

from pathlib import Path

from alembic import op
from sqlalchemy.util import await_only

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    statements = Path(__file__).with_name("0009_automation.sql").read_text("utf-8")
    connection = op.get_bind().connection.driver_connection
    await_only(connection.execute(statements))  # the driver's own call: the only one that takes a whole file


def downgrade() -> None:
    bind = op.get_bind()
    for statement in (
        "DROP TABLE commands, alarm_transitions, alarms, dashboard_widget_events, dashboard_widgets, dashboards, firmware_updates,"
        " webhook_deliveries, webhook_events, webhooks, log_status, log_entries",
        "DROP FUNCTION log_words",
        "ALTER TABLE rules DROP description, DROP severity, DROP dead_band, DROP for_ms, DROP clear_for_ms, DROP cooldown_seconds,"
        " DROP actions, DROP created_on, DROP changed_on, DROP version",
        "ALTER TABLE rules RENAME state_changed_on TO changed_on",
    ):
        bind.exec_driver_sql(statement)
