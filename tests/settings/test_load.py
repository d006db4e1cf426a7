"""Settings: which place wins, what each value says of its place, and which mistakes are caught."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clonedb.errors import ConfigError
from clonedb.settings.keys import KEYS
from clonedb.settings.load import load

# for each key three values that differ from its default and from each other: of the file, the environment, the options
VALUES: dict[str, tuple[Any, Any, Any]] = {
    "url": ("postgresql://file/", "postgresql://environment/", "postgresql://options/"),
    "servers": (2, 3, "auto"),
    "maintenance_database": ("file", "environment", "options"),
    "connect_timeout": (1.5, 2.0, 3.0),
    "postgres_bin": ("/file", "/environment", "/options"),
    "state_dir": ("/file", "/environment", "/options"),
    "data": ("memory", "disk", "auto"),
    "server": ({"jit": "on"}, {"work_mem": "8MB"}, {"wal_level": "logical"}),
    "idle_timeout": (1.5, 2.0, 3.0),
    "prefix": ("file", "environment", "options"),
    "alembic_ini": ("file.ini", "environment.ini", "options.ini"),
    "alembic_section": ("file", "environment", "options"),
    "alembic": ({"a": "file"}, {"a": "environment"}, {"a": "options"}),
    "x": (["file=1", "2"], ["environment=1", "2"], ["options=1"]),
    "prepare": ("file:f", "environment:f", "options:a.b"),
    "target": ("file", "environment", "options"),
    "metadata": (["file:a"], ["environment:b"], ["options:c.d"]),
    "schema": (["file.sql"], ["environment.sql"], ["options.sql"]),
    "migrate": (["file", "it"], ["environment"], ["options", "it"]),
    "seed": (["file.sql"], ["environment.sql"], ["options.sql"]),
    "extensions": (["file"], ["environment", "citext"], ["options"]),
    "roles": (["file"], ["environment"], ["options"]),
    "locale": ("C", "icu:de-DE", "builtin:C.UTF-8"),
    "watch": (["file/*"], ["environment/*"], ["options/*"]),
    "watch_env": (["FILE"], ["ENVIRONMENT"], ["OPTIONS"]),
    "salt": ("file", "environment", "options"),
    "base": ("file", "environment", "options"),
    "template": ("file", "environment", "options"),
    "templates": (
        {"file": {"target": "1"}},
        {"environment": {"seed": ["a.sql"]}},
        {"options": {"base": "default"}},
    ),
    "driver": ("psycopg", "psycopg2", "asyncpg"),
    "role": ("file", "environment", "options"),
    "role_password": ("file", "environment", "options"),
    "route": (["FILE"], ["ENVIRONMENT"], ["OPTIONS"]),
    "autouse": (True, False, True),
    "isolation": ("clone", "worker", "auto"),
    "strategy": ("file_copy", "wal_log", "auto"),
    "lock_timeout": (1.5, 2.0, 3.0),
    "lease_timeout": (15.0, 20.0, 30.0),
    "migrate_timeout": (1.5, 2.0, 3.0),
    "keep": ("all", "none", "failed"),
    "keep_count": (1, 2, 4),
    "keep_templates": (1, 2, 3),
    "keep_days": (1.5, 2.0, 3.0),
    "keep_bytes": (1, 2, 3),
    "max_clones": (1, 2, 3),
    "rebuild": (True, False, True),
    "frozen": (True, False, True),
    "echo": (True, False, True),
    "report": (True, False, True),
    "verify": (True, False, True),
    "off": (True, False, True),
}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("CLONEDB_") or name in ("DATABASE_URL", "TEST_DATABASE_URL"):
            monkeypatch.delenv(name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The top of a checkout: what is above it is not looked at."""
    (tmp_path / ".git").mkdir()
    return tmp_path


@pytest.fixture
def settings(root: Path) -> Callable[[str], Path]:
    """Writes lines into the [tool.clonedb] table of the checkout's pyproject.toml."""

    def write(lines: str) -> Path:
        file = root / "pyproject.toml"
        file.write_text(
            f"[project]\nname = 'shop'\n\n[tool.clonedb]\n{lines}\n", encoding="utf-8"
        )
        return file

    return write


def _toml(value: Any) -> str:
    return (
        "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
        if isinstance(value, dict)
        else json.dumps(value)
    )


def _text(value: Any) -> str:
    return (
        json.dumps(value)
        if isinstance(value, (dict, bool))
        else ",".join(value)
        if isinstance(value, list)
        else str(value)
    )


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return (
        value
        if isinstance(value, (str, int, float))
        else {name: _plain(item) for name, item in value.items()}
    )


