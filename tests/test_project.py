"""Finding a project's migrations: Alembic itself is the judge wherever it has an opinion."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from clonedb.config import Config
from clonedb.errors import ConfigError, NoMigrationsError
from clonedb.project import Project, find_project

Write = Callable[[dict[str, str]], Path]


@pytest.fixture(autouse=True)
def _no_alembic_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALEMBIC_CONFIG", raising=False)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a project's files into its directory, the current one, and return it."""
    rootdir = tmp_path / "checkout"
    rootdir.mkdir()
    monkeypatch.chdir(rootdir)

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = rootdir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return rootdir

    return write


def configured(rootdir: Path, **settings: object) -> Config:
    return Config(rootdir=rootdir).replace("test", **settings)


def as_alembic_sees(rootdir: Path, *, ini: Path | None, toml: Path | None, section: str = "alembic") -> Project:
    """What Alembic makes of the same files, as far as it says; sys.path is put back."""
    from alembic.config import Config as AlembicConfig
    from alembic.script import ScriptDirectory

    path = sys.path[:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = AlembicConfig(ini, toml_file=toml, ini_section=section)
        script = ScriptDirectory.from_config(config)
        prepended = config.get_prepend_sys_paths_list() or []
        locations = [str(location) for location in script._version_locations]
    sys.path[:] = path
    roots = [Path(os.path.normpath(rootdir / text)) for text in prepended if text]
    return Project(
        rootdir=rootdir,
        ini=ini,
        toml=toml,
        section=section,
        options={},
        script_location=Path(os.path.normpath(rootdir / script.dir)),
        version_locations=tuple(Path(os.path.normpath(location)) for location in locations),
        recursive=script.recursive_version_locations,
        import_roots=tuple(root for root in dict.fromkeys(roots) if root.is_dir()),
        name="",
    )


ENVIRONMENT = {"migrations/env.py": "", "migrations/versions/a.py": "", "lib/x.py": "", "more/versions/b.py": ""}
INI = {
    "plain": "[alembic]\nscript_location = migrations\n",
    "here": "[alembic]\nscript_location = %(here)s/migrations\nprepend_sys_path = .\n",
    "own interpolation": "[alembic]\nbase = migr\nscript_location = %(base)sations\nprepend_sys_path = . lib\n",
    "default section": "[DEFAULT]\nscript_location = migrations\n[alembic]\n",
    "legacy commas": "[alembic]\nscript_location=migrations\nversion_locations = migrations/versions, more/versions\n",
    "legacy spaces": "[alembic]\nscript_location=migrations\nversion_locations=migrations/versions  more/versions\n"
    "prepend_sys_path = .:lib\n",
    "os": "[alembic]\nscript_location=migrations\npath_separator=os\nprepend_sys_path=.:lib\n"
    "version_locations=%(here)s/migrations/versions:more/versions\n",
    "newline": "[alembic]\nscript_location=migrations\npath_separator=newline\nversion_locations=\n  more/versions\n"
    "  migrations/versions\n",
    "semicolon": "[alembic]\nscript_location=migrations\nversion_path_separator=;\n"
    "version_locations=more/versions;migrations/versions\nprepend_sys_path=. lib\n",
    "recursive": "[alembic]\nscript_location = migrations\nrecursive_version_locations = true\n",
    "not quite true": "[alembic]\nscript_location = migrations\nrecursive_version_locations = True\n",
    "package": "[alembic]\nscript_location = shop:database/migrations\nversion_locations = shop:database:more\n",
}


@pytest.mark.parametrize("text", INI.values(), ids=INI)
def test_an_ini_file_is_read_as_alembic_reads_it(write: Write, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locations, separators, interpolation and booleans of alembic.ini come out as in Alembic."""
    package = {"shop/__init__.py": "", "shop/database/migrations/env.py": "", "shop/database/more/c.py": ""}
    rootdir = write({**ENVIRONMENT, **package, "alembic.ini": text})
    monkeypatch.syspath_prepend(str(rootdir))
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    expected = as_alembic_sees(rootdir, ini=rootdir / "alembic.ini", toml=None)
    monkeypatch.delitem(sys.modules, "shop", raising=False)

    project = find_project(Config(rootdir=rootdir))

    assert project.ini == rootdir / "alembic.ini"
    assert project.toml is None
    assert project.script_location == expected.script_location
    assert project.version_locations == expected.version_locations
    assert project.recursive == expected.recursive
    assert project.import_roots == tuple(dict.fromkeys([*expected.import_roots, rootdir]))


TOML = {
    "plain": 'script_location = "migrations"',
    "here and lists": 'script_location = "%(here)s/migrations"\nprepend_sys_path = ["lib", "."]\n'
    'version_locations = ["%(here)s/more/versions", "migrations/versions"]',
    "boolean": 'script_location = "migrations"\nrecursive_version_locations = true\nfile_template = "%%(rev)s"',
    "separator": 'script_location = "migrations"\npath_separator = "os"\nversion_locations = ["more/versions"]',
}


@pytest.mark.parametrize("text", TOML.values(), ids=TOML)
@pytest.mark.parametrize("ini", [None, "[alembic]\nversion_locations = migrations/versions\nversion_table = mine\n"])
def test_pyproject_fills_in_what_the_ini_file_lacks(write: Write, text: str, ini: str | None) -> None:
    """[tool.alembic] is read as Alembic reads it, alone and beside an alembic.ini, whose options win."""
    pyproject = f'[project]\nname = "shop"\n[tool.alembic]\n{text}\n'
    rootdir = write({**ENVIRONMENT, "pyproject.toml": pyproject, **({"alembic.ini": ini} if ini else {})})
    found_ini = rootdir / "alembic.ini" if ini else None
    expected = as_alembic_sees(rootdir, ini=found_ini, toml=rootdir / "pyproject.toml")

    project = find_project(Config(rootdir=rootdir))

    assert (project.ini, project.toml, project.name) == (found_ini, rootdir / "pyproject.toml", "shop")
    assert project.script_location == expected.script_location
    assert project.version_locations == expected.version_locations
    assert project.recursive == expected.recursive
    assert set(project.import_roots) == {*expected.import_roots, rootdir}


def test_another_section_is_read_when_it_is_named(write: Write) -> None:
    """alembic_section is alembic's -n."""
    rootdir = write({**ENVIRONMENT, "alembic.ini": "[alembic]\n[orders]\nscript_location = migrations\n"})

    project = find_project(configured(rootdir, alembic_section="orders"))

    assert (project.section, project.script_location) == ("orders", rootdir / "migrations")
    with pytest.raises(NoMigrationsError, match=r"no section \[order\] \(did you mean 'orders'\?\)"):
        find_project(configured(rootdir, alembic_section="order"))


def test_options_are_interpolated_and_overridden(write: Write) -> None:
    """The setting alembic goes on top and is interpolated too; {url} and what cannot be resolved are left."""
    rootdir = write(
        {
            **ENVIRONMENT,
            "alembic.ini": "[alembic]\nscript_location = migrations\nversion_table = a\nfile_template = %%(rev)s\n"
            "sqlalchemy.url = postgresql://%(DB_USER)s@host/x\nSchema = main\n",
        }
    )

    overrides = {"version_table": "b", "sqlalchemy.url": "{url}", "data": "%(here)s/data", "share": "5%"}
    project = find_project(configured(rootdir, alembic=overrides))

    assert dict(project.options) == {
        "script_location": "migrations",
        "version_table": "b",
        "file_template": "%(rev)s",
        "sqlalchemy.url": "{url}",
        "schema": "main",
        "data": f"{rootdir}/data",
        "share": "5%",
    }
    assert find_project(Config(rootdir=rootdir)).options["sqlalchemy.url"] == "postgresql://%(DB_USER)s@host/x"


def test_options_in_toml_become_the_text_of_an_ini_file(write: Write) -> None:
    """Lists are lines, booleans lower-case words; a percent sign that stands for nothing is left."""
    toml = """
        [tool.alembic]
        script_location = "migrations"
        data = "%(here)s/data"
        share = "5%"
        tables = ["a", "%%b"]
        strict = true
        depth = 3
        """
    rootdir = write({**ENVIRONMENT, "pyproject.toml": toml})

    assert dict(find_project(Config(rootdir=rootdir)).options) == {
        "script_location": "migrations",
        "data": f"{rootdir}/data",
        "share": "5%",
        "tables": "a\n%b",
        "strict": "true",
        "depth": "3",
    }


def test_the_password_of_a_url_is_not_in_the_repr(write: Write) -> None:
    """A Project may be shown to anybody."""
    ini = "[alembic]\nscript_location = migrations\nsqlalchemy.url = postgresql://me:sesame@host/x\n"
    rootdir = write({**ENVIRONMENT, "alembic.ini": ini})

    assert "sesame" not in repr(find_project(Config(rootdir=rootdir)))


def test_the_setting_alone_is_enough(write: Write) -> None:
    """A project that makes its Alembic Config in Python needs no file."""
    rootdir = write(ENVIRONMENT)

    project = find_project(configured(rootdir, alembic={"script_location": "%(here)s/migrations"}))

    assert (project.ini, project.toml) == (None, None)
    assert project.script_location == rootdir / "migrations"
    assert project.version_locations == (rootdir / "migrations" / "versions",)
    assert project.env_py == rootdir / "migrations" / "env.py"
    assert project.name == "checkout"


def test_the_files_are_looked_for_in_order(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert (project.script_location, project.toml) == (rootdir / "one", rootdir / "one" / "pyproject.toml")


def test_the_current_directory_does_not_decide(write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
    rootdir = write({"migrations/alembic.ini": "[alembic]\nscript_location = .\n", "migrations/env.py": ""})

    project = find_project(configured(rootdir, alembic_ini="migrations/alembic.ini"))

    assert project.script_location == rootdir / "migrations"


def test_a_package_location_is_found_without_importing_it(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package below src, or an installed one, is located by looking."""
    rootdir = write(
        {
            "src/shop/__init__.py": "raise RuntimeError('imported')",
            "src/shop/db/migrations/env.py": "",
            "alembic.ini": "[alembic]\nscript_location = shop.db:migrations\n",
        }
    )
    assert find_project(Config(rootdir=rootdir)).script_location == rootdir / "src/shop/db/migrations"

    installed = rootdir / "lib" / "site-packages"
    (installed / "vendored" / "migrations").mkdir(parents=True)
    (installed / "vendored" / "migrations" / "env.py").touch()
    (installed / "vendored" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(installed))
    project = find_project(configured(rootdir, alembic={"script_location": "vendored:migrations"}))
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
    names = ["a.py", ".hidden.py", "below/c.py", "__init__.py", "d.sql", "#e.py#", "f.py~", "__pycache__/g.py"]
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
    rootdir = write({"backend/alembic.ini": "[alembic]\n", "pyproject.toml": "[project]\nname = 'x'\n"})

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
    "no directory": ({"alembic.ini": "[alembic]\nscript_location = nowhere\n"}, {}, "no such directory; looked at"),
    "no env.py": ({"alembic.ini": "[alembic]\nscript_location = m\n", "m/x": ""}, {}, "has no env.py; `alembic init`"),
    "no package": ({"alembic.ini": "[alembic]\nscript_location = nope:m\n"}, {}, "no package 'nope' was found"),
    "no package of versions": (
        {**ENVIRONMENT, "alembic.ini": "[alembic]\nscript_location = migrations\nversion_locations = nope:m\n"},
        {},
        "version_locations names 'nope:m'",
    ),
    "separator": (
        {**ENVIRONMENT, "alembic.ini": "[alembic]\nscript_location=migrations\npath_separator=spaces\n"},
        {},
        r"path_separator is 'spaces' \(did you mean 'space'\?\); it takes one of",
    ),
    "ini does not parse": ({"alembic.ini": "script_location = x\n"}, {}, "alembic.ini' cannot be read"),
    "toml does not parse": ({"pyproject.toml": "[tool.alembic\n"}, {}, "pyproject.toml' cannot be read"),
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


def test_a_missing_file_in_the_environment_is_said(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert caught.value.__suppress_context__


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
        "from clonedb.config import Config\nfrom clonedb.project import find_project\n"
        "find_project(Config(rootdir=pathlib.Path(sys.argv[1])))\n"
        "print({'alembic', 'sqlalchemy', 'app', 'psycopg', 'importlib.metadata'} & sys.modules.keys())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(rootdir)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "set()\n"
