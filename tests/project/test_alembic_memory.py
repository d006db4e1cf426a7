"""What Alembic answered is remembered: it is asked again when something changed that its answer depends on."""

from __future__ import annotations

import json
import py_compile
import subprocess
from pathlib import Path

import pytest

from clonedb.migrate.recipes import find_recipe
from clonedb.project.alembic_options import AlembicFiles
from clonedb.project.find import find_project
from clonedb.settings.config import Config
from tests.project.checkout import ENVIRONMENT, Write, as_alembic_sees, configured

INI = "[alembic]\nscript_location = migrations\ndata = %(here)s/data\nversion_locations = %(here)s/more\npath_separator = os\n"


class AskedError(Exception):
    """Alembic was asked."""


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, asking Alembic fails."""

    def ask(*_: object, **__: object) -> None:
        raise AskedError

    monkeypatch.setattr(subprocess, "run", ask)


def test_alembic_is_asked_once_for_the_same_contents(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for another checkout, in which `%(here)s` is another directory."""
    rootdir = write({**ENVIRONMENT, "alembic.ini": INI})
    first = find_project(Config(rootdir=rootdir))
    forbid(monkeypatch)

    assert find_project(Config(rootdir=rootdir)) == first
    other = tmp_path / "other"
    (other / "migrations").mkdir(parents=True)
    (other / "migrations/env.py").touch()
    (other / "alembic.ini").write_text(INI)
    found = find_project(Config(rootdir=other))
    assert (found.options["data"], found.version_locations) == (
        f"{other}/data",
        (other / "more",),
    )


@pytest.mark.parametrize("change", ["ini", "setting", "section", "table"])
def test_alembic_is_asked_again_when_its_answer_may_be_another(
    write: Write, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edit that leaves the size, another setting, section or table; but no other line of pyproject.toml."""
    rootdir = write(
        {**ENVIRONMENT, "alembic.ini": INI, "pyproject.toml": "[project]\nname = 'a'\n"}
    )
    config = Config(rootdir=rootdir)
    find_project(config)
    forbid(monkeypatch)
    write({"pyproject.toml": "[project]\nname = 'b'\n"})
    assert find_project(config).name == "b"

    if change == "ini":
        write({"alembic.ini": INI.replace("/data", "/tada")})
    elif change == "table":
        write({"pyproject.toml": "[tool.alembic]\nx = 1\n"})
    elif change == "setting":
        config = config.replace("test", alembic={"data": "x"})
    else:
        config = config.replace("test", alembic_section="other")
    with pytest.raises(AskedError):
        find_project(config)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"state": "x"}', "no answer"])
def test_a_damaged_answer_is_asked_for_again(write: Write, tmp_path: Path, damage: str) -> None:
    """It costs time and no more."""
    rootdir = write({**ENVIRONMENT, "alembic.ini": INI})
    first = find_project(Config(rootdir=rootdir))
    (kept,) = (tmp_path / "state" / "index").glob("alembic-*")
    if damage == "no answer":
        damage = json.dumps({**json.loads(kept.read_text()), "answer": {}})
    kept.write_text(damage)

    assert find_project(Config(rootdir=rootdir)) == first


def test_pyproject_toml_edited_before_alembic_reads_it(write: Write) -> None:
    """What is remembered for a table is what Alembic makes of that table, not of the edited one."""
    table = {"script_location": "migrations", "data": "old"}
    rootdir = write(
        {"pyproject.toml": "[tool.alembic]\nscript_location = 'migrations'\ndata = 'new'\n"}
    )
    files = AlembicFiles(
        rootdir / "alembic.ini", rootdir / "pyproject.toml", table, "alembic", {}
    )

    asked = files.read(Config(rootdir=rootdir))
    assert asked.values["data"] == "old"
    assert files.read(Config(rootdir=rootdir)) == asked


def test_what_an_interpreter_prints_when_it_starts_is_no_answer(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sitecustomize may print."""
    rootdir = write(
        {**ENVIRONMENT, "alembic.ini": INI, "site/sitecustomize.py": "print('{hello}', end='')"}
    )
    monkeypatch.setenv("PYTHONPATH", str(rootdir / "site"))
    assert find_project(Config(rootdir=rootdir)).options["data"] == f"{rootdir}/data"


def test_a_directory_that_alembic_would_split_is_asked_about_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old way to split lists does so at spaces, also within `%(here)s`."""
    rootdir = tmp_path / "two words"
    text = INI.replace("path_separator = os\n", "")
    for name, content in {**ENVIRONMENT, "alembic.ini": text}.items():
        (rootdir / name).parent.mkdir(parents=True, exist_ok=True)
        (rootdir / name).write_text(content)
    monkeypatch.chdir(rootdir)
    expected = as_alembic_sees(rootdir, ini=rootdir / "alembic.ini", toml=None)

    assert len(expected.version_locations) == 2
    found = find_project(Config(rootdir=rootdir))
    assert found.version_locations[0] == expected.version_locations[0] == tmp_path / "two"


def test_compiled_revisions_are_inputs_where_alembic_runs_them(write: Write) -> None:
    """With `sourceless`, those without their source, also in __pycache__; an edited one is another template."""
    ini = "[alembic]\nscript_location = migrations\nsourceless = true\n"
    rootdir = write({"migrations/env.py": "", "alembic.ini": ini})
    versions = rootdir / "migrations" / "versions"

    def compiled(name: str, source: str, *, keep: bool = False, cached: bool = False) -> None:
        path = versions / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
        py_compile.compile(str(path), None if cached else f"{path}c", doraise=True)
        if not keep:
            path.unlink()

    revision = "revision = {!r}\ndown_revision = None\n"
    compiled("a", revision.format("a"))
    compiled("b", revision.format("b"), keep=True)
    compiled("c", revision.format("c"), cached=True)
    compiled("d", revision.format("d"), keep=True, cached=True)
    from alembic.config import Config as AlembicConfig
    from alembic.script import ScriptDirectory

    script = ScriptDirectory.from_config(AlembicConfig(rootdir / "alembic.ini"))
    loaded = {Path(each.path) for each in script.walk_revisions()}
    assert len(loaded) == 4

    recipe = find_recipe(configured(rootdir))
    before = recipe.inputs(None).inputs
    assert set(find_project(configured(rootdir)).revision_files()) == loaded
    names = {str(path.relative_to(rootdir)) for path in loaded}
    assert {each.name for each in before if each.kind == "revision"} == names
    compiled("a", revision.format("a") + "changed = 1\n")
    (changed,) = {*recipe.inputs(None).inputs} - {*before}
    assert (changed.kind, changed.name) == ("revision", "migrations/versions/a.pyc")
