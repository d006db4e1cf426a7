"""The README's guides for people who move over: what they say to write is all that is written."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.campaigns import VARIANT
from tests.projects import Project, lean_pytest

README = Path(__file__).parents[2] / "README.md"

DATABASE = """
import os
from sqlalchemy import create_engine, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

engine = create_engine(os.environ["DATABASE_URL"])
Session = sessionmaker(engine)

class Base(DeclarativeBase): pass

class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String)

def add(name):
    with Session.begin() as session:
        session.add(Item(name=name))

def count():
    with Session() as session:
        return session.query(Item).count()
"""

TESTS = """
import pytest
from shop.database import Item, add, count

@pytest.fixture(scope="session", autouse=True)
def ready():
    assert count() == 1

@pytest.mark.parametrize("number", range(4))
def test_the_application_and_the_session_meet(db_session, number):
    assert count() == 1
    add("by the application")
    assert db_session.query(Item).count() == 2
    db_session.add(Item(name="by the test"))
    db_session.commit()
    assert count() == 3

def test_without_asking():
    assert count() == 1
    add("x")
"""

ASYNC_DATABASE = """
import os
from sqlalchemy import String
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase): pass

class Product(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String)

class SessionManager:
    def __init__(self, url):
        self.engine = create_async_engine(url)
        self.asessionmaker_ = async_sessionmaker(self.engine, expire_on_commit=False)

    def asessionmaker(self):
        return self.asessionmaker_()

    async def close(self):
        await self.engine.dispose()

of_the_application = SessionManager(os.environ["POSTGRES_DSN"])
"""

ASYNC_TESTS = """
import os
import pytest
from sqlalchemy import func, make_url, select
from shop.database import Product, of_the_application

@pytest.fixture
async def product(session_manager):
    async with session_manager.asessionmaker() as session:
        product = Product(name="lamp")
        session.add(product)
        await session.commit()
        return product

@pytest.mark.parametrize("number", range(3))
async def test_reading(session_manager, product, number):
    async with session_manager.asessionmaker() as session:
        assert (await session.get(Product, product.id)).name == "lamp"
        assert await session.scalar(select(func.count(Product.id))) == 2

async def test_creating_by_the_application(session_manager, clonedb_url):
    assert os.environ["POSTGRES_DSN"].rpartition("/")[2].startswith(make_url(clonedb_url).database)
    async with of_the_application.asessionmaker() as session:
        session.add(Product(name="chair"))
        await session.commit()
    async with session_manager.asessionmaker() as session:
        assert await session.scalar(select(func.count(Product.id))) == 2
"""


def guide(name: str) -> dict[str, str]:
    """The code of one guide, by language."""
    text = (
        README.read_text(encoding="utf-8")
        .partition(f"<!-- guide: {name} -->")[2]
        .partition("<!-- end -->")[0]
    )
    return {match[1]: match[2] for match in re.finditer(r"```(\w+)\n(.*?)```", text, re.DOTALL)}


@pytest.mark.parametrize("name", ["db_session", "asynchronous"])
def test_a_guide_fits_on_a_screen(name: str) -> None:
    """From its heading to the next."""
    text = README.read_text(encoding="utf-8")
    start = text.rindex("\n### ", 0, text.index(f"<!-- guide: {name} -->"))
    assert text[start + 1 :].partition("\n### ")[0].partition("\n## ")[0].count("\n") <= 50


@pytest.mark.campaign("applications")
@pytest.mark.parametrize(
    "arguments", [(), pytest.param(("-n", "2"), marks=VARIANT)], ids=["alone", "xdist"]
)
def test_from_db_session(items: Project, arguments: tuple[str, ...]) -> None:
    """An engine bound at import, a fixture `db_session`, tests that never asked for a database."""
    code = guide("db_session")
    items.write("pyproject.toml", code["toml"])
    items.write("conftest.py", code["python"])
    items.write("shop/database.py", DATABASE)
    items.write("test_shop.py", TESTS)
    url = "postgresql+psycopg://shop@localhost:1/shop"
    outcome = items.pytest(
        "-W", "error", *arguments, DATABASE_URL=url, PYTHONPATH=os.fspath(items.directory)
    ).demand()
    assert "5 passed" in outcome.out


@pytest.mark.campaign("applications")
@pytest.mark.parametrize(
    "arguments", [(), pytest.param(("-n", "2"), marks=VARIANT)], ids=["alone", "xdist"]
)
def test_from_asynchronous_fixtures(items: Project, arguments: tuple[str, ...]) -> None:
    """A session manager built on `clonedb_url`, and the application's own, which was made at import."""
    code = guide("asynchronous")
    items.environment["PYTEST_ADDOPTS"] = (
        lean_pytest("asyncio")
        + " --asyncio-mode=auto -o asyncio_default_fixture_loop_scope=function"
    )
    items.write("pyproject.toml", code["toml"])
    items.write("conftest.py", code["python"])
    items.write("shop/database.py", ASYNC_DATABASE)
    items.write("test_shop.py", ASYNC_TESTS)
    url = "postgresql+asyncpg://shop@localhost:1/shop"
    outcome = items.pytest(
        "-W", "error", *arguments, POSTGRES_DSN=url, PYTHONPATH=os.fspath(items.directory)
    ).demand()
    assert "4 passed" in outcome.out
