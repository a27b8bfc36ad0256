"""The tables of single sign-on, and people without a password."""

from pathlib import Path

from alembic import op
from sqlalchemy.util import await_only

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    statements = Path(__file__).with_name("0006_sso.sql").read_text("utf-8")
    connection = op.get_bind().connection.driver_connection
    await_only(connection.execute(statements))  # the driver's own call: the only one that takes a whole file


def downgrade() -> None:
    bind = op.get_bind()
    for statement in (
        "DROP TABLE sso_logins, sso_identities",
        "UPDATE users SET password_hash = '' WHERE password_hash IS NULL",
        "ALTER TABLE users ALTER password_hash SET NOT NULL",
    ):
        bind.exec_driver_sql(statement)
