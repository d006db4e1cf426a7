"""A synchronous FastAPI application whose engine is bound at import, through its HTTP test client."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.applications.shops import SOMEBODYS, SYNC_APP, write_shop
from tests.campaigns import VARIANT
from tests.projects import Project
from tests.pytest_plugin.plugins import XDIST, run

TESTS = """
import pytest
from fastapi.testclient import TestClient

from shop.app import app, engine

@pytest.fixture
def client(clonedb):
    return TestClient(app)

@pytest.mark.parametrize("n", range(6))
def test_orders(client, clonedb, n):
    assert client.get("/items").json() == ["seeded"]
    number = client.post("/items", params={"name": f"book {n}"})
    assert (number.status_code, number.json()) == (201, 2)
    assert client.get("/items/2").json() == f"book {n}"
    assert client.get("/items/3").status_code == 404
    with clonedb.connect() as connection:
        assert connection.execute("select name from item order by id").fetchall() == [("seeded",), (f"book {n}",)]
    assert engine.pool.checkedin() >= 1

def test_lifespan(client):
    with client:
        assert client.get("/items").json() == ["seeded"]

def test_nothing_is_left():
    assert engine.pool.checkedout() == 0
"""


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
@pytest.mark.parametrize(
    "distributed", [(), pytest.param(XDIST, marks=VARIANT)], ids=["alone", "n2"]
)
def test_requests_reach_the_tests_clone(
    items: Project, clones: Callable[[], list[str]], driver: str, distributed: tuple[str, ...]
) -> None:
    """Each test begins afresh, one request sees what another committed, and the application was not changed for it."""
    write_shop(items, SYNC_APP)
    items.settings(route=["DATABASE_URL"])
    items.environment["DATABASE_URL"] = SOMEBODYS.format(driver=driver)
    items.write("conftest.py", "")
    items.write("test_it.py", TESTS)
    assert "8 passed" in run(items, *distributed).demand().out
    assert clones() == []
