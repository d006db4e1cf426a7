"""The tables of the shop, as its code sees them; how they came about is told by the migrations."""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from decimal import Decimal
from typing import Any, ClassVar

from sqlalchemy import (
    CheckConstraint,
    DateTime,
    Enum,
    FetchedValue,
    ForeignKey,
    Identity,
    Index,
    MetaData,
    Numeric,
    SmallInteger,
    Text,
    Uuid,
    func,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

__all__ = ["Base", "Category", "Product", "ProductStatus", "Review"]


class Base(DeclarativeBase):
    """Constraints are named by rule, so that a migration can name the one it drops."""

    metadata: ClassVar[MetaData] = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        },
    )


class ProductStatus(enum.StrEnum):
    """Where a product stands between its first draft and the end of its sale."""

    DRAFT = "draft"
    PUBLISHED = "published"
    RETIRED = "retired"


class Category(Base):
    """A shelf of the shop; the migrations bring the rows."""

    __tablename__ = "categories"

    id: Mapped[int] = mapped_column(SmallInteger, Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)


class Product(Base):
    """Something to sell, found by its slug and printed on invoices by its number."""

    __tablename__ = "products"
    __table_args__: Any = (CheckConstraint("price >= 0", name="price_not_negative"),)

    id: Mapped[uuid.UUID] = mapped_column(
        Uuid, primary_key=True, server_default=text("gen_random_uuid()")
    )
    number: Mapped[int] = mapped_column(Identity(start=1001), unique=True)
    name: Mapped[str] = mapped_column(Text)
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    created_at: Mapped[dt.datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now()
    )
    status: Mapped[ProductStatus] = mapped_column(
        Enum(
            ProductStatus,
            name="product_status",
            values_callable=lambda statuses: [status.value for status in statuses],
        ),
        server_default=ProductStatus.DRAFT.value,
    )
    slug: Mapped[str] = mapped_column(Text, unique=True)
    category_id: Mapped[int] = mapped_column(ForeignKey(Category.id))
    updated_at: Mapped[dt.datetime] = mapped_column(
        DateTime(timezone=True),
        server_default=func.now(),
        server_onupdate=FetchedValue(),  # a trigger writes it
    )

    category: Mapped[Category] = relationship()
    reviews: Mapped[list[Review]] = relationship(back_populates="product", passive_deletes=True)


class Review(Base):
    """What one customer thinks of a product; it goes when the product goes."""

    __tablename__ = "reviews"
    __table_args__: Any = (
        CheckConstraint("rating >= 1 AND rating <= 5", name="rating_from_1_to_5"),
        Index(None, "product_id", "created_at"),
    )

    id: Mapped[uuid.UUID] = mapped_column(
        Uuid, primary_key=True, server_default=text("gen_random_uuid()")
    )
    product_id: Mapped[uuid.UUID] = mapped_column(ForeignKey(Product.id, ondelete="CASCADE"))
    author: Mapped[str] = mapped_column(Text)
    rating: Mapped[Decimal] = mapped_column(Numeric(2, 1))
    body: Mapped[str] = mapped_column(Text, server_default="")
    created_at: Mapped[dt.datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now()
    )

    product: Mapped[Product] = relationship(back_populates="reviews")
