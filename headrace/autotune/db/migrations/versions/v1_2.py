"""Schema 1.2: calibrations, the score ranges of attention sites."""

import sqlalchemy as sa
from alembic import op

revision = "v1.2"
down_revision = "v1.1"


def upgrade() -> None:
    op.create_table(
        "calibrations",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("fingerprint", sa.String(64), primary_key=True),
        sa.Column("site", sa.String, primary_key=True),
        sa.Column("head", sa.Integer, primary_key=True),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("form", sa.String, nullable=False),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("phi", "step")),
        sa.Column("row_limit", sa.Float, nullable=False),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("rows", "fallback_rows")),
        *(
            sa.Column(f"{what}_{end}", sa.Float, nullable=False)
            for what, ends in (("score", ("min", "low", "high", "max")), ("peak", ("min", "max")),
                               ("sum", ("min", "max")))
            for end in ends
        ),
        sa.Column("lengths", sa.String, nullable=False),
    )  # fmt: skip
    op.execute("UPDATE meta SET value = '1.2' WHERE key = 'schema_version'")
