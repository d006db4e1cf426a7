"""Failures: from a real exception to data without passwords, and from that data to the error a user reads."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
import sqlalchemy
from alembic import command
from alembic.config import Config as AlembicConfig
from hypothesis import given, settings, strategies as st

from clonedb import errors
from clonedb.migrate.inside.failure import NotMigratedError, describe, error_from, scrub

Failing = Callable[..., dict[str, Any]]


def described(
    error: BaseException, rootdir: Path, secrets: tuple[str, ...] = ()
) -> dict[str, Any]:
    """What crosses the process border: the data must survive JSON."""
    data: dict[str, Any] = json.loads(
        json.dumps(describe(error, {"rootdir": str(rootdir), "secrets": list(secrets)}))
    )
    return data


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Failing:
    """Runs lines as a file of the user's project, in the directory most projects have, and describes what they raise."""
    monkeypatch.delenv("SHOP_URL", raising=False)

    def run(
        lines: str, *, path: str = "alembic/versions/one.py", secrets: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(lines).lstrip("\n"))
        spec = importlib.util.spec_from_file_location("the_users_file", file)
        assert spec
        assert spec.loader
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - whatever the lines raise
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
        return described(caught.value, tmp_path, secrets)

    return run


def event(
    data: Mapping[str, Any],
    phase: str = "revision",
    name: str | None = "one",
    path: Path | None = None,
) -> dict[str, Any]:
    """A `failed` event as the migrating interpreter sends it."""
    return {
        "event": "failed",
        "phase": phase,
        "name": name,
        "path": str(path) if path else None,
        **data,
    }


def message_of(
    failed: dict[str, Any], rootdir: Path, *, output: str = "", remedy: str = "install it"
) -> tuple[type, str]:
    """The class of the error that a user gets, and its text."""
    error = error_from(failed, output=output, rootdir=rootdir, remedy=remedy)
    assert isinstance(
        error, (errors.BuildError, errors.MissingExtensionError, errors.PermissionDeniedError)
    )
    return type(error), str(error)


def test_missing_environment_variable(failing: Failing, tmp_path: Path) -> None:
    """A variable that is not set is probably the database's URL: the message says how to have it set."""
    data = failing('import os\n\nurl = os.environ["SHOP_URL"]\n', path="alembic/env.py")
    assert data["type"] == "KeyError"
    assert data["message"] == "'SHOP_URL' is not set"
    assert (
        data["hint"]
        == "if 'SHOP_URL' holds the URL of the database, add route = [\"SHOP_URL\"] to [tool.clonedb]"
    )
    assert data["line"] == [str(tmp_path / "alembic/env.py"), 3]
    kind, text = message_of(event(data, "env.py", None), tmp_path)
    assert kind is errors.MigrationError
    assert text.startswith(
        "migrating (env.py) failed: KeyError: 'SHOP_URL' is not set\nhint: if 'SHOP_URL' holds"
    )
    assert f'File "{tmp_path}/alembic/env.py", line 3, in <module>' in text
    assert failing('{}["SHOP_URL"]\n')["hint"] is None  # the user's own KeyError


