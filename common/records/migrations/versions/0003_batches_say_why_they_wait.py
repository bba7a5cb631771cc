"""A batch says what it waits for."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
usable_by = "0001"  # a new table and a column that may be empty


def upgrade() -> None:
    op.add_column("batches", sa.Column("waiting_for", sa.Text(), nullable=True))