def test_table_of_values_is_complete() -> None:
    """A new key gets a row here."""
    assert list(VALUES) == list(KEYS)


@pytest.mark.parametrize("name", KEYS)
def test_the_later_place_wins(
    name: str, root: Path, settings: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Default, then pyproject.toml, then the environment, then options; and each value knows its place."""
    in_file, in_environment, in_options = VALUES[name]
    assert load(root).source(name) == "default"

    file = settings(f"{name} = {_toml(in_file)}")
    found = load(root)
    assert (_plain(getattr(found, name)), found.source(name)) == (
        in_file,
        f"{file} [tool.clonedb]",
    )

    monkeypatch.setenv(KEYS[name].variable, _text(in_environment))
    found = load(root)
    assert (_plain(getattr(found, name)), found.source(name)) == (
        in_environment,
        KEYS[name].variable,
    )

    found = load(root, options={name: in_options})
    assert (_plain(getattr(found, name)), found.source(name)) == (in_options, KEYS[name].option)
    assert load(root, options={name: in_options}, option_prefix="--").source(
        name
    ) == "--" + name.replace("_", "-")

    found = load(root, options={name: None})
    assert found.source(name) == KEYS[name].variable
    assert {key for key in KEYS if found.source(key) != "default"} == {name}


def test_lists_in_the_environment_may_be_json(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list is separated by commas, or JSON when an item holds one."""
    monkeypatch.setenv("CLONEDB_X", '["tenant=a,b"]')
    monkeypatch.setenv("CLONEDB_EXTENSIONS", " citext, pgcrypto,")
    found = load(root)
    assert found.x == ("tenant=a,b",)
    assert found.extensions == ("citext", "pgcrypto")


def test_project_is_found_upward(root: Path, settings: Callable[[str], Path]) -> None:
    """From a directory below, the nearest table is the project's, and relative paths start beside it."""
    settings("salt = 'outer'")
    inner = root / "services" / "shop"
    (inner / "tests").mkdir(parents=True)
    (inner / "pyproject.toml").write_text("[project]\nname = 'without a table'\n")
    found = load(inner / "tests")
    assert (found.salt, found.rootdir) == ("outer", root)
    (inner / "pyproject.toml").write_text("[tool.clonedb]\n")
    found = load(inner / "tests")
    assert (found.salt, found.rootdir) == ("", inner)


def test_search_ends_at_the_checkout(root: Path, settings: Callable[[str], Path]) -> None:
    """A pyproject.toml above the directory with .git is somebody else's; in a worktree .git is a file."""
    settings("salt = 'somebody else'")
    checkout = root / "checkout"
    (checkout / "tests").mkdir(parents=True)
    assert load(checkout / "tests").salt == "somebody else"
    (checkout / ".git").write_text("gitdir: elsewhere\n")
    found = load(checkout / "tests")
    assert (found.salt, found.rootdir) == ("", checkout / "tests")


def test_alembic_configuration_makes_a_project(root: Path) -> None:
    """Without a table, the nearest directory with an alembic.ini or [tool.alembic] is the project's."""
    inner = root / "services" / "shop"
    (inner / "tests").mkdir(parents=True)
    assert load(inner / "tests").rootdir == inner / "tests"
    (root / "alembic.ini").touch()
    assert load(inner / "tests").rootdir == root
    (inner / "pyproject.toml").write_text("[tool.alembic]\nscript_location = 'migrations'\n")
    assert load(inner / "tests").rootdir == inner


def test_relative_start_is_made_absolute(
    root: Path, settings: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A project found from `.` stays where it is when the directory changes."""
    settings("")
    monkeypatch.chdir(root)
    assert load(Path()).rootdir == root


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("urll = 'x'", "unknown setting 'urll' (did you mean 'url'?)"),
        ("source = 'x'", "unknown setting 'source'"),
        ("keep_count = '3'", "keep_count is '3'; it takes a whole number"),
        ("keep_count = -1", "keep_count is -1; the least it takes is 0"),
        (
            "isolation = 'clones'",
            "isolation is 'clones' (did you mean 'clone'?); it takes one of auto, clone, rollback",
        ),
        ("seed = 'a.sql'", "seed is 'a.sql'; it takes a list of strings"),
        (
            "watch_env = ['A=1']",
            "watch_env names 'A=1'; it takes names of environment variables",
        ),
        ("lock_timeout = inf", "lock_timeout is inf; it takes a finite number"),
        ("alembic = 'alembic.ini'", "alembic is 'alembic.ini'; it takes a table"),
        ("url = 5432", "url is 5432; it takes a string or a list of strings"),
    ],
)
def test_mistake_in_the_file_names_the_file(
    root: Path, settings: Callable[[str], Path], line: str, complaint: str
) -> None:
    """Whoever reads the error knows which file to open."""
    file = settings(line)
    with pytest.raises(
        ConfigError, match="^" + re.escape(f"{file} [tool.clonedb]: {complaint}")
    ):
        load(root)


def test_alembic_table_becomes_text(root: Path, settings: Callable[[str], Path]) -> None:
    """[tool.clonedb.alembic] takes TOML's types and names with dots."""
    settings(
        '[tool.clonedb.alembic]\n"sqlalchemy.url" = "{url}"\nrecursive_version_locations = true\nversion_locations = ["a", "b"]'
    )
    assert dict(load(root).alembic) == {
        "sqlalchemy.url": "{url}",
        "recursive_version_locations": "true",
        "version_locations": ("a", "b"),
    }


def test_table_that_is_none(root: Path) -> None:
    """`tool.clonedb` that is a value is refused, without showing a password."""
    (root / "pyproject.toml").write_text(
        "[tool]\nclonedb = 'postgresql://me:SECRET@localhost/'\n"
    )
    with pytest.raises(ConfigError, match="it takes a table") as caught:
        load(root)
    assert "SECRET" not in str(caught.value)
    (root / "pyproject.toml").write_text("tool = 1\n")
    assert load(root).sources == {}


@pytest.mark.parametrize("content", [b"[tool.clonedb\n", b"url = = 1\n", b"salt = '\xff'\n"])
def test_file_that_is_not_toml(root: Path, content: bytes) -> None:
    """The file is named; a traceback of the parser's would tell nobody."""
    file = root / "pyproject.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(file))} is not TOML: "):
        load(root)


def test_misspelt_variable_is_caught(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is nearly one of ours would otherwise be ignored in silence."""
    monkeypatch.setenv("CLONEDB_LOCK_TIMEOT", "5")
    with pytest.raises(
        ConfigError,
        match=r"^unknown variable 'CLONEDB_LOCK_TIMEOT' \(did you mean 'CLONEDB_LOCK_TIMEOUT'\?\)$",
    ):
        load(root)


@pytest.mark.parametrize(
    "variable", ["CLONEDB_TEST_POSTGRES", "CLONEDB_CI", "CLONEDB_", "CLONEDB", "XCLONEDB_URLL"]
)
def test_unrelated_variable_is_ignored(
    root: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """A variable that resembles none of ours is somebody else's business."""
    monkeypatch.setenv(variable, "x")
    assert load(root).sources == {}


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("CLONEDB_KEEP_COUNT", "many"),
        ("CLONEDB_REBUILD", "maybe"),
        ("CLONEDB_KEEP", "fail"),
        ("CLONEDB_X", "[1]"),
    ],
)
def test_mistake_in_the_environment_names_the_variable(
    root: Path, monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    """The same checks as for the file, at the place where the value came from."""
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigError, match=f"^{variable}: "):
        load(root)


