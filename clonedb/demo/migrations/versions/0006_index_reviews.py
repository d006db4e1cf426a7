"""An index for the reviews of a product, in the order of time.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        op.f("ix_reviews_product_id_created_at"), "reviews", ["product_id", "created_at"]
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_reviews_product_id_created_at"), table_name="reviews")
