"""The sample shop's migrations: up, down, the rows they change, and the models they end at."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, NullPool, create_engine, inspect, text

import clonedb.demo
from clonedb.demo.shop import store
from clonedb.demo.shop.models import Base

DEMO = Path(clonedb.demo.__file__).parent
MIGRATIONS = DEMO / "migrations"
REPOSITORY = Path(__file__).parents[2]

# everything in schema public that a migration can make, except the table of Alembic itself
SCHEMA = text(
    """
    SELECT 'relation ' || relkind::text || ' ' || relname FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind <> 'c'
    UNION ALL SELECT 'column ' || attrelid::regclass || '.' || attname || ' ' || format_type(atttypid, atttypmod)
            || ' ' || attnotnull || ' ' || attidentity::text || ' ' || coalesce(pg_get_expr(adbin, adrelid), '')
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0 AND NOT attisdropped
    UNION ALL SELECT 'constraint ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND contype <> 'n'
    UNION ALL SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT 'type ' || typname FROM pg_type
        WHERE typnamespace = 'public'::regnamespace AND typtype = 'e'
    UNION ALL SELECT 'label ' || enumtypid::regtype || ' ' || enumlabel FROM pg_enum
    UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE NOT tgisinternal
    """
)


class Shop:
    """A database somewhere on its way from the first revision to the last."""

    def __init__(self, url: str, engine: Engine) -> None:
        # a Config without a file: env.py then leaves the logging of this process alone
        self.config = Config()
        self.config.set_main_option("script_location", str(MIGRATIONS))
        self.config.set_main_option("path_separator", "os")
        self.config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
        self.engine = engine

    @property
    def revisions(self) -> list[str]:
        """From the first to the head."""
        return [
            script.revision
            for script in ScriptDirectory.from_config(self.config).walk_revisions()
        ][::-1]

    def upgrade(self, revision: str) -> None:
        command.upgrade(self.config, revision)

    def downgrade(self, revision: str) -> None:
        command.downgrade(self.config, revision)

    def run(self, statement: str) -> list[Any]:
        with self.engine.begin() as connection:
            result = connection.execute(text(statement))
            return [tuple(row) for row in result] if result.returns_rows else []

    def schema(self) -> set[str]:
        with self.engine.connect() as connection:
            return {
                line for line in connection.scalars(SCHEMA) if "alembic_version" not in line
            }


@pytest.fixture
def shop(empty_database_url: str) -> Iterator[Shop]:
    engine = create_engine(empty_database_url, poolclass=NullPool)
    yield Shop(empty_database_url, engine)
    engine.dispose()


def add_product(shop: Shop, name: str, **columns: object) -> None:
    """Insert a row as it was possible at the revision the database is at."""
    columns = {"name": name, "price": 10, **columns}
    names, values = ", ".join(columns), ", ".join(f":{column}" for column in columns)
    with shop.engine.begin() as connection:
        connection.execute(text(f"INSERT INTO products ({names}) VALUES ({values})"), columns)


def test_alembic_check_finds_no_difference_at_the_head(shop: Shop) -> None:
    """The models say what the migrations made, server defaults included."""
    shop.upgrade("head")
    command.check(shop.config)
    with shop.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_the_models_alone_make_the_same_schema(shop: Shop) -> None:
    """Checks, enum labels and identities too, which Alembic does not compare; the trigger is the migrations' own."""
    shop.upgrade("head")
    migrated = shop.schema()
    shop.downgrade("base")
    Base.metadata.create_all(shop.engine)
    assert migrated - shop.schema() == {
        "function touch_updated_at",
        "trigger products_touch_updated_at",
    }
    assert shop.schema() - migrated == set()


def test_each_revision_goes_up_down_and_up_again(shop: Shop) -> None:
    """A downgrade leaves exactly the schema that the upgrade found, and the last one leaves nothing."""
    schemas = [shop.schema()]
    assert schemas == [set()]
    for revision in shop.revisions:
        shop.upgrade(revision)
        after = shop.schema()
        assert after != schemas[-1], revision
        shop.downgrade("-1")
        assert shop.schema() == schemas[-1], revision
        shop.upgrade(revision)
        assert shop.schema() == after, revision
        schemas.append(after)
    for before in reversed(schemas[:-1]):
        shop.downgrade("-1")
        assert shop.schema() == before
    assert inspect(shop.engine).get_table_names() == ["alembic_version"]


def test_the_whole_way_down_works_with_rows(shop: Shop) -> None:
    """Downgrades are tried on a shop in use, not on empty tables only."""
    shop.upgrade("head")
    add_product(shop, "Teapot", slug="teapot", category_id=1, status="published")
    shop.run(
        "INSERT INTO reviews (product_id, author, rating) SELECT id, 'Ada', 3.5 FROM products"
    )
    for _ in shop.revisions:
        shop.downgrade("-1")
    assert shop.schema() == set()


def test_published_products_keep_being_published(shop: Shop) -> None:
    """0003 turns the flag into a status, and back."""
    shop.upgrade("0002")
    add_product(shop, "Teapot", published=True)
    add_product(shop, "Milk jug")
    shop.upgrade("0003")
    assert shop.run("SELECT name, status::text FROM products ORDER BY number") == [
        ("Teapot", "published"),
        ("Milk jug", "draft"),
    ]
    shop.run("UPDATE products SET status = 'retired' WHERE name = 'Milk jug'")
    shop.downgrade("0002")
    assert shop.run("SELECT name, published FROM products ORDER BY number") == [
        ("Teapot", True),
        ("Milk jug", False),
    ]


