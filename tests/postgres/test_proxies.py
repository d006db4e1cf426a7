"""Poolers between clonedb and the server: refused where they share sessions, and no reason for false warnings."""

from __future__ import annotations

import contextlib

import psycopg
import pytest

from clonedb.embedded.leases import Lease
from tests.postgres.pooler import pooled
from tests.projects import Project, databases


@pytest.fixture
def tested(items: Project) -> Project:
    """A project with tests."""
    items.write(
        "test_it.py",
        """
        import psycopg, pytest, sqlalchemy as sa

        @pytest.mark.parametrize("number", range(3))
        @pytest.mark.parametrize("isolation", [
            pytest.param(isolation, marks=pytest.mark.clonedb(isolation=isolation))
            for isolation in ("auto", "clone", "truncate")
        ])
        def test_items(clonedb_connection, clonedb_session, clonedb_dsn, isolation, number):
            assert clonedb_connection.execute("select count(*) from item").fetchone() == (1,)
            clonedb_session.execute(sa.text("insert into item (name) values ('more')"))
            clonedb_session.commit()
            with psycopg.connect(clonedb_dsn) as connection:
                assert connection.execute("select count(*) from item").fetchone() == (2,)
        """,
    )
    return items


@pytest.mark.parametrize("in_turn", [False, True], ids=["the last one", "in turn"])
@pytest.mark.parametrize("command", ["list", "fingerprint"])
def test_shared_sessions_are_refused_at_once(
    items: Project, lease: Lease, command: str, *, in_turn: bool
) -> None:
    """Transaction pooling: locks would belong to nobody, whatever is done."""
    with pooled(lease, "transaction", in_turn=in_turn) as url, contextlib.ExitStack() as stack:
        # several clients at once, so that it has several sessions to give
        clients = [stack.enter_context(psycopg.connect(f"{url}/postgres")) for _ in range(3)]
        for client in clients:
            client.execute("select")
        for client in clients:
            client.rollback()
        text = items.clonedb(command, CLONEDB_URL=url).demand(1).text
    assert (
        "is behind a proxy that shares sessions (PgBouncer with pool_mode = transaction?)"
        in text
    )
    assert "Traceback" not in text


@pytest.mark.campaign("long")
def test_session_pooling(tested: Project, lease: Lease, prefix: str, admin_dsn: str) -> None:
    """Tests pass, and nobody is blamed for the sessions that a pooler keeps open."""
    with pooled(lease, "session") as url:
        assert "9 passed" in tested.pytest("-W", "error", CLONEDB_URL=url).demand().out
    assert [name for name in databases(admin_dsn, prefix) if "_t_" not in name] == []
