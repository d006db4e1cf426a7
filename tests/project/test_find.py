"""Finding a project's migrations, and what is said when they are not found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clonedb.errors import ConfigError, NoMigrationsError
from clonedb.project.find import find_project
from clonedb.settings.config import Config
from tests.project.checkout import ENVIRONMENT, Write, configured


def test_the_password_of_a_url_is_not_in_the_repr(write: Write) -> None:
    """A Project may be shown to anybody."""
    ini = "[alembic]\nscript_location = migrations\nsqlalchemy.url = postgresql://me:sesame@host/x\n"
    rootdir = write({**ENVIRONMENT, "alembic.ini": ini})

    assert "sesame" not in repr(find_project(Config(rootdir=rootdir)))


def test_the_setting_alone_is_enough(write: Write) -> None:
    """A project that makes its Alembic Config in Python needs no file."""
    rootdir = write(ENVIRONMENT)

    project = find_project(
        configured(rootdir, alembic={"script_location": "%(here)s/migrations"})
    )

    assert (project.ini, project.toml) == (None, None)
    assert project.script_location == rootdir / "migrations"
    assert project.version_locations == (rootdir / "migrations" / "versions",)
    assert project.env_py == rootdir / "migrations" / "env.py"
    assert project.name == "checkout"


def test_the_files_are_looked_for_in_order(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """alembic_ini comes before ALEMBIC_CONFIG, and that before alembic.ini of the project."""
    ini = "[alembic]\nscript_location = {}\n"
    rootdir = write(
        {
            **{f"{name}/env.py": "" for name in ("one", "two", "three")},
            "alembic.ini": ini.format("three"),
            "config/two.ini": ini.format("two"),
            "one/pyproject.toml": '[tool.alembic]\nscript_location = "one"\n',
        }
    )
    assert find_project(Config(rootdir=rootdir)).script_location == rootdir / "three"
    monkeypatch.setenv("ALEMBIC_CONFIG", "config/two.ini")
    assert find_project(Config(rootdir=rootdir)).script_location == rootdir / "two"
    project = find_project(configured(rootdir, alembic_ini="one/pyproject.toml"))
    assert (project.script_location, project.toml) == (
        rootdir / "one",
        rootdir / "one" / "pyproject.toml",
    )


def test_the_current_directory_does_not_decide(
    write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Beside another project's migrations a run still finds its own; only if it has none, those are taken."""
    rootdir = write({**ENVIRONMENT, "alembic.ini": "[alembic]\nscript_location = migrations\n"})
    other = tmp_path / "other"
    (other / "migrations").mkdir(parents=True)
    (other / "migrations" / "env.py").touch()
    monkeypatch.chdir(other)

    assert find_project(Config(rootdir=rootdir)).script_location == rootdir / "migrations"
    (rootdir / "migrations" / "env.py").unlink()
    assert find_project(Config(rootdir=rootdir)).script_location == other / "migrations"


def test_a_location_may_be_relative_to_the_ini_file(write: Write) -> None:
    """Flask-Migrate's layout: the ini file lies in the directory of the migrations."""
    rootdir = write(
        {"migrations/alembic.ini": "[alembic]\nscript_location = .\n", "migrations/env.py": ""}
    )

    project = find_project(configured(rootdir, alembic_ini="migrations/alembic.ini"))

    assert project.script_location == rootdir / "migrations"


