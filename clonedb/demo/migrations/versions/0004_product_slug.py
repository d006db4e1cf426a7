"""Give every product a slug, made from its name.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("products", sa.Column("slug", sa.Text(), nullable=True))

    # the first product of a name gets the name's own slug, later ones their number behind two
    # hyphens: a slug made from a name never has two hyphens in a row, so none is given twice
    op.execute(
        """
        WITH named AS (
            SELECT id, number, coalesce(
                nullif(trim(BOTH '-' FROM regexp_replace(lower(name), '[^a-z0-9]+', '-', 'g')), ''), 'product'
            ) AS slug
            FROM products
        ), ranked AS (
            SELECT id, number, slug, row_number() OVER (PARTITION BY slug ORDER BY number) AS place FROM named
        )
        UPDATE products
        SET slug = CASE WHEN ranked.place = 1 THEN ranked.slug ELSE ranked.slug || '--' || ranked.number END
        FROM ranked WHERE ranked.id = products.id
        """
    )
    op.alter_column("products", "slug", nullable=False)
    op.create_unique_constraint(op.f("uq_products_slug"), "products", ["slug"])


def downgrade() -> None:
    op.drop_column("products", "slug")
