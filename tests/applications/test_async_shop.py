"""An asynchronous FastAPI application whose engine keeps an ordinary pool, on whichever loops its tests run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.applications.shops import ASYNC_APP, SOMEBODYS, write_shop
from tests.campaigns import VARIANT
from tests.projects import Project
from tests.pytest_plugin.plugins import ANYIO, AUTO, STRICT, XDIST, anyio_backends, mark, run

TESTS = """
import asyncio, gc
import httpx, pytest, sqlalchemy as sa
from fastapi.testclient import TestClient

from shop.app import app, engine, make_session

{mark}

def client():
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop")

@mark
@pytest.mark.parametrize("n", range(4))
async def test_orders(clonedb, n):
    async with client() as shop:
        assert (await shop.get("/items")).json() == ["seeded"]
        made = await shop.post("/items", params={"name": f"book {n}"})
        assert (made.status_code, made.json()) == (201, 2)
        assert (await shop.get("/items")).json() == ["seeded", f"book {n}"]
    assert engine.pool.checkedin() >= 1

@mark
@pytest.mark.parametrize("n", range(2))
async def test_more_requests_than_connections(clonedb, n):
    async with client() as shop:
        answers = await asyncio.gather(*(shop.get("/items") for _ in range(8)))
    assert [answer.json() for answer in answers] == [["seeded"]] * 8

@pytest.mark.parametrize("n", range(2))
def test_a_loop_a_request(clonedb, n):
    shop = TestClient(app)
    assert shop.post("/items", params={"name": "book"}).json() == 2
    assert shop.get("/items").json() == ["seeded", "book"]

@pytest.mark.parametrize("n", range(2))
def test_a_loop_for_all_requests(clonedb, n):
    with TestClient(app) as shop:
        assert shop.post("/items", params={"name": "book"}).json() == 2
        assert shop.get("/items").json() == ["seeded", "book"]
        with TestClient(app) as other:
            assert other.get("/items").json() == ["seeded", "book"]

left_open = []

@mark
@pytest.mark.filterwarnings("ignore::clonedb.LeakedConnectionWarning")  # unless the loop has ended before
async def test_left_open(clonedb):
    for keep in (left_open.append, id):
        session = make_session()
        keep(session)
        await session.scalar(sa.text("select 1"))

def test_nothing_was_left_to_the_garbage_collector():
    left_open.clear()
    gc.collect()
"""


@pytest.mark.parametrize("driver", ["asyncpg", pytest.param("psycopg", marks=VARIANT)])
@pytest.mark.parametrize(
    ("plugin", "distributed"),
    [(STRICT, ()), *(pytest.param(plugin, XDIST, marks=VARIANT) for plugin in (AUTO, ANYIO))],
    ids=["strict-alone", "auto-n2", "anyio-n2"],
)
def test_requests_reach_the_tests_clone(
    items: Project,
    clones: Callable[[], list[str]],
    driver: str,
    plugin: tuple[str, ...],
    distributed: tuple[str, ...],
) -> None:
    """Fresh for each test, whatever loops the tests and their clients run on; no warning, nothing left connected."""
    write_shop(items, ASYNC_APP)
    items.settings(route=["DATABASE_URL"])
    url = SOMEBODYS.format(driver=driver)
    items.environment["DATABASE_URL"] = url.partition("?")[0] if driver == "asyncpg" else url
    items.write("conftest.py", anyio_backends("asyncio"))
    items.write("test_it.py", TESTS.replace("{mark}", mark(plugin)))
    outcome = run(items, *plugin, *distributed).demand()
    assert "12 passed" in outcome.out
    assert "Captured log" not in outcome.out
    assert clones() == []
