"""Ratings with one decimal.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.alter_column("reviews", "rating", existing_type=sa.Integer(), type_=sa.Numeric(2, 1))


def downgrade() -> None:
    # PostgreSQL adapts the check to the new type, and on the way back it would compare integers
    # as decimals
    op.drop_constraint(op.f("ck_reviews_rating_from_1_to_5"), "reviews", type_="check")
    op.alter_column(
        "reviews",
        "rating",
        existing_type=sa.Numeric(2, 1),
        type_=sa.Integer(),
        postgresql_using="round(rating)::integer",
    )
    op.create_check_constraint(
        op.f("ck_reviews_rating_from_1_to_5"), "reviews", "rating >= 1 AND rating <= 5"
    )
