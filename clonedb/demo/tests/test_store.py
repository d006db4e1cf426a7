"""What the shop promises, tested through its own functions, which commit."""

from __future__ import annotations

from decimal import Decimal

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from clonedb.demo.shop import store
from clonedb.demo.shop.models import ProductStatus


def test_the_database_fills_in_what_a_new_product_leaves_out(clonedb_session: Session) -> None:
    """The key, the number, the status and the times of a product are made by PostgreSQL."""
    assert store.overview(clonedb_session) == store.NEW_SHOP
    product = store.add_product(clonedb_session, "Reading lamp", "39.90", category="lighting")
    assert product.id.version == 4
    assert product.number == 1001
    assert product.status is ProductStatus.DRAFT
    assert product.created_at == product.updated_at


@pytest.mark.parametrize(
    ("name", "slug"),
    [("Reading Lamp (red)", "reading-lamp-red"), ("  100 % wool!", "100-wool")],
)
def test_the_slug_is_made_from_the_name(clonedb_session: Session, name: str, slug: str) -> None:
    """Letters and digits stay; whatever is between them becomes one hyphen."""
    assert store.overview(clonedb_session) == store.NEW_SHOP
    assert store.add_product(clonedb_session, name, "1.00").slug == slug
    assert store.publish(clonedb_session, slug).name == name


def test_the_average_rating_is_a_decimal(clonedb_session: Session) -> None:
    """Ratings keep their decimal, and their mean has two."""
    assert store.overview(clonedb_session) == store.NEW_SHOP
    store.add_product(clonedb_session, "Teapot", "18.00")
    assert store.average_rating(clonedb_session, "teapot") is None
    for author, rating in [("Ada", "4.5"), ("Grace", "3.0"), ("Edsger", "4.0")]:
        store.review_product(clonedb_session, "teapot", author=author, rating=rating)
    assert store.average_rating(clonedb_session, "teapot") == Decimal("3.83")


@pytest.mark.parametrize("rating", ["0.9", "5.1"])
def test_a_rating_is_from_one_to_five(clonedb_session: Session, rating: str) -> None:
    """The database refuses any other, and the session goes on in a new transaction."""
    assert store.overview(clonedb_session) == store.NEW_SHOP
    store.add_product(clonedb_session, "Teapot", "18.00")
    with pytest.raises(IntegrityError, match="rating_from_1_to_5"):
        store.review_product(clonedb_session, "teapot", author="Ada", rating=rating)
    clonedb_session.rollback()
    store.review_product(clonedb_session, "teapot", author="Ada", rating="5")
    assert store.overview(clonedb_session).reviews == 1


def test_search_finds_published_products_only(clonedb_session: Session) -> None:
    """Drafts stay hidden, and a percent sign is looked for like any other character."""
    assert store.overview(clonedb_session) == store.NEW_SHOP
    for name in ("Wool blanket", "Wool socks, 80 %", "Woollen hat"):
        store.add_product(clonedb_session, name, "25.00")
    store.publish(clonedb_session, "wool-socks-80")
    store.publish(clonedb_session, "woollen-hat")
    assert [product.name for product in store.search(clonedb_session, "WOOL")] == [
        "Wool socks, 80 %",
        "Woollen hat",
    ]
    assert [product.name for product in store.search(clonedb_session, "%")] == [
        "Wool socks, 80 %"
    ]


def test_what_is_not_in_the_shop_is_named(clonedb_session: Session) -> None:
    """An unknown product or category is an error with its name in it."""
    assert store.overview(clonedb_session) == store.NEW_SHOP
    with pytest.raises(store.NotInShopError, match="no category 'boats'"):
        store.add_product(clonedb_session, "Canoe", "900.00", category="boats")
    with pytest.raises(store.NotInShopError, match="no product 'canoe'"):
        store.publish(clonedb_session, "canoe")
