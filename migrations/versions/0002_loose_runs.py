"""The index by which compaction finds its work: runs that are raw, small or marked. Of a day that is over it holds next to nothing."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.get_bind().exec_driver_sql(
        "CREATE INDEX datapoints_loose ON datapoints (event_id, created_on) WHERE encoding = 0 OR n < 2048 OR overlapping"
    )


def downgrade() -> None:
    op.get_bind().exec_driver_sql("DROP INDEX datapoints_loose")
