"""Schema 1.1: the decisions of compiled graphs, and the history of tuning runs."""

import sqlalchemy as sa
from alembic import op

revision = "v1.1"
down_revision = "v1.0"


def upgrade() -> None:
    op.create_table(
        "decisions",
        sa.Column("graph", sa.String(64), primary_key=True),
        *(sa.Column(name, sa.String, primary_key=True) for name in ("region", "sizes")),
        *(sa.Column(name, sa.String, nullable=False) for name in ("spec", "schedule", "rung")),
        sa.Column("seconds", sa.Float),
        sa.Column("reason", sa.String, nullable=False),
    )
    op.create_table(
        "runs",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String, nullable=False),
        *(sa.Column(name, sa.Float, nullable=False) for name in ("finished", "seconds")),
        *(
            sa.Column(name, sa.Integer, nullable=False)
            for name in ("tasks", "trials", "failures", "interrupted")
        ),
    )
    op.execute("UPDATE meta SET value = '1.1' WHERE key = 'schema_version'")
