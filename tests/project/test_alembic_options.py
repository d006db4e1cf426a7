"""Alembic's options: Alembic itself is the judge wherever it has an opinion."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from clonedb.errors import ConfigError, NoMigrationsError
from clonedb.project.find import find_project
from clonedb.settings.config import Config
from tests.project.checkout import ENVIRONMENT, Write, as_alembic_sees, configured

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
def test_an_ini_file_is_read_as_alembic_reads_it(
    write: Write, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locations, separators, interpolation and booleans of alembic.ini come out as in Alembic."""
    package = {
        "shop/__init__.py": "",
        "shop/database/migrations/env.py": "",
        "shop/database/more/c.py": "",
    }
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


BY_ALEMBIC_INIT = sorted(Path(__file__).with_name("alembic_init").glob("alembic-*.ini"))


@pytest.mark.parametrize("path", BY_ALEMBIC_INIT, ids=lambda path: path.stem)
def test_what_alembic_init_wrote_is_read_as_alembic_reads_it(write: Write, path: Path) -> None:
    """Since 1.7.0; up to 1.14.0 a comment stands in the value of version_path_separator, which Alembic does not read."""
    rootdir = write({**ENVIRONMENT, "alembic.ini": path.read_text()})
    expected = as_alembic_sees(rootdir, ini=rootdir / "alembic.ini", toml=None)

    project = find_project(Config(rootdir=rootdir))

    assert project.script_location == expected.script_location == rootdir / "migrations"
    assert project.version_locations == expected.version_locations
    assert project.prepended == expected.import_roots == (rootdir,)


def test_a_separator_counts_where_it_separates(write: Write) -> None:
    """With version_locations Alembic refuses such a value, and so do we, in its words."""
    (old,) = [path for path in BY_ALEMBIC_INIT if path.stem == "alembic-1.13.3"]
    text = old.read_text().replace(
        "prepend_sys_path", "version_locations = migrations/versions\nprepend_sys_path", 1
    )
    rootdir = write({**ENVIRONMENT, "alembic.ini": text})

    with pytest.raises(
        ConfigError,
        match=r"alembic\.ini' cannot be read by Alembic: 'os  # Use .*' is not a valid value for version_path_separator",
    ):
        find_project(Config(rootdir=rootdir))


def test_the_pyproject_toml_of_alembic_init_is_read_as_alembic_reads_it(write: Write) -> None:
    """`alembic init -t pyproject` leaves no options in alembic.ini."""
    text = (
        Path(__file__).with_name("alembic_init").joinpath("pyproject-1.20.1.toml").read_text()
    )
    rootdir = write(
        {**ENVIRONMENT, "pyproject.toml": text, "alembic.ini": "[loggers]\nkeys = root\n"}
    )
    expected = as_alembic_sees(
        rootdir, ini=rootdir / "alembic.ini", toml=rootdir / "pyproject.toml"
    )

    project = find_project(Config(rootdir=rootdir))

    assert project.script_location == expected.script_location == rootdir / "migrations"
    assert project.version_locations == expected.version_locations
    assert project.prepended == expected.import_roots == (rootdir,)


@pytest.mark.parametrize("separator", [None, "os", "space"])
def test_a_list_in_the_setting_alembic_is_a_list(write: Write, separator: str | None) -> None:
    """Whatever separator the .ini file has for its own texts; `%(here)s` is the file's directory."""
    chosen = f"path_separator = {separator}\n" if separator else ""
    rootdir = write(
        {**ENVIRONMENT, "alembic.ini": f"[alembic]\nscript_location = migrations\n{chosen}"}
    )
    locations = ["migrations/versions", "%(here)s/more/versions"]

    project = find_project(configured(rootdir, alembic={"version_locations": locations}))

    assert project.version_locations == (
        rootdir / "migrations" / "versions",
        rootdir / "more" / "versions",
    )


TOML = {
    "plain": 'script_location = "migrations"',
    "here and lists": 'script_location = "%(here)s/migrations"\nprepend_sys_path = ["lib", "."]\n'
    'version_locations = ["%(here)s/more/versions", "migrations/versions"]',
    "boolean": 'script_location = "migrations"\nrecursive_version_locations = true\nfile_template = "%%(rev)s"',
    "separator": 'script_location = "migrations"\npath_separator = "os"\nversion_locations = ["more/versions"]',
}


@pytest.mark.parametrize("text", TOML.values(), ids=TOML)
@pytest.mark.parametrize(
    "ini", [None, "[alembic]\nversion_locations = migrations/versions\nversion_table = mine\n"]
)
def test_pyproject_fills_in_what_the_ini_file_lacks(
    write: Write, text: str, ini: str | None
) -> None:
    """[tool.alembic] is read as Alembic reads it, alone and beside an alembic.ini, whose options win."""
    pyproject = f'[project]\nname = "shop"\n[tool.alembic]\n{text}\n'
    rootdir = write(
        {**ENVIRONMENT, "pyproject.toml": pyproject, **({"alembic.ini": ini} if ini else {})}
    )
    found_ini = rootdir / "alembic.ini" if ini else None
    expected = as_alembic_sees(rootdir, ini=found_ini, toml=rootdir / "pyproject.toml")

    project = find_project(Config(rootdir=rootdir))

    assert (project.ini, project.toml, project.name) == (
        found_ini,
        rootdir / "pyproject.toml",
        "shop",
    )
    assert project.script_location == expected.script_location
    assert project.version_locations == expected.version_locations
    assert project.recursive == expected.recursive
    assert set(project.import_roots) == {*expected.import_roots, rootdir}


def test_another_section_is_read_when_it_is_named(write: Write) -> None:
    """alembic_section is alembic's -n."""
    rootdir = write(
        {**ENVIRONMENT, "alembic.ini": "[alembic]\n[orders]\nscript_location = migrations\n"}
    )

    project = find_project(configured(rootdir, alembic_section="orders"))

    assert (project.section, project.script_location) == ("orders", rootdir / "migrations")
    with pytest.raises(
        NoMigrationsError, match=r"no section \[order\] \(did you mean 'orders'\?\)"
    ):
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

    overrides = {
        "version_table": "b",
        "sqlalchemy.url": "{url}",
        "data": "%(here)s/data",
        "share": "5%",
    }
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
    assert (
        find_project(Config(rootdir=rootdir)).options["sqlalchemy.url"]
        == "postgresql://%(DB_USER)s@host/x"
    )


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
