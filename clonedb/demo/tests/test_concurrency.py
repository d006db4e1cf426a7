"""Several connections at once, and several databases."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import psycopg
import pytest
from psycopg import Connection, Notify
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from clonedb.clones.clone import Clone
from clonedb.demo.shop import store
from clonedb.demo.shop.models import ProductStatus


def test_two_editors_never_get_the_same_draft(
    clonedb_sessionmaker: sessionmaker[Session],
) -> None:
    """SELECT ... FOR UPDATE SKIP LOCKED gives each of two threads a draft of its own, and neither waits."""
    with clonedb_sessionmaker() as session:
        assert store.overview(session) == store.NEW_SHOP
        store.add_product(session, "Teapot", "18.00")
        store.add_product(session, "Milk jug", "9.00")

    both_have_one = Barrier(2, timeout=10)

    def edit() -> str:
        with clonedb_sessionmaker() as session:
            draft = store.lock_next_draft(session)
            assert draft is not None
            both_have_one.wait()
            return store.publish(session, draft.slug).slug

    with ThreadPoolExecutor(2) as editors:
        slugs = [editor.result() for editor in [editors.submit(edit), editors.submit(edit)]]
    assert sorted(slugs) == ["milk-jug", "teapot"]
    with clonedb_sessionmaker() as session:
        assert store.lock_next_draft(session) is None


def test_a_locked_row_is_locked_for_others(clonedb_sessionmaker: sessionmaker[Session]) -> None:
    """A second session that does not skip the lock gets PostgreSQL's own refusal."""
    with clonedb_sessionmaker() as editor, clonedb_sessionmaker() as other:
        assert store.overview(editor) == store.NEW_SHOP
        store.add_product(editor, "Teapot", "18.00")
        assert store.lock_next_draft(editor) is not None
        with pytest.raises(OperationalError, match="could not obtain lock"):
            other.execute(text("SELECT id FROM products FOR UPDATE NOWAIT"))


def test_listeners_hear_of_a_product_when_it_is_committed(
    clonedb_session: Session, clonedb_connection: Connection
) -> None:
    """NOTIFY is delivered at commit: nothing is heard of a publication that was rolled back."""
    assert store.overview(clonedb_session) == store.NEW_SHOP
    heard: list[str] = []

    def hear(notice: Notify) -> None:
        heard.append(notice.payload)

    clonedb_connection.add_notify_handler(hear)
    clonedb_connection.autocommit = True
    clonedb_connection.execute(f"LISTEN {store.CHANNEL}")
    store.add_product(clonedb_session, "Teapot", "18.00")
    clonedb_session.execute(
        text("SELECT pg_notify(:channel, 'a rumour')"), {"channel": store.CHANNEL}
    )
    clonedb_session.rollback()
    store.publish(clonedb_session, "teapot")
    clonedb_connection.execute("SELECT 1")  # psycopg hands over what has arrived
    assert heard == ["teapot"]


def test_two_databases_know_nothing_of_each_other(
    clonedb_session: Session, clonedb_factory: Callable[[], Clone]
) -> None:
    """One test may have several databases, each as the migrations left it."""
    assert store.overview(clonedb_session) == store.NEW_SHOP
    store.add_product(clonedb_session, "Teapot", "18.00")
    branch = create_engine(clonedb_factory().url)
    with Session(branch) as session:
        assert store.overview(session) == store.NEW_SHOP
        assert store.add_product(session, "Teapot", "17.00").number == 1001
        assert store.publish(session, "teapot").status is ProductStatus.PUBLISHED
    branch.dispose()
    assert store.search(clonedb_session, "teapot") == []


def test_another_database_speaks_psycopg_too(clonedb_factory: Callable[[], Clone]) -> None:
    """A clone opens connections itself, and names its database for any libpq program."""
    shop = clonedb_factory()
    with shop.connect() as connection, psycopg.connect(shop.dsn) as other:
        assert connection.execute("SELECT count(*) FROM products").fetchone() == (0,)
        connection.execute("INSERT INTO categories (name) VALUES ('boats')")
        connection.commit()
        names = other.execute("SELECT name FROM categories ORDER BY name").fetchall()
    assert [name for (name,) in names] == sorted([*store.CATEGORIES, "boats"])


def test_an_application_may_open_the_database_by_its_url(clonedb_url: str) -> None:
    """Code that makes its own engine needs the URL and nothing else."""
    engine = create_engine(clonedb_url)
    with Session(engine) as session:
        assert store.overview(session) == store.NEW_SHOP
        store.add_product(session, "Teapot", "18.00")
    with Session(engine) as session:
        assert store.overview(session).products == 1
    engine.dispose()
