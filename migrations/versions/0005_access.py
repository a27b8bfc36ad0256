"""The tables of access: sessions, API tokens, and what people set for themselves."""

from pathlib import Path

from alembic import op
from sqlalchemy.util import await_only

revision = "0005"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    statements = Path(__file__).with_name("0005_access.sql").read_text("utf-8")
    connection = op.get_bind().connection.driver_connection
    await_only(connection.execute(statements))  # the driver's own call: the only one that takes a whole file


def downgrade() -> None:
    bind = op.get_bind()
    for statement in (
        "DROP TABLE sessions, api_tokens",
        "DELETE FROM socket_tickets",
        "DROP INDEX socket_tickets_user",
        "ALTER TABLE socket_tickets DROP token_hash",
        "ALTER TABLE socket_tickets ALTER jti SET NOT NULL, ALTER session_expires_on SET NOT NULL, ALTER session_issued_on SET NOT NULL",
        "ALTER TABLE users DROP last_login_on, DROP password_changed_on, DROP initial_password_until, DROP language, DROP time_zone,"
        " DROP theme, DROP version",
    ):
        bind.exec_driver_sql(statement)
