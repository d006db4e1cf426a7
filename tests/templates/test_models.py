"""`metadata`: SQLAlchemy's and SQLModel's models make the schema of a project that has no migrations."""

from __future__ import annotations

import shutil

import pytest

from tests.projects import Project

MODELS = """
from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from shop.names import LENGTH

class Base(DeclarativeBase): ...

class Shop(Base):
    __tablename__ = "shop"
    __table_args__ = {"schema": "trade"}
    id: Mapped[int] = mapped_column(primary_key=True)

class Product(Base):
    __tablename__ = "product"
    id: Mapped[int] = mapped_column(primary_key=True)
    shop_id: Mapped[int] = mapped_column(ForeignKey("trade.shop.id"))
"""

TESTS = """
from sqlalchemy import text
from shop.models import Product, Shop

def test_rows(clonedb_session):
    shop = Shop(id=1)
    clonedb_session.add(shop)
    clonedb_session.flush()
    clonedb_session.add(Product(shop_id=shop.id))
    clonedb_session.commit()

def test_rows_again(clonedb_session):
    assert clonedb_session.query(Product).count() == 0
    assert clonedb_session.scalar(text("select count(*) from trade.shop")) == 0
"""


@pytest.fixture
def shop(project: Project) -> Project:
    """A package with models, and nothing of Alembic's."""
    (project.directory / "alembic.ini").unlink()
    shutil.rmtree(project.directory / "migrations")
    project.write("shop/__init__.py", "")
    project.write("shop/names.py", "LENGTH = 3\n")
    project.write("shop/models.py", MODELS)
    project.write("conftest.py", "")  # pytest puts its directory on sys.path
    project.write("test_it.py", TESTS)
    project.settings(metadata="shop.models:Base.metadata")
    return project


def test_models_in_place_of_migrations(shop: Project) -> None:
    """Made once, schemas too; found again; made anew when a model, or what it imports, is another."""
    first = shop.pytest().demand()
    assert "2 passed" in first.out
    assert first.text.count("building template") == 1
    assert "building template" not in shop.pytest().demand().text

    shop.write(
        "shop/models.py", MODELS + '    name: Mapped[str | None] = mapped_column(default="x")\n'
    )
    assert "building template" in shop.pytest().demand().text
    shop.write("shop/names.py", "LENGTH = 4\n")
    told = shop.clonedb("fingerprint", "--explain").demand().text
    assert "shop/names.py" in told
    assert "building template" in shop.pytest().demand().text


def test_a_module_that_no_statement_imports(shop: Project) -> None:
    """It is told of, with the line that watches it."""
    shop.write(
        "shop/more.py",
        "from shop.models import Base\nfrom sqlalchemy import Table, Column\nTable('more', Base.metadata)\n",
    )
    shop.write(
        "shop/all.py",
        "import importlib\nname = 'shop.' + 'more'\nimportlib.import_module(name)\nfrom shop.models import Base\n",
    )
    shop.settings(metadata="shop.all:Base")
    assert 'add watch = ["shop/more.py"]' in shop.clonedb("build").demand().text


@pytest.mark.campaign("long")
def test_a_package_that_finds_its_modules(shop: Project) -> None:
    """A module of it that was changed, or is new, is another schema, however the package imports it."""
    (shop.directory / "shop/models.py").unlink()
    shop.write(
        "shop/models/__init__.py",
        """
        import importlib, pkgutil
        from sqlalchemy import MetaData
        metadata = MetaData()
        for found in pkgutil.iter_modules(__path__):
            importlib.import_module(f"{__name__}.{found.name}")
        """,
    )
    table = "from sqlalchemy import Column, Integer, Table\nfrom shop.models import metadata\nTable({!r}, metadata, Column({!r}, Integer))\n"
    shop.write("shop/models/a.py", table.format("a", "one"))
    shop.settings(metadata="shop.models:metadata")
    assert "watch" not in shop.clonedb("build").demand().text
    test = "def test_it(clonedb_connection):\n    clonedb_connection.execute({!r})\n"
    shop.write("shop/models/a.py", table.format("a", "two"))
    shop.write("test_it.py", test.format("select two from a"))
    assert "1 passed" in shop.pytest().demand().out
    shop.write("shop/models/b.py", table.format("b", "three"))
    shop.write("test_it.py", test.format("select three from b"))
    assert "1 passed" in shop.pytest().demand().out


def test_several_and_functions(shop: Project) -> None:
    """Metadata, a class of models, a function that returns a list."""
    shop.write(
        "shop/other.py",
        """
        from sqlalchemy import Column, Integer, MetaData, Table
        one, two = MetaData(), MetaData(schema="second")
        Table("one", one, Column("id", Integer)), Table("two", two, Column("id", Integer))
        def found():
            return [one, two]
    """,
    )
    shop.settings(metadata=["shop.models:Base", "shop.other:found"])
    shop.write(
        "test_it.py",
        """
        def test_tables(clonedb_connection):
            for name in ("product", "one", "second.two"):
                clonedb_connection.execute(f"select count(*) from {name}")
    """,
    )
    assert "1 passed" in shop.pytest().demand().out


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("shop.models:Bas", "metadata 'shop.models:Bas': 'shop.models' has no 'Bas'"),
        ("shop.names:LENGTH", "metadata 'shop.names:LENGTH' is 'int', which is no MetaData"),
        ("shop.empty:metadata", "metadata 'shop.empty:metadata' has no table"),
        (["shop.models:Base", "shop.twice:metadata"], "table 'product' is in two metadata"),
        ("shop.broken:Base", "ZeroDivisionError: division by zero"),
        ("nowhere:Base", "metadata 'nowhere:Base' names a module that was not found"),
        ("shop.models", "metadata is 'shop.models'; it takes package.module:Base.metadata"),
    ],
)
def test_mistakes(shop: Project, metadata: object, message: str) -> None:
    """Each is told in a line, and an error of the project's with its own traceback only."""
    shop.write("shop/empty.py", "from sqlalchemy import MetaData\nmetadata = MetaData()\n")
    shop.write(
        "shop/twice.py",
        "from sqlalchemy import MetaData, Table\nmetadata = MetaData()\nTable('product', metadata)\n",
    )
    shop.write("shop/broken.py", "1 / 0\n")
    shop.settings(metadata=metadata)
    outcome = shop.clonedb("build")
    assert outcome.code != 0
    assert message in outcome.text
    assert "clonedb/migrate" not in outcome.text


def test_sqlmodel(shop: Project) -> None:
    """Its metadata is SQLAlchemy's."""
    shop.write(
        "shop/models.py",
        """
        from sqlmodel import Field, SQLModel
        class Hero(SQLModel, table=True):
            id: int | None = Field(default=None, primary_key=True)
            name: str
    """,
    )
    shop.settings(metadata="sqlmodel:SQLModel.metadata", watch=["shop/models.py"])
    refused = shop.clonedb("build").demand(1).text
    assert "has no table; name a module that imports those which define the models" in refused
    shop.settings(metadata="shop.models:SQLModel.metadata")
    shop.write(
        "test_it.py",
        """
        from shop.models import Hero
        def test_hero(clonedb_session):
            clonedb_session.add(Hero(name="Deadpond"))
            clonedb_session.commit()
    """,
    )
    assert "1 passed" in shop.pytest().demand().out
