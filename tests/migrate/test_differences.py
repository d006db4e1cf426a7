"""What the models and a migrated database differ in, in words that a person can act on."""

from __future__ import annotations

import pytest

from clonedb.errors import MigrationError
from clonedb.migrate.results import NoModelsError
from clonedb.url import DatabaseURL
from tests.migrate.conftest import Ask
from tests.migrate.test_env_py import ASYNC_ENV_PY
from tests.migrators import Migrators
from tests.projects import ALEMBIC_INI, ENV_PY, Project

MODELS = """
import sqlalchemy as sa

metadata = sa.MetaData()
author = sa.Table("author", metadata, sa.Column("id", sa.Integer, primary_key=True))
book = sa.Table(
    "book",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("title", sa.Text, nullable=False, server_default="untitled"),
    sa.Column("pages", sa.BigInteger),
    sa.Column("author_id", sa.ForeignKey("author.id", name="book_author_fk")),
    sa.Index("book_pages", "pages", unique=True),
    sa.UniqueConstraint("title", name="book_title_key"),
)
"""

TABLES = """
op.execute("create table book (id serial primary key, title varchar(20), pages int, isbn text)")
op.execute("create unique index book_isbn on book (isbn)")
op.execute("create table shelf (id serial primary key)")
"""


@pytest.fixture
def library(project: Project) -> Project:
    """Models of books and their authors, and a migration that made something else."""
    project.write("models.py", MODELS)
    project.write("alembic.ini", ALEMBIC_INI + "prepend_sys_path = .\n")
    project.write(
        "migrations/env.py", ENV_PY.replace("= None", "= __import__('models').metadata")
    )
    project.revision("one", TABLES)
    return project


def with_models(env_py: str, options: str = "") -> str:
    """env.py with the models, and options for context.configure()."""
    return env_py.replace(
        "target_metadata=target_metadata", "target_metadata=target_metadata" + options
    )


def test_every_kind_of_difference_is_a_line(
    library: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """Tables, columns, types, defaults, nullability, indexes and constraints, on both sides."""
    migrations = migrator()
    migrations.upgrade(url)
    library.write(
        "migrations/env.py",
        with_models(
            (library.directory / "migrations/env.py").read_text(),
            ", compare_server_default=True",
        ),
    )
    assert sorted(migrations.differences(url)) == sorted(
        [
            "add table 'author'",
            "remove table 'shelf'",
            "remove column 'book.isbn' (TEXT())",
            "add column 'book.author_id' (Integer())",
            "add foreign key 'book_author_fk' on 'book' (author_id)",
            "add unique constraint 'book_title_key' on 'book' (title)",
            "add unique index 'book_pages' on 'book' (pages)",
            "remove index 'book_isbn' on 'book' (isbn)",
            "column 'book.title': type changed from VARCHAR(length=20) to Text()",
            "column 'book.title': nullable changed from true to false",
            "column 'book.title': server default changed from none to untitled",
            "column 'book.pages': type changed from INTEGER() to BigInteger()",
        ]
    )


def test_nothing_is_said_of_models_that_fit(
    library: Project, migrator: Migrators, url: DatabaseURL, ask: Ask
) -> None:
    """And nothing is written to the database."""
    library.revision(
        "two",
        'op.execute("drop table book, shelf"); op.create_table("author", sa.Column("id", sa.Integer, primary_key=True))',
    )
    library.write("models.py", MODELS.partition("book =")[0])
    migrations = migrator()
    with migrations.session(url) as session:
        session.upgrade()
        assert session.differences() == []
    assert ask("select count(*) from pg_tables where schemaname = 'public'") == [(2,)]


def test_what_env_py_leaves_out_is_left_out(
    library: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """include_object, and a hook that empties the list, have their effect as under `alembic check`."""
    env_py = (library.directory / "migrations/env.py").read_text()
    only_tables = ", include_object=lambda thing, name, kind, reflected, other: kind == 'table' and name != 'book'"
    library.write("migrations/env.py", with_models(env_py, only_tables))
    migrations = migrator()
    migrations.upgrade(url)
    assert migrations.differences(url) == ["add table 'author'", "remove table 'shelf'"]
    hook = (
        ", process_revision_directives=lambda context, revision, directives: directives.clear()"
    )
    library.write("migrations/env.py", with_models(env_py, hook))
    assert migrations.differences(url) == []


def test_a_schema_is_named(library: Project, migrator: Migrators, url: DatabaseURL) -> None:
    """Where the table is not in the schema that needs no name."""
    library.write(
        "models.py",
        'import sqlalchemy as sa\nmetadata = sa.MetaData(schema="shop")\nsa.Table("a", metadata)',
    )
    library.revision(
        "two",
        'op.execute("drop table book, shelf; create schema shop; create table shop.b (id int)")',
    )
    env_py = (library.directory / "migrations/env.py").read_text()
    library.write("migrations/env.py", with_models(env_py, ", include_schemas=True"))
    migrations = migrator()
    migrations.upgrade(url)
    assert migrations.differences(url) == ["add table 'shop.a'", "remove table 'shop.b'"]


def test_env_py_without_models(project: Project, migrator: Migrators, url: DatabaseURL) -> None:
    """target_metadata is None in a new project: the message says where to write what."""
    project.items()
    migrations = migrator()
    migrations.upgrade(url)
    with pytest.raises(
        NoModelsError,
        match=r"env.py' gives Alembic no models .* write target_metadata = Base.metadata",
    ):
        migrations.differences(url)


def test_an_asynchronous_env_py_is_compared(
    library: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """In the connection that env.py makes."""
    library.write(
        "alembic.ini", ALEMBIC_INI.replace("+psycopg", "+asyncpg") + "prepend_sys_path = .\n"
    )
    configured = "target_metadata=__import__('models').metadata"
    library.write(
        "migrations/env.py",
        ASYNC_ENV_PY.replace("connection=connection", f"connection=connection, {configured}"),
    )
    migrations = migrator()
    migrations.upgrade(url)
    assert "add table 'author'" in migrations.differences(url)


def test_a_database_below_the_heads_is_not_compared(
    library: Project, migrator: Migrators, url: DatabaseURL
) -> None:
    """What would be found there is what the other revisions do."""
    with pytest.raises(MigrationError, match="Target database is not up to date"):
        migrator().differences(url)
