"""Categories, with their rows; the products that are there go to the last one.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    categories = op.create_table(
        "categories",
        sa.Column("id", sa.SmallInteger(), sa.Identity(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_categories")),
        sa.UniqueConstraint("name", name=op.f("uq_categories_name")),
    )
    op.bulk_insert(
        categories,
        [{"name": name} for name in ("books", "garden", "kitchen", "lighting", "other")],
    )
    op.add_column("products", sa.Column("category_id", sa.SmallInteger(), nullable=True))
    op.execute(
        "UPDATE products SET category_id = (SELECT id FROM categories WHERE name = 'other')"
    )
    op.alter_column("products", "category_id", nullable=False)
    op.create_foreign_key(
        op.f("fk_products_category_id"), "products", "categories", ["category_id"], ["id"]
    )


def downgrade() -> None:
    op.drop_column("products", "category_id")
    op.drop_table("categories")
