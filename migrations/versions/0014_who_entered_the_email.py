"""Whether somebody other than the user vouches for the e-mail: only such a one is linked at the first single sign-on."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    bind = op.get_bind()
    for statement in (
        "ALTER TABLE users ADD email_vouched bool NOT NULL DEFAULT true",
        # those who have entered one themselves by now
        """UPDATE users u SET email_vouched = false WHERE EXISTS (
               SELECT FROM audit_log a WHERE a.kind = 'user' AND a.action = 'update' AND a.object_public_id = u.public_id
                                         AND a.actor_public_id = u.public_id AND a.after ? 'email')""",
    ):
        bind.exec_driver_sql(statement)


def downgrade() -> None:
    op.get_bind().exec_driver_sql("ALTER TABLE users DROP email_vouched")
