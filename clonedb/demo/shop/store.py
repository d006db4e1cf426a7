"""What the shop does. Each function that writes commits by itself, as a request of a real application would."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from clonedb.demo.shop.models import Category, Product, ProductStatus, Review

__all__ = [
    "CATEGORIES",
    "CHANNEL",
    "NEW_SHOP",
    "NotInShopError",
    "Overview",
    "add_product",
    "average_rating",
    "lock_next_draft",
    "overview",
    "publish",
    "remove_product",
    "review_product",
    "search",
    "slugify",
]

CATEGORIES = ("books", "garden", "kitchen", "lighting", "other")
CHANNEL = "published_products"


class NotInShopError(LookupError):
    """The shop has no such product or category."""


@dataclass(frozen=True, slots=True)
class Overview:
    """What is in the shop: how many products and reviews, and the names of the categories."""

    products: int
    reviews: int
    categories: tuple[str, ...]


NEW_SHOP = Overview(products=0, reviews=0, categories=CATEGORIES)


def overview(session: Session) -> Overview:
    """Count what is there; a shop that has just been migrated equals NEW_SHOP."""
    counted = select(
        select(func.count()).select_from(Product).scalar_subquery(),
        select(func.count()).select_from(Review).scalar_subquery(),
    )
    products, reviews = session.execute(counted).one()
    return Overview(
        products, reviews, tuple(session.scalars(select(Category.name).order_by(Category.name)))
    )


def slugify(name: str) -> str:
    """The part of a product's address that is made from its name: `Reading Lamp (red)` is `reading-lamp-red`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "product"


def add_product(
    session: Session, name: str, price: Decimal | str, *, category: str = "other"
) -> Product:
    """Put a draft into the shop; raises IntegrityError when another product has its slug."""
    shelf = session.scalar(select(Category).where(Category.name == category))
    if shelf is None:
        raise NotInShopError(f"there is no category {category!r}")
    product = Product(name=name, price=Decimal(price), slug=slugify(name), category=shelf)
    session.add(product)
    session.commit()
    return product


def publish(session: Session, slug: str) -> Product:
    """Show a product to customers, and notify the listeners on CHANNEL once it is committed."""
    product = _find(session, slug)
    product.status = ProductStatus.PUBLISHED
    session.execute(select(func.pg_notify(CHANNEL, slug)))
    session.commit()
    return product


def remove_product(session: Session, slug: str) -> None:
    """Take a product out of the shop, and with it what was said about it."""
    session.delete(_find(session, slug))
    session.commit()


def review_product(
    session: Session, slug: str, *, author: str, rating: Decimal | str, body: str = ""
) -> Review:
    """Add a review; raises IntegrityError when the rating is not from 1 to 5."""
    review = Review(
        product=_find(session, slug), author=author, rating=Decimal(rating), body=body
    )
    session.add(review)
    session.commit()
    return review


def average_rating(session: Session, slug: str) -> Decimal | None:
    """The mean of a product's ratings to two decimals, or None before the first review."""
    mean = func.round(func.avg(Review.rating), 2)
    return session.scalar(select(mean).where(Review.product_id == _find(session, slug).id))


def search(session: Session, words: str) -> list[Product]:
    """The published products with these words in their name, in the order of their names."""
    found = (
        select(Product)
        .where(
            Product.status == ProductStatus.PUBLISHED,
            Product.name.icontains(words, autoescape=True),
        )
        .order_by(Product.name)
    )
    return list(session.scalars(found))


def lock_next_draft(session: Session) -> Product | None:
    """The oldest draft that no other editor has open; it stays locked until the session's transaction ends."""
    drafts = (
        select(Product).where(Product.status == ProductStatus.DRAFT).order_by(Product.number)
    )
    return session.scalar(drafts.limit(1).with_for_update(skip_locked=True))


def _find(session: Session, slug: str) -> Product:
    product = session.scalar(select(Product).where(Product.slug == slug))
    if product is None:
        raise NotInShopError(f"there is no product {slug!r}")
    return product
