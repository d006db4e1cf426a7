"""The asynchronous recipe: a session manager of the project's own, on the sample shop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import clonedb.demo
from tests.campaigns import VARIANT
from tests.projects import Project
from tests.pytest_plugin.plugins import ANYIO, AUTO, XDIST, anyio_backends, mark, run

SHOP = """
from decimal import Decimal

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from clonedb.demo.shop import store
from clonedb.demo.shop.models import Category, Product, ProductStatus

{mark}

class SessionManager:
    def __init__(self, url):
        self.engine = create_async_engine(url)
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)

    def asessionmaker(self):
        return self._sessions

    async def close(self):
        await self.engine.dispose()

@pytest.fixture
async def manager(clonedb_url):
    manager = SessionManager(clonedb_url)
    yield manager
    await manager.close()

@pytest.fixture
async def product(manager):
    async with manager.asessionmaker().begin() as session:
        kitchen = (await session.scalars(select(Category).where(Category.name == "kitchen"))).one()
        product = Product(name="Teapot", price=Decimal("18.00"), slug="teapot", category=kitchen)
        session.add(product)
    return product

@mark
async def test_read(manager, product):
    async with manager.asessionmaker()() as session:
        read = await session.get_one(Product, product.id)
        assert (read.name, read.price, read.status) == ("Teapot", Decimal("18.00"), ProductStatus.DRAFT)

@mark
@pytest.mark.parametrize("name", ["Reading lamp", "Wool blanket", "Garden chair"])
async def test_create(manager, product, name):
    async with manager.asessionmaker()() as session:
        created = await session.run_sync(store.add_product, name, "39.90", category="garden")
        assert (product.number, created.number) == (1001, 1002)
        assert await session.scalar(select(func.count()).select_from(Product)) == 2

@mark
async def test_nothing_is_there_before(clonedb_async_session):
    assert await clonedb_async_session.run_sync(store.overview) == store.NEW_SHOP
    created = await clonedb_async_session.run_sync(store.add_product, "Teapot", "18.00")
    assert created.number == 1001
"""


@pytest.mark.parametrize(
    ("plugin", "distributed", "driver"),
    [
        (AUTO, (), "asyncpg"),
        (ANYIO, (), "psycopg"),
        pytest.param(AUTO, XDIST, "asyncpg", marks=VARIANT),
    ],
    ids=["asyncio-alone-asyncpg", "anyio-alone-psycopg", "asyncio-n2-asyncpg"],
)
def test_a_session_manager_on_the_url(
    project: Project,
    clones: Callable[[], list[str]],
    plugin: tuple[str, ...],
    distributed: tuple[str, ...],
    driver: str,
) -> None:
    """A project that has its own engine and fixtures gives them `clonedb_url`, and its tests stay as they are."""
    project.settings(
        alembic_ini=str(Path(clonedb.demo.__file__).parent / "alembic.ini"), driver=driver
    )
    project.write("conftest.py", anyio_backends("asyncio"))
    project.write("test_shop.py", SHOP.replace("{mark}", mark(plugin)))
    assert "5 passed" in run(project, *plugin, *distributed).demand().out
    assert clones() == []