def test_settings_that_pydantic_refuses(
    failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing setting is named; the others' values, which pydantic shortens to half a password, are not shown."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:abcdefghijklmnopqrstuvwxyz@/app")
    data = failing("""
        from pydantic import PostgresDsn
        from pydantic_settings import BaseSettings

        class Settings(BaseSettings):
            database_url: PostgresDsn
            secret_key: str

        Settings()
    """)
    assert data["type"] == "ValidationError"
    assert data["message"].startswith("Settings.database_url: Input should be a valid URL")
    assert data["message"].endswith("Settings.secret_key: Field required")
    assert data["hint"].startswith(
        "if a missing setting is the URL of the database, name its environment variable"
    )
    assert not any(part in json.dumps(data) for part in ("abc", "xyz", "pydantic/main.py"))


def test_driver_that_is_not_installed(
    failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint names the driver, and the setting that takes another one."""
    for driver in ("psycopg2", "pg8000"):
        monkeypatch.setitem(sys.modules, driver, None)  # as if it were not there
        data = failing(
            f'import sqlalchemy\n\nsqlalchemy.create_engine("postgresql+{driver}://me:SECRET@localhost/")\n'
        )
        assert data["type"] == "ModuleNotFoundError"
        assert data["hint"] == (
            f'the URL asks for the driver {driver}, which is not installed; install it or set driver = "psycopg"'
        )
        assert "SECRET" not in json.dumps(data)


def test_module_of_the_project_that_is_not_found(failing: Failing) -> None:
    """A package beside the tests is found by pytest's settings, which may not be those of alembic."""
    data = failing("import shop_that_is_nowhere.models\n")
    assert data["hint"].startswith("is its directory on sys.path?")


def test_async_env_with_a_synchronous_driver(failing: Failing) -> None:
    """create_async_engine's complaint gets the setting that answers it."""
    data = failing("""
        from sqlalchemy.ext.asyncio import create_async_engine

        create_async_engine("postgresql+psycopg2://me:SECRET@localhost/")
    """)
    assert "requires an async driver" in data["message"]
    assert data["hint"].startswith('set driver = "asyncpg"')
    assert "SECRET" not in json.dumps(data)


def test_hint_of_a_nested_exception(failing: Failing) -> None:
    """A settings module that wraps what went wrong keeps its own words, and gets the hint all the same."""
    data = failing("""
        import os

        try:
            os.environ["SHOP_URL"]
        except KeyError as error:
            raise RuntimeError("the shop is not configured") from error
    """)
    assert (data["type"], data["message"]) == ("RuntimeError", "the shop is not configured")
    assert 'route = ["SHOP_URL"]' in data["hint"]


def test_own_error_after_one_of_the_database(failing: Failing) -> None:
    """What a revision raises while it deals with the database's error is said first, and the other not forgotten."""
    data = failing("""
        import psycopg

        try:
            raise psycopg.errors.UniqueViolation("duplicate key value")
        except psycopg.Error:
            raise ValueError("cannot merge the customers")
    """)
    assert (
        data["message"]
        == "cannot merge the customers (after UniqueViolation: duplicate key value)"
    )
    assert (data["type"], data["sqlstate"]) == ("ValueError", "23505")


def test_frames_of_libraries_are_left_out(failing: Failing, tmp_path: Path) -> None:
    """Of a failed connection only the user's own line is left, though SQLAlchemy and psycopg raised it."""
    data = failing("""
        import sqlalchemy

        def connect():
            engine = sqlalchemy.create_engine("postgresql+psycopg://me:SECRET@127.0.0.1:1/app")
            engine.connect()

        connect()
    """)
    assert data["type"] == "OperationalError"
    assert "Background on this error" not in data["message"]
    assert (
        data["traceback"].count("versions/one.py") == data["traceback"].count("File ") - 1 == 2
    )  # and this file's
    assert "site-packages" not in data["traceback"]
    assert data["line"] == [str(tmp_path / "alembic/versions/one.py"), 5]
    assert "SECRET" not in json.dumps(data)


def test_revision_that_alembic_runs(tmp_path: Path) -> None:
    """Under Alembic itself, in a directory called alembic, the revision's file and line are found."""
    scripts = tmp_path / "alembic"
    (scripts / "versions").mkdir(parents=True)
    (scripts / "env.py").write_text(
        "from alembic import context\n\n"
        "context.configure(url='postgresql://', literal_binds=True)\n"
        "with context.begin_transaction():\n    context.run_migrations()\n"
    )
    revision = scripts / "versions" / "one.py"
    revision.write_text(
        "from alembic import op\n\nrevision = 'one'\ndown_revision = None\n\n\n"
        "def upgrade():\n    op.execute('select 1')\n    raise ValueError('postgresql://me:SECRET@localhost/')\n"
    )
    config = AlembicConfig(output_buffer=io.StringIO())
    config.set_main_option("script_location", str(scripts))
    with pytest.raises(ValueError, match="SECRET") as caught:
        command.upgrade(config, "head", sql=True)
    data = described(caught.value, tmp_path)
    assert data["line"] == [str(revision), 9]
    kind, text = message_of(event(data, path=revision), tmp_path)
    assert kind is errors.MigrationError
    assert text.startswith(
        "revision 'one' (alembic/versions/one.py:9) failed: ValueError: postgresql://me:***@localhost/"
    )
    assert "site-packages" not in text
    assert "SECRET" not in text


def test_neighbour_directory_is_not_the_project(failing: Failing, tmp_path: Path) -> None:
    """/work/shop2 is not in /work/shop, and neither is the project's virtual environment."""
    (tmp_path / "shop").mkdir()
    with pytest.raises(ZeroDivisionError) as caught:
        exec(compile("1 / 0", tmp_path / "shop2" / "one.py", "exec"))
    assert described(caught.value, tmp_path / "shop")["line"] is None
    assert failing("1 / 0\n", path=".venv/lib/site-packages/other/one.py")["line"] is None


def _database_error(
    sqlstate: str, message: str, statement: str = "create extension x"
) -> sqlalchemy.exc.DBAPIError:
    return sqlalchemy.exc.ProgrammingError(
        statement, {}, psycopg.errors.lookup(sqlstate)(message)
    )


@pytest.mark.parametrize(
    ("sqlstate", "message"),
    [
        ("0A000", 'extension "postgis" is not available'),
        (
            "58P01",
            'could not open extension control file "/usr/share/postgresql/15/extension/postgis.control": No such file',
        ),
    ],
)
def test_missing_extension(tmp_path: Path, sqlstate: str, message: str) -> None:
    """Both of PostgreSQL's complaints name the extension; the remedy for this server follows."""
    data = described(_database_error(sqlstate, message), tmp_path, ("postgres",))
    assert data["sqlstate"] == sqlstate
    kind, text = message_of(
        event(data, path=tmp_path / "versions/one.py"), tmp_path, remedy="use PostGIS's image"
    )
    assert kind is errors.MissingExtensionError
    assert (
        text
        == f"revision 'one' (versions/one.py) needs the extension 'postgis': {message}; use PostGIS's image"
    )


def test_statement_is_shown_once_and_shortened(tmp_path: Path) -> None:
    """The statement that failed is shown, not all of a long one, and not half a secret at its end."""
    statement = "select 1 /* " + "x" * 1480 + "SECRETSECRET */"
    data = described(
        _database_error("42P01", "no such table", statement), tmp_path, ("SECRETSECRET",)
    )
    kind, text = message_of(event(data), tmp_path)
    assert kind is errors.MigrationError
    assert text.startswith(
        "revision 'one' failed: UndefinedTable: no such table\nstatement: select 1 /* xxx"
    )
    assert "SECR" not in text
    assert len(text) < 1700


@pytest.mark.parametrize(
    ("phase", "sqlstate", "kind"),
    [
        ("revision", "42501", errors.PermissionDeniedError),
        ("env.py", "42501", errors.PermissionDeniedError),
        ("seed", "42501", errors.SeedError),
        ("seed", "23505", errors.SeedError),
        ("revision", "23505", errors.MigrationError),
        ("revision", "53100", errors.MigrationError),
    ],
)
def test_kinds_of_errors(tmp_path: Path, phase: str, sqlstate: str, kind: type) -> None:
    """What a user may want to catch is told apart by what was being done and by PostgreSQL's code."""
    data = described(_database_error(sqlstate, "no"), tmp_path)
    found, text = message_of(event(data, phase, "shop.sql"), tmp_path)
    assert found is kind
    assert ("the server's disk is full" in text) == (sqlstate == "53100")
    assert text.startswith(
        "seed 'shop.sql' failed: "
        if phase == "seed"
        else ("revision 'shop.sql'", "migrating (env.py)")
    )


def test_database_that_is_not_where_it_should_be(tmp_path: Path) -> None:
    """The message says it all; a traceback of clonedb's own would not help."""
    data = described(NotMigratedError("the version table holds nothing"), tmp_path)
    assert message_of(event(data, "verify", None), tmp_path) == (
        errors.VerificationError,
        "the version table holds nothing",
    )


def test_exit_of_env_py_is_a_failure(failing: Failing, tmp_path: Path) -> None:
    """sys.exit() in env.py ends in an error with the last lines that were printed, not in silence."""
    data = failing("import sys\n\nsys.exit()\n", path="alembic/env.py")
    output = "".join(f"line {number}\n" for number in range(1, 21))
    _, text = message_of(event(data, "env.py", None), tmp_path, output=output)
    assert text.startswith("migrating (env.py) failed: SystemExit: no message\n")
    assert text.endswith(
        "last output:\n" + "\n".join(f"  line {number}" for number in range(13, 21))
    )


@settings(max_examples=150, deadline=None, database=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="*"), max_size=12),
    st.booleans(),
)
def test_no_secret_is_left(middle: str, nested: bool) -> None:  # noqa: FBT001 - hypothesis gives it
    """A server's password is in no part of the data, as it is or as a URL holds it, whatever characters it has."""
    secret = f"QZ{middle}QZJXWVKQZJXW"
    try:
        try:
            raise ValueError(  # noqa: TRY301
                f"{secret} and postgresql://me:{quote(secret)}@localhost/ and x{quote(secret, safe='')}"
            )
        except ValueError as error:
            if not nested:
                raise
            raise _database_error(
                "42501", f"password={secret}", f"select '{secret}'"
            ) from error
    except Exception as error:  # noqa: BLE001 - either
        data = described(error, Path("/project"), (secret,))
    assert [
        name
        for name, value in data.items()
        if isinstance(value, str) and ("JXW" in value or secret in value)
    ] == []


def test_plain_password_leaves_words_alone() -> None:
    """With the password `postgres`, which every second CI has, messages stay readable."""
    text = "postgresql://postgres:postgres@localhost/ has no /usr/share/postgresql; password: postgres"
    assert (
        scrub(text, ["postgres"])
        == "postgresql://***:***@localhost/ has no /usr/share/postgresql; password: ***"
    )
    assert scrub("anything", [""]) == "anything"
