"""What makes a schema when nothing says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from clonedb.errors import NoMigrationsError
from clonedb.migrate.metadata_recipe import MetadataRecipe
from clonedb.migrate.recipes import find_recipe
from clonedb.project.detect import as_lines, detect
from clonedb.settings.config import Config
from tests.project.checkout import Write

MODELS = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
class Base(DeclarativeBase): pass
class Item(Base):
    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)
"""
MORE = 'from shop.a import Base\nclass Pair(Base):\n    __tablename__ = "pair"\n'
PLACES = {
    "Alembic": (
        {"migrations/alembic.ini": "", "migrations/env.py": "", "models.py": MODELS},
        [
            'alembic_ini = "migrations/alembic.ini"',
            "",
            "[tool.clonedb.alembic]",
            'script_location = "migrations"',
        ],
    ),
    "models": (
        {"src/shop/models.py": MODELS, "schema.sql": ""},
        ['metadata = "shop.models:Base.metadata"'],
    ),
    "two modules": (
        {"shop/a.py": MODELS, "shop/c.py": MORE, "shop/b.py": MORE, "shop/d.py": ""},
        ['metadata = ["shop.a:Base.metadata", "shop.b:Base.metadata", "shop.c:Base.metadata"]'],
    ),
    "Django": (
        {"manage.py": "setdefault('DJANGO_SETTINGS_MODULE', 'x')", "models.py": MODELS},
        ['migrate = "python manage.py migrate"'],
    ),
    "yoyo": (
        {"yoyo.ini": "[DEFAULT]\nsources = steps\n", "steps/1.sql": "", "models.py": MODELS},
        ['migrate = "yoyo apply --batch"', 'watch = ["yoyo.ini", "steps/*"]'],
    ),
    "SQL": ({"tests/models.py": MODELS, "db/schema.sql": ""}, ['schema = ["db/schema.sql"]']),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_likeliest_is_taken(write: Write, place: str) -> None:
    """In this order; what tests define is none of it."""
    files, lines = PLACES[place]
    (found,) = detect(Config(rootdir=write({"pyproject.toml": "", **files})))
    assert as_lines(found) == lines


def test_a_recipe_without_a_line(write: Write) -> None:
    """It says that its setting was found, not written."""
    recipe = find_recipe(Config(rootdir=write({"pyproject.toml": "", "models.py": MODELS})))
    assert isinstance(recipe, MetadataRecipe)
    assert recipe.config.metadata == ("models:Base.metadata",)
    assert recipe.config.source("metadata") == "found in the project"


def test_more_than_one(write: Write) -> None:
    """None is taken, and the lines to choose from are said."""
    rootdir = write({"pyproject.toml": "", "one.py": MODELS, "two.py": MODELS})
    with pytest.raises(NoMigrationsError) as caught:
        find_recipe(Config(rootdir=rootdir))
    assert str(caught.value).endswith(
        "there is more than one in the project; write one of these:\n"
        '  metadata = "one:Base.metadata"\n  metadata = "two:Base.metadata"'
    )


def test_a_setting_that_leads_nowhere_is_not_passed_over(write: Write) -> None:
    """What it says is meant, although there are models."""
    rootdir = write({"pyproject.toml": "", "models.py": MODELS, "my.ini": "[alembic]\n"})
    config = Config(rootdir=rootdir).replace("the test", alembic_ini="my.ini")
    with pytest.raises(NoMigrationsError):
        find_recipe(config)


def test_no_project_is_not_searched(tmp_path: Path) -> None:
    """A home directory may hold thousands of files that have nothing to do with each other."""
    (tmp_path / "models.py").write_text(MODELS)
    assert detect(Config(rootdir=tmp_path)) == []
