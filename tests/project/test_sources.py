"""Which files a template is made of, what they are called, and which extensions they name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clonedb.errors import ConfigError
from clonedb.migrate.recipes import find_recipe
from clonedb.project.inputs import Input, Sources
from clonedb.settings.config import Config

Look = Callable[..., Sources]
Named = set[tuple[str, str]]

BASE = {
    "alembic.ini": "[alembic]\nscript_location = migrations\nprepend_sys_path = .\n",
    "migrations/env.py": "",
    "migrations/versions/a.py": "",
}


@pytest.fixture
def rootdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("ALEMBIC_CONFIG", raising=False)
    return tmp_path / "checkout"


@pytest.fixture
def look(rootdir: Path) -> Look:
    """Add files to a project of one revision, and read what its template is made of."""

    def look(files: dict[str, str] | None = None, **settings: Any) -> Sources:
        for name, text in {**BASE, **(files or {})}.items():
            path = rootdir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        config = Config(rootdir=rootdir).replace("test", **settings)
        return find_recipe(config).inputs(None)

    return look


def files_of(sources: Sources) -> list[Input]:
    """The files among the inputs, ordered."""
    return sorted(
        item for item in sources.inputs if item.kind not in ("option", "target", "version")
    )


def named(sources: Sources) -> Named:
    """What the files among the inputs are called."""
    return {(item.kind, item.name) for item in files_of(sources)}


def test_the_extensions_of_every_source_are_named(
    look: Look, rootdir: Path, tmp_path: Path
) -> None:
    """Revisions, what they import, SQL beside them, seeds, watched files and the configuration; not env.py's models."""
    files = {
        "migrations/env.py": "import shop.models",
        "migrations/versions/b.py": "import shop.rows\nexecute('CREATE EXTENSION \"uuid-ossp\"')",
        "migrations/view.sql": "-- CREATE EXTENSION nothing\nCREATE EXTENSION IF NOT EXISTS citext;",
        "shop/rows.py": "EXTENSION = 'create extension hstore'",
        "shop/models.py": "TEXT = 'CREATE EXTENSION ltree'",
        "seeds.sql": "CREATE EXTENSION pg_trgm;",
        "shop/seeding.py": "def fill(c): c.execute('create extension unaccent')",
        "schema.sql": "CREATE EXTENSION vector",
    }
    settings: dict[str, Any] = {
        "seed": ["seeds.sql", "shop.seeding:fill"],
        "watch": ["*.sql"],
        "extensions": ["pgcrypto"],
    }
    expected = {"pgcrypto", "uuid-ossp", "hstore", "citext", "pg_trgm", "unaccent", "vector"}

    assert look(files, **settings).extensions == expected

    config = Config(rootdir=rootdir).replace("test", **settings)
    recipe = find_recipe(config)
    for index_dir in (None, tmp_path / "index", tmp_path / "index"):
        assert recipe.inputs(index_dir).extensions == expected


def test_a_script_location_that_holds_the_project_is_not_all_migrations(look: Look) -> None:
    """With env.py in the project's own directory only the files beside it count, and the version locations."""
    ini = "[alembic]\nscript_location = .\nversion_locations = migrations/versions\n"
    found = named(
        look({"alembic.ini": ini, "env.py": "", "tests/test_shop.py": "", "README.md": ""})
    )

    assert found == {
        ("env", "env.py"),
        ("script", "README.md"),
        ("script", "alembic.ini"),
        ("revision", "migrations/versions/a.py"),
    }


def test_migrations_outside_of_the_project_have_names_of_their_own(
    look: Look, tmp_path: Path
) -> None:
    """Of an installed package, say: the directory's name, wherever it is; files of one name are two inputs."""
    found = []
    for place in ("one", "two"):
        outside = tmp_path / place / "site-packages" / "vendored"
        (outside / "migrations" / "versions").mkdir(parents=True)
        (outside / "migrations" / "env.py").touch()
        (outside / "migrations" / "versions" / "a.py").touch()
        shutil.copytree(outside / "migrations" / "versions", outside / "more" / "versions")
        options = {
            "script_location": str(outside / "migrations"),
            "path_separator": "os",
            "version_locations": f"{outside}/migrations/versions:{outside}/more/versions",
        }
        found.append(files_of(look(alembic=options)))

    assert found[0] == found[1]
    assert [(kind, name) for kind, name, _ in found[0]] == [
        ("env", "migrations/env.py"),
        ("revision", "versions/a.py"),
        ("revision", "versions/a.py"),
    ]


def test_modules_outside_of_the_project_are_called_by_their_dotted_names(
    look: Look, tmp_path: Path
) -> None:
    """A sibling directory on prepend_sys_path may be anywhere on another machine."""
    (tmp_path / "library" / "common").mkdir(parents=True)
    (tmp_path / "library" / "common" / "__init__.py").touch()
    ini = "[alembic]\nscript_location = migrations\nprepend_sys_path = ../library\n"

    found = named(look({"alembic.ini": ini, "migrations/versions/b.py": "import common"}))

    assert ("import", "common") in found


