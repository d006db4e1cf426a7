"""CONTRIBUTING.md: its map, its glossary and its paths are those of the package as it is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from clonedb.isolation.modes import MODES
from clonedb.settings.keys import KEYS
from tests import test_architecture

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PACKAGE = sorted(path for path in (ROOT / "clonedb").rglob("*.py") if "demo" not in path.parts)

_PATH = re.compile(r"(?<![\w/.-])(?:clonedb|tests|benchmarks|\.ci)/[\w./-]*\w")
_FILE = re.compile(r"`([\w.-]+\.(?:md|toml|yaml))`")
_TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")


def section(title: str) -> str:
    """The text below a heading, up to the next one."""
    _, heading, rest = TEXT.partition(f"\n## {title}\n")
    assert heading, f"CONTRIBUTING.md has no section {title!r}"
    return rest.partition("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    """The cells of the table in a section, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


ROOMS = [row[0].strip("`") for row in rows("Map")]
GLOSSARY = [row[0] for row in rows("Glossary")]


def test_the_map_has_every_room_from_the_bottom_up() -> None:
    """In the order of the layers; the room below another one, and the sample shop, are beside that."""
    listed = [name for name in ROOMS if "/" not in name and name not in test_architecture.APART]
    layers = [sorted(row.split()) for row in test_architecture.LAYERS]
    found = iter(listed)
    assert [
        sorted(name for _, name in zip(layer, found, strict=False)) for layer in layers
    ] == layers
    assert list(found) == []


def test_the_map_has_every_package() -> None:
    """Those within a package, too, except the sample shop's."""
    packages = {
        path.parent.relative_to(ROOT / "clonedb").as_posix()
        for path in PACKAGE
        if path.parent.name != "clonedb"
    }
    assert packages - set(ROOMS) == set()


@pytest.mark.parametrize("name", ROOMS)
def test_room_of_the_map_exists(name: str) -> None:
    """As a module or a package."""
    place = ROOT / "clonedb" / name
    assert place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def test_every_room_and_word_is_explained_once() -> None:
    """And words are found by the alphabet."""
    assert len(ROOMS) == len(set(ROOMS))
    assert sorted(set(GLOSSARY)) == GLOSSARY
    assert all(len(row) == 2 and row[1] for title in ("Map", "Glossary") for row in rows(title))


@pytest.mark.parametrize("word", GLOSSARY)
def test_word_of_the_glossary_is_one_of_the_code(word: str) -> None:
    """Alone, in the plural, or as a part of a name such as `run_pin` or `RunPin`."""
    camel = "".join(part.capitalize() for part in word.split())
    used = re.compile(
        rf"(?<![a-z])(?i:{word.replace(' ', '[_ ]')})s?(?![a-z])|{camel}(?![a-z])"
    )
    assert any(used.search(path.read_text(encoding="utf-8")) for path in PACKAGE)


def test_named_paths_exist() -> None:
    """Except those named NAME, which are to be written."""
    named = {
        path for path in (*_PATH.findall(TEXT), *_FILE.findall(TEXT)) if "NAME" not in path
    }
    assert sorted(path for path in named if not (ROOT / path).exists()) == []
    assert "clonedb/rewind" in named


def test_named_tests_exist() -> None:
    """A test that is run as the example."""
    named = _TEST.findall(TEXT)
    assert named
    for path, name in named:
        functions = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
        assert name in {one.name for one in functions if isinstance(one, ast.FunctionDef)}, (
            f"{path}::{name}"
        )


def test_an_isolation_mode_touches_the_files_that_are_named() -> None:
    """What mentions a mode's name is in the list, and no code but a mode's own asks for another kind of database."""
    told = section("Adding an isolation mode")
    named = re.compile(rf'"({"|".join(sorted(MODES.keys() - {"auto", "clone"}))})".*"readonly"')
    for path in PACKAGE:
        text = path.read_text(encoding="utf-8")
        place = path.relative_to(ROOT).as_posix()
        assert place in told or not named.search(text), place
        assert path.parent.name == "isolation" or not re.search(
            r"isinstance\([^)]*Database\)", text
        ), place


def test_a_setting_touches_the_files_that_are_named() -> None:
    """Each file of the package that lists all settings, and the fingerprint."""
    told = section("Adding a setting")
    lists = [
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE
        if all(
            re.search(
                rf'(^    |Key\(\s*"){name}\b', path.read_text(encoding="utf-8"), re.MULTILINE
            )
            for name in KEYS
        )
    ]
    assert "clonedb/settings/keys.py" in lists
    assert [
        path for path in [*lists, "clonedb/project/fingerprint.py"] if path not in told
    ] == []


def test_a_recipe_touches_the_files_that_are_named() -> None:
    """What knows the one recipe that there is asks for its revisions, and refuses another recipe in words."""
    knowing = {
        path for path in PACKAGE if "import AlembicRecipe" in path.read_text(encoding="utf-8")
    }
    asking = {
        path for path in PACKAGE if "require_revisions(" in path.read_text(encoding="utf-8")
    }
    assert knowing - asking == set()
    assert "clonedb/migrate/recipes.py" in section("Adding a recipe")


def test_no_template_knows_its_recipe() -> None:
    """Where templates are built and found, Alembic has no name."""
    of_templates = [
        path for path in PACKAGE if path.parent.name in ("templates", "archive", "clones")
    ]
    assert [
        path for path in of_templates if "migrate.alembic" in path.read_text(encoding="utf-8")
    ] == []
    assert of_templates


def test_pre_commit_runs_what_ci_runs() -> None:
    """Ruff and mypy, by the programs of the same environment."""
    (repository,) = yaml.safe_load(
        (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    )["repos"]
    assert repository["repo"] == "local"
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8")
    entries = [
        " ".join(hook["entry"].replace(" --force-exclude", "").split())
        for hook in repository["hooks"]
    ]
    assert entries == [".venv/bin/ruff format", ".venv/bin/ruff check", ".venv/bin/mypy"]
    assert all(entry in ci for entry in entries)
