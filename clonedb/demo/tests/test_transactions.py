"""Real commits and real transactions: what a session inside one outer transaction cannot show."""

from __future__ import annotations

import pytest
from psycopg import Connection
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from clonedb.demo.shop import store
from clonedb.demo.shop.models import Product


def test_a_second_connection_sees_what_is_committed(
    clonedb_session: Session, clonedb_engine: Engine
) -> None:
    """A row is invisible to others until the commit, and visible from then on."""
    assert store.overview(clonedb_session) == store.NEW_SHOP
    count = text("SELECT count(*) FROM reviews")
    store.add_product(clonedb_session, "Teapot", "18.00")
    clonedb_session.execute(
        text(
            "INSERT INTO reviews (product_id, author, rating) SELECT id, 'Ada', 4 FROM products"
        )
    )
    with clonedb_engine.connect() as other:
        assert other.scalar(count) == 0
        clonedb_session.commit()
        assert other.scalar(count) == 1


def test_a_refused_insert_does_not_end_the_test(clonedb_session: Session) -> None:
    """After an IntegrityError the work committed before is still there, and the next transaction works."""
    assert store.overview(clonedb_session) == store.NEW_SHOP
    store.add_product(clonedb_session, "Teapot", "18.00")
    with pytest.raises(IntegrityError, match="uq_products_slug"):
        store.add_product(clonedb_session, "teapot", "19.00")
    clonedb_session.rollback()
    store.add_product(clonedb_session, "Milk jug", "9.00")
    names = clonedb_session.scalars(select(Product.name).order_by(Product.number)).all()
    assert names == ["Teapot", "Milk jug"]


def test_a_rolled_back_insert_uses_up_its_number(clonedb_session: Session) -> None:
    """Sequences do not roll back, so the next product's number leaves a gap."""
    assert store.overview(clonedb_session) == store.NEW_SHOP
    insert = "INSERT INTO products (name, price, slug, category_id) SELECT 'Urn', 1, 'urn', id FROM categories LIMIT 1"
    clonedb_session.execute(text(insert))
    clonedb_session.rollback()
    assert store.add_product(clonedb_session, "Teapot", "18.00").number == 1002


def test_a_change_moves_the_time_of_change(clonedb_session: Session) -> None:
    """The trigger writes now(), which stands still within a transaction: two commits have two times."""
    assert store.overview(clonedb_session) == store.NEW_SHOP
    created = store.add_product(clonedb_session, "Teapot", "18.00").created_at
    changed = store.publish(clonedb_session, "teapot")
    assert changed.updated_at > changed.created_at == created


def test_reviews_go_with_their_product(
    clonedb_session: Session, clonedb_connection: Connection
) -> None:
    """ON DELETE CASCADE is the database's work, as another connection sees."""
    assert store.overview(clonedb_session) == store.NEW_SHOP
    store.add_product(clonedb_session, "Teapot", "18.00")
    store.review_product(clonedb_session, "teapot", author="Ada", rating="2.5")
    assert clonedb_connection.execute("SELECT author FROM reviews").fetchall() == [("Ada",)]
    store.remove_product(clonedb_session, "teapot")
    assert clonedb_connection.execute("SELECT author FROM reviews").fetchall() == []


def test_a_test_may_change_the_schema(clonedb_session: Session, clonedb_engine: Engine) -> None:
    """Tables and columns made here are committed, used from another connection, and gone with the clone."""
    assert store.overview(clonedb_session) == store.NEW_SHOP
    clonedb_session.execute(text("CREATE TABLE leftovers (name text PRIMARY KEY)"))
    clonedb_session.execute(
        text("ALTER TABLE products ADD COLUMN weight integer CHECK (weight > 0)")
    )
    clonedb_session.commit()
    with clonedb_engine.begin() as other:
        other.execute(text("INSERT INTO leftovers VALUES ('teapot')"))
        assert other.scalar(text("SELECT count(weight) FROM products")) == 0


def test_an_index_may_be_built_concurrently(clonedb_connection: Connection) -> None:
    """CREATE INDEX CONCURRENTLY refuses to run inside a transaction, so inside a test's rollback too."""
    clonedb_connection.autocommit = True
    rows = "SELECT (SELECT count(*) FROM products), (SELECT count(*) FROM categories)"
    assert clonedb_connection.execute(rows).fetchone() == (0, len(store.CATEGORIES))
    clonedb_connection.execute(
        "CREATE INDEX CONCURRENTLY products_by_price ON products (price)"
    )
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'products_by_price'::regclass"
    assert clonedb_connection.execute(valid).fetchone() == (True,)