@pytest.mark.parametrize("recursive", ["true", "false"])
def test_revisions_below_count_as_revisions_when_alembic_loads_them(
    look: Look, recursive: str
) -> None:
    """With recursive_version_locations, in hidden directories too, because Alembic enters them."""
    files = {
        "migrations/versions/old/z.py": "import shop",
        "migrations/versions/.old/y.py": "",
        "shop.py": "",
    }
    found = named(look(files, alembic={"recursive_version_locations": recursive}))

    loaded = {
        ("revision", "migrations/versions/old/z.py"),
        ("revision", "migrations/versions/.old/y.py"),
        ("import", "shop.py"),
    }
    beside = {("script", "migrations/versions/old/z.py")}
    usual = {("env", "migrations/env.py"), ("revision", "migrations/versions/a.py")}
    assert found == usual | (loaded if recursive == "true" else beside)


def test_a_file_that_a_revision_imports_counts_once(look: Look) -> None:
    """Below the script location it is a script already; the module of a seed is the seed."""
    files = {
        "migrations/__init__.py": "",
        "migrations/tables.py": "",
        "migrations/versions/b.py": "import migrations.tables, filling",
        "filling.py": "",
    }
    found = [
        (item.kind, item.name)
        for item in files_of(look(files, seed=["filling:fill"], watch=["**/*.py"]))
    ]

    assert found == [
        ("env", "migrations/env.py"),
        ("revision", "migrations/versions/a.py"),
        ("revision", "migrations/versions/b.py"),
        ("script", "migrations/__init__.py"),
        ("script", "migrations/tables.py"),
        ("seed", "filling:fill"),
    ]


def test_files_with_odd_names_and_kinds_do_no_harm(look: Look, rootdir: Path) -> None:
    """Bytes that are no text, newlines (no revision to Alembic), dangling links, and links that go round."""
    look()
    versions = rootdir / "migrations" / "versions"
    Path(os.fsdecode(bytes(versions) + b"/\xff.py")).touch()
    (versions / "new\nline.py").touch()
    (versions / "dangling.py").symlink_to("nowhere")
    (versions / "round").symlink_to(versions)

    found = named(look())

    assert found == {
        ("env", "migrations/env.py"),
        ("revision", "migrations/versions/a.py"),
        ("revision", "migrations/versions/\\xff.py"),
        ("script", "migrations/versions/new\nline.py"),
    }
    json.dumps(sorted(found)).encode("ascii")


def test_a_file_that_cannot_be_read_is_said(look: Look, rootdir: Path) -> None:
    """An input/output error is no reason to leave a revision out."""
    look()
    (rootdir / "migrations" / "versions" / "c.py").symlink_to("/proc/self/mem")

    with pytest.raises(
        ConfigError,
        match=r"versions/c\.py' belongs to what the template is made of, but cannot be",
    ):
        look()


WRONG = {
    "watch": (
        {"watch": ["nothing/*.sql"]},
        r"test: watch names 'nothing/\*\.sql', which matches no file",
    ),
    "watch a directory": ({"watch": ["migrations"]}, r"matches no file.*'directory/\*\*'"),
    "seed file": ({"seed": ["gone.sql"]}, r"test: seed 'gone\.sql' is neither a file"),
    "seed directory": ({"seed": ["migrations"]}, r"neither a file"),
    "seed name": ({"seed": ["gone"]}, r"neither a file"),
    "seed module": (
        {"seed": ["shop.gone:fill"]},
        r"seed 'shop\.gone:fill' names a module that was not found",
    ),
    "seed package": ({"seed": ["gone:fill"]}, r"names a module that was not found; looked in"),
}


@pytest.mark.parametrize(("settings", "message"), WRONG.values(), ids=WRONG)
def test_settings_that_lead_nowhere_are_said(
    look: Look, settings: dict[str, object], message: str
) -> None:
    """A watch glob without a match and a seed that is not there would go unseen for ever."""
    with pytest.raises(ConfigError, match=message):
        look({"shop/__init__.py": ""}, **settings)


def test_watched_files_beyond_the_project_are_named_by_their_way_there(
    look: Look, rootdir: Path
) -> None:
    """Relative globs keep their form; below ** hidden files and caches are left out."""
    files = {
        "../shared/base.sql": "",
        "schema/one.csv": "",
        "schema/one.csv~": "",
        "schema/deep/er/x.txt": "",
        "schema/__pycache__/x.txt": "",
        "schema/.hidden/x.txt": "",
        "README.md": "",
    }
    found = named(
        look(files, watch=["../shared/*.sql", "schema/**", str(rootdir / "README.md")])
    )

    assert {name for kind, name in found if kind == "watch"} == {
        "../shared/base.sql",
        "schema/one.csv",
        "schema/deep/er/x.txt",
        "README.md",
    }
