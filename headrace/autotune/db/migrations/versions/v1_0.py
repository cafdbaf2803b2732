"""Schema 1.0: observations, and facts about the file and the machine."""

import sqlalchemy as sa
from alembic import op

revision = "v1.0"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "observations",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("op", sa.String(64), nullable=False),
        *(
            sa.Column(name, sa.String, nullable=False)
            for name in ("spec", "sizes", "bucket", "numerics", "dataflow", "schedule", "template_digest")
        ),
        *(
            sa.Column(name, sa.String, nullable=False)
            for name in ("hard", "device", "versions", "policy", "race")
        ),
        sa.Column("baseline", sa.Integer, nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("cause", sa.String, nullable=False),
        *(sa.Column(name, sa.Float) for name in ("median", "low", "high")),
        sa.Column("samples", sa.String, nullable=False),
        sa.Column("evidence", sa.String, nullable=False),
    )
    op.create_index("observations_by_op", "observations", ["op", "hard"])
    op.create_table(
        "meta",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
    )