def test_every_product_gets_a_slug_of_its_own(shop: Shop) -> None:
    """0004 makes slugs as the application does, and tells products of one name apart by their number."""
    shop.upgrade("0003")
    names = [
        "Reading Lamp (red)",
        "reading lamp, RED",
        "Reading lamp red 1002",
        "  100 % wool!",
        "Reading-Lamp red",
        "灯",
    ]
    for name in names:
        add_product(shop, name)
    shop.upgrade("0004")
    slugs = [slug for (slug,) in shop.run("SELECT slug FROM products ORDER BY number")]
    assert slugs == [
        "reading-lamp-red",
        "reading-lamp-red--1002",
        "reading-lamp-red-1002",
        "100-wool",
        "reading-lamp-red--1005",
        "product",
    ]
    assert [slug.partition("--")[0] for slug in slugs] == [
        store.slugify(name) for name in names
    ]


def test_ratings_keep_their_value_and_round_on_the_way_back(shop: Shop) -> None:
    """0005 turns 4 into 4.0; its downgrade turns 4.5 into 5, which is still allowed."""
    shop.upgrade("0004")
    add_product(shop, "Teapot", slug="teapot")
    shop.run(
        "INSERT INTO reviews (product_id, author, rating) SELECT id, 'Ada', 4 FROM products"
    )
    shop.upgrade("0005")
    assert shop.run("SELECT rating::text FROM reviews") == [("4.0",)]
    shop.run("UPDATE reviews SET rating = 4.5")
    assert shop.run("SELECT rating FROM reviews") == [(Decimal("4.5"),)]
    shop.downgrade("0004")
    assert shop.run("SELECT rating FROM reviews") == [(5,)]


def test_categories_come_with_their_rows(shop: Shop) -> None:
    """0007 fills the table, and puts the products that are there into the category for the rest."""
    shop.upgrade("0006")
    add_product(shop, "Teapot", slug="teapot")
    shop.upgrade("0007")
    rows = shop.run("SELECT id, name FROM categories ORDER BY id")
    assert rows == list(enumerate(store.CATEGORIES, start=1))
    assert shop.run("SELECT c.name FROM products JOIN categories c ON c.id = category_id") == [
        ("other",)
    ]
    assert shop.run("INSERT INTO categories (name) VALUES ('boats') RETURNING id") == [(6,)]


def test_the_time_of_change_starts_at_the_creation_and_follows_each_change(shop: Shop) -> None:
    """0008 fills the column from created_at, and its trigger writes it from then on."""
    shop.upgrade("0007")
    add_product(shop, "Teapot", slug="teapot", category_id=1)
    shop.upgrade("0008")
    assert shop.run("SELECT updated_at = created_at FROM products") == [(True,)]
    assert shop.run(
        "UPDATE products SET price = 11 RETURNING updated_at = now(), updated_at > created_at"
    ) == [(True, True)]


def ini_with(url: str, ini: Path, directory: Path) -> Path:
    """The file as it is shipped, with another database in it."""
    shipped = ini.read_text()
    assert "\nsqlalchemy.url = postgresql+psycopg://localhost/shop\n" in shipped
    copy = directory / "alembic.ini"
    changed = shipped.replace("postgresql+psycopg://localhost/shop", url.replace("%", "%%"))
    copy.write_text(changed.replace("%(here)s", str(ini.parent)))
    return copy


def alembic(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The plain command, run as a person would, except that it leaves no bytecode behind."""
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    "ini", [REPOSITORY / "alembic.ini", DEMO / "alembic.ini"], ids=["repository", "package"]
)
def test_the_plain_alembic_command_works(
    shop: Shop, empty_database_url: str, tmp_path: Path, ini: Path
) -> None:
    """Both files lead to the same migrations, with their logging sections in use."""
    if not ini.exists():
        pytest.skip("the repository's alembic.ini is not installed")
    done = alembic(
        "-c", str(ini_with(empty_database_url, ini, tmp_path)), "upgrade", "head", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert [
        line.partition(" -> ")[2][:4] for line in done.stderr.splitlines() if " -> " in line
    ] == shop.revisions
    assert done.stderr.startswith("INFO  [alembic")


def test_the_migrations_can_be_printed_as_sql(shop: Shop, tmp_path: Path) -> None:
    """`alembic upgrade head --sql` needs no database, and its output makes the same schema."""
    done = alembic("-c", str(DEMO / "alembic.ini"), "upgrade", "head", "--sql", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with shop.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute(done.stdout)
        driver.commit()
    printed = shop.schema()
    shop.downgrade("base")
    shop.upgrade("head")
    assert printed == shop.schema()


def test_every_revision_tells_its_story(shop: Shop) -> None:
    """One line of history without branches: files begin with their revision and say what they do."""
    scripts = list(ScriptDirectory.from_config(shop.config).walk_revisions())
    assert [script.revision for script in scripts] == [
        f"{number:04}" for number in range(len(scripts), 0, -1)
    ]
    for script in scripts:
        assert Path(script.path).name.startswith(f"{script.revision}_")
        assert f"Revision ID: {script.revision}" in (
            ast.get_docstring(ast.parse(Path(script.path).read_text())) or ""
        )


def test_no_file_of_the_demo_holds_a_password() -> None:
    """The URL in the repository is one that works nowhere by itself."""
    for ini in (REPOSITORY / "alembic.ini", DEMO / "alembic.ini"):
        if ini.exists():
            assert "@" not in ini.read_text()