def test_empty_variable_takes_back_what_the_file_says(
    root: Path, settings: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`CLONEDB_URL= pytest` runs on the embedded server; a CI's unset secret is an empty variable."""
    settings("url = 'postgresql://file/'")
    monkeypatch.setenv("CLONEDB_URL", "")
    assert (load(root).url, load(root).source("url")) == (None, "CLONEDB_URL")


def test_test_database_url_comes_last(
    root: Path, settings: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TEST_DATABASE_URL serves when nothing else names a server; DATABASE_URL, somebody's application, never."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://production/")
    assert load(root).url is None
    monkeypatch.setenv("TEST_DATABASE_URL", "")
    assert (load(root).url, load(root).source("url")) == (None, "default")
    monkeypatch.setenv("TEST_DATABASE_URL", "postgresql://test/")
    assert (load(root).url, load(root).source("url")) == (
        "postgresql://test/",
        "TEST_DATABASE_URL",
    )
    file = settings("url = 'postgresql://file/'")
    assert (load(root).url, load(root).source("url")) == (
        "postgresql://file/",
        f"{file} [tool.clonedb]",
    )


def test_unknown_option_is_a_mistake_too(root: Path) -> None:
    """Options that no command line made are checked like the rest."""
    with pytest.raises(
        ConfigError, match=r"^--clonedb-urll: unknown setting 'urll' \(did you mean 'url'\?\)"
    ):
        load(root, options={"urll": "x"})