def test_a_package_location_is_found_without_importing_it(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package below src, or an installed one, is located by looking."""
    rootdir = write(
        {
            "src/shop/__init__.py": "raise RuntimeError('imported')",
            "src/shop/db/migrations/env.py": "",
            "alembic.ini": "[alembic]\nscript_location = shop.db:migrations\n",
        }
    )
    assert (
        find_project(Config(rootdir=rootdir)).script_location
        == rootdir / "src/shop/db/migrations"
    )

    installed = rootdir / "lib" / "site-packages"
    (installed / "vendored" / "migrations").mkdir(parents=True)
    (installed / "vendored" / "migrations" / "env.py").touch()
    (installed / "vendored" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(installed))
    project = find_project(
        configured(rootdir, alembic={"script_location": "vendored:migrations"})
    )
    assert project.script_location == installed / "vendored" / "migrations"


def test_import_roots_come_from_alembic_the_layout_and_pytest(write: Write) -> None:
    """prepend_sys_path, the project, src, and pytest's pythonpath in whatever file pytest reads it from."""
    rootdir = write(
        {
            **ENVIRONMENT,
            **{f"{name}/keep": "" for name in ("src", "one", "two words", "three", "four")},
            "alembic.ini": "[alembic]\nscript_location = migrations\nprepend_sys_path = lib\n",
            "pyproject.toml": '[tool.pytest.ini_options]\npythonpath = ["one", "two words", "missing"]\n',
            "pytest.ini": "[pytest]\npythonpath = three '%odd'\n",
            "setup.cfg": "[tool:pytest]\npythonpath = four\n",
            "tox.ini": "this is not an ini file",
        }
    )

    project = find_project(Config(rootdir=rootdir))

    names = [root.relative_to(rootdir).as_posix() for root in project.import_roots]
    assert names == ["lib", ".", "src", "one", "two words", "three", "four"]


@pytest.mark.parametrize("recursive", ["false", "true"])
def test_revision_files_are_those_that_alembic_loads(write: Write, recursive: str) -> None:
    """Its pattern decides: hidden files count, __init__ and other suffixes do not, subdirectories when recursive."""
    revision = "revision = {!r}\ndown_revision = None\n"
    names = [
        "a.py",
        ".hidden.py",
        "below/c.py",
        "__init__.py",
        "d.sql",
        "#e.py#",
        "f.py~",
        "__pycache__/g.py",
    ]
    rootdir = write(
        {
            "migrations/env.py": "",
            **{f"migrations/versions/{name}": revision.format(name) for name in names},
            "alembic.ini": f"[alembic]\nscript_location = migrations\nrecursive_version_locations = {recursive}\n",
        }
    )
    from alembic.config import Config as AlembicConfig
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(AlembicConfig(rootdir / "alembic.ini"))
    loaded = {Path(revision.path) for revision in script.walk_revisions()}

    files = find_project(Config(rootdir=rootdir)).revision_files()

    assert set(files) == loaded
    assert list(files) == sorted(files)


def test_without_migrations_the_error_lists_the_places_and_the_remedies(write: Write) -> None:
    """Everything that was looked at and why it did not do, what to write, and an alembic.ini that lies near."""
    rootdir = write(
        {"backend/alembic.ini": "[alembic]\n", "pyproject.toml": "[project]\nname = 'x'\n"}
    )

    with pytest.raises(NoMigrationsError) as caught:
        find_project(Config(rootdir=rootdir))

    message = str(caught.value)
    assert "setting alembic_ini: not set" in message
    assert "environment variable ALEMBIC_CONFIG: not set" in message
    assert f"{rootdir / 'alembic.ini'}: no such file" in message
    assert f"{rootdir / 'pyproject.toml'}: no [tool.alembic]" in message
    assert "setting alembic: no script_location" in message
    assert "alembic init" in message
    assert "alembic_ini = 'backend/alembic.ini'" in message
    assert "[tool.clonedb.alembic]" in message


BROKEN = {
    "no directory": (
        {"alembic.ini": "[alembic]\nscript_location = nowhere\n"},
        {},
        "no such directory; looked at",
    ),
    "no env.py": (
        {"alembic.ini": "[alembic]\nscript_location = m\n", "m/x": ""},
        {},
        "has no env.py; `alembic init`",
    ),
    "no package": (
        {"alembic.ini": "[alembic]\nscript_location = nope:m\n"},
        {},
        "no package 'nope' was found",
    ),
    "no package of versions": (
        {
            **ENVIRONMENT,
            "alembic.ini": "[alembic]\nscript_location = migrations\nversion_locations = nope:m\n",
        },
        {},
        "version_locations names 'nope:m'",
    ),
    "separator": (
        {
            **ENVIRONMENT,
            "alembic.ini": "[alembic]\nscript_location=migrations\npath_separator=spaces\nprepend_sys_path=.\n",
        },
        {},
        "cannot be read by Alembic: 'spaces' is not a valid value for path_separator",
    ),
    "ini does not parse": (
        {"alembic.ini": "script_location = x\n"},
        {},
        "alembic.ini' cannot be read",
    ),
    "toml does not parse": (
        {"pyproject.toml": "[tool.alembic\n"},
        {},
        "pyproject.toml' cannot be read",
    ),
    "toml is no table": ({"pyproject.toml": "[tool]\nalembic = 'x'\n"}, {}, "it takes a table"),
    "named file missing": ({}, {"alembic_ini": "x.ini"}, "test: there is no file"),
}


@pytest.mark.parametrize(("files", "settings", "message"), BROKEN.values(), ids=BROKEN)
def test_what_leads_nowhere_is_said(
    write: Write, files: dict[str, str], settings: dict[str, object], message: str
) -> None:
    """Each wrong turn is a ConfigError that names it."""
    rootdir = write({"README": "", **files})

    with pytest.raises(ConfigError, match=message):
        find_project(configured(rootdir, **settings))


def test_a_missing_file_in_the_environment_is_said(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ALEMBIC_CONFIG that names nothing is no reason to take another file."""
    rootdir = write({**ENVIRONMENT, "alembic.ini": "[alembic]\nscript_location = migrations\n"})
    monkeypatch.setenv("ALEMBIC_CONFIG", "gone.ini")

    with pytest.raises(ConfigError, match="ALEMBIC_CONFIG: there is no file"):
        find_project(Config(rootdir=rootdir))


def test_a_broken_ini_file_does_not_give_its_password_away(write: Write) -> None:
    """The parser's message quotes lines; what is shown of them has no password."""
    rootdir = write({"alembic.ini": "sqlalchemy.url = postgresql://me:sesame@host/x\n"})

    with pytest.raises(ConfigError) as caught:
        find_project(Config(rootdir=rootdir))

    assert "sesame" not in str(caught.value)
    assert caught.value.__context__ is None


def test_nothing_of_alembic_or_the_project_is_imported(write: Write) -> None:
    """Finding a project is static, and cheap for it."""
    rootdir = write(
        {
            "app/__init__.py": "raise RuntimeError('imported')",
            "app/migrations/env.py": "raise RuntimeError('run')",
            "alembic.ini": "[alembic]\nscript_location = app:migrations\n",
        }
    )
    program = (
        "import sys, pathlib\n"
        "from clonedb.settings.config import Config\nfrom clonedb.project.find import find_project\n"
        "find_project(Config(rootdir=pathlib.Path(sys.argv[1])))\n"
        "print({'alembic', 'sqlalchemy', 'app', 'psycopg', 'importlib.metadata'} & sys.modules.keys())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(rootdir)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "set()\n"
