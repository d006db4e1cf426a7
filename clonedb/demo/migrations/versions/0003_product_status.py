"""A status instead of the flag: published products keep being published, all others are drafts.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

product_status: sa.Enum = sa.Enum("draft", "published", "retired", name="product_status")


def upgrade() -> None:
    product_status.create(op.get_bind())
    op.add_column(
        "products", sa.Column("status", product_status, server_default="draft", nullable=False)
    )
    op.execute("UPDATE products SET status = 'published' WHERE published")
    op.drop_column("products", "published")


def downgrade() -> None:
    op.add_column(
        "products",
        sa.Column("published", sa.Boolean(), server_default=sa.false(), nullable=False),
    )
    op.execute("UPDATE products SET published = true WHERE status = 'published'")
    op.drop_column("products", "status")
    product_status.drop(op.get_bind())
