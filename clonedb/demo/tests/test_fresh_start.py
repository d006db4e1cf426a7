"""Every test starts from the migrated database, whatever the tests before it committed."""

from __future__ import annotations

import pytest
from psycopg import Connection
from sqlalchemy import text
from sqlalchemy.orm import Session

from clonedb.demo.shop import store


@pytest.mark.parametrize(
    "havoc",
    [
        pytest.param("TRUNCATE categories CASCADE", id="rows"),
        pytest.param("SELECT setval('products_number_seq', 9000)", id="sequence"),
        pytest.param("DROP TABLE reviews; CREATE TABLE leftovers (id integer)", id="tables"),
        pytest.param("ALTER TYPE product_status ADD VALUE 'recalled'", id="enum"),
    ],
)
def test_nothing_is_left_of_what_other_tests_committed(
    clonedb_session: Session, havoc: str
) -> None:
    """The first product has the number 1001 in each of these tests, though each leaves damage behind."""
    assert store.overview(clonedb_session) == store.NEW_SHOP
    assert store.add_product(clonedb_session, "Reading lamp", "39.90").number == 1001
    clonedb_session.execute(text(havoc))
    clonedb_session.commit()


@pytest.mark.parametrize("run", ["first", "second"])
def test_a_review_left_behind_is_not_there_for_the_next_test(
    clonedb_session: Session, run: str
) -> None:
    """Two tests add the same product, whose slug is unique, and the same review."""
    assert store.overview(clonedb_session) == store.NEW_SHOP
    store.add_product(clonedb_session, "Teapot", "18.00", category="kitchen")
    store.review_product(
        clonedb_session, "teapot", author="Ada", rating="4.5", body=f"the {run} of two"
    )
    assert store.overview(clonedb_session).reviews == 1


def test_the_database_is_at_the_newest_revision(clonedb_connection: Connection) -> None:
    """The clone was migrated by Alembic, and the rows that the migrations bring are there."""
    assert clonedb_connection.execute("SELECT count(*) FROM products").fetchone() == (0,)
    assert clonedb_connection.execute("SELECT version_num FROM alembic_version").fetchall() == [
        ("0008",)
    ]
    names = clonedb_connection.execute("SELECT name FROM categories ORDER BY name").fetchall()
    assert [name for (name,) in names] == list(store.CATEGORIES)
