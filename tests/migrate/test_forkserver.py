"""The fork server: what it forks is what a fresh interpreter would be, and nothing about it can stand in the way."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from clonedb.errors import MigrationError
from clonedb.migrate import standby
from clonedb.migrate.alembic import AlembicMigrator
from clonedb.settings.config import Config
from clonedb.url import DatabaseURL
from tests.migrate.conftest import Look, Report, gone, migrate, started, until
from tests.projects import Project


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Surroundings that nobody else has."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    monkeypatch.setenv("ODD", "line\nbreak \udcff")
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    monkeypatch.delenv("TERM", raising=False)
    before = os.umask(0o037)
    yield
    os.umask(before)


@pytest.mark.usefixtures("odd")
def test_a_forked_interpreter_is_as_a_fresh_one(server: int, look: Look) -> None:
    """The caller's environment, time zone, directory, umask, sys.path, limits and signals; no state of anybody else's."""
    forked, fresh = look(), look(standby=0.0)
    assert forked.pop("forked")
    assert not fresh.pop("forked")
    assert (forked.pop("parent"), fresh.pop("parent")) == (server, os.getpid())
    assert forked.pop("pid") != fresh.pop("pid")
    assert forked == fresh
    assert forked["umask"] == 0o037
    assert forked["environment"]["ODD"] == "line\nbreak \udcff"


def test_nothing_leaks_from_one_interpreter_to_the_next(server: int, look: Look, project: Project) -> None:
    """What env.py or a revision does to its process is gone with it."""
    project.revision(
        "two",
        """
        import logging, sys
        os.mark = "left"
        os.environ["LEFT"] = "behind"
        os.chdir("/")
        logging.disable(50)
        logging.root.setLevel(50)
        sys.path.insert(0, "/nowhere")
        sys.modules["uuid"] = None
        """,
    )
    for _ in range(2):
        found = look()
        assert found["parent"] == server
        assert (found["mark"], found["disabled"], found["directory"]) == (None, 0, str(Path.cwd()))
        assert "LEFT" not in found["environment"]
        assert "/nowhere" not in found["sys_path"]


def test_the_fork_server_holds_nobody_s_secrets(
    apart: Config, look: Look, project: Project, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its arguments, nor its environment, nor its memory: a request is read by the fork."""
    monkeypatch.setenv("PGPASSWORD", "hidden-" + "word")
    monkeypatch.setenv("API_TOKEN", "hidden-" + "word")
    server = started(apart)
    assert look()["parent"] == server
    assert b"hidden-word" not in Path(f"/proc/{server}/environ").read_bytes()
    assert b"hidden-word" not in Path(f"/proc/{server}/cmdline").read_bytes()
    with Path(f"/proc/{server}/maps").open() as maps, Path(f"/proc/{server}/mem").open("rb") as memory:
        for line in maps:
            area, modes, *_ = line.split()
            begin, end = (int(part, 16) for part in area.split("-"))
            if modes.startswith("rw"):
                memory.seek(begin)
                assert b"hidden-word" not in memory.read(end - begin), line


@pytest.mark.parametrize("name", ["uuid", "psycopg_c"])
def test_a_module_that_stands_in_front_gets_a_fresh_interpreter(
    server: int, look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """On the caller's sys.path a project's file may hide what was imported, or be what was looked for in vain."""
    assert look()["forked"]
    front = tmp_path / "front"
    front.mkdir()
    shutil.copy(uuid.__file__ or "", front / "uuid.py") if name == "uuid" else (front / f"{name}.py").touch()
    monkeypatch.syspath_prepend(str(front))
    found = look()
    assert (found["forked"], found["parent"]) == (False, server)
    assert found["uuid"] == (str(front / "uuid.py") if name == "uuid" else uuid.__file__)
    (front / f"{name}.py").unlink()
    assert look()["forked"]


def test_a_directory_called_alembic_is_in_nobody_s_way(
    server: int, look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`alembic init alembic` makes one: without an __init__.py it hides no package."""
    (tmp_path / "front" / "alembic" / "versions").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "front"))
    assert look()["forked"]


@pytest.mark.parametrize("what", ["a file", "a package", "an editable one"])
def test_a_changed_installation_meets_no_old_fork_server(
    apart: Config, look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The old one ends, the interpreter is a fresh one, and after it a new fork server serves."""
    packages = tmp_path / "site-packages"
    packages.mkdir()
    mako = importlib.util.find_spec("mako")
    assert mako is not None
    shutil.copytree(Path(str(mako.origin)).parent, packages / "mako")
    (packages / "project.pth").write_text("# nothing yet\n")
    old = time.time() - 100
    for path in packages.rglob("*"):
        os.utime(path, (old, old))
    monkeypatch.setenv("PYTHONPATH", str(packages))
    monkeypatch.syspath_prepend(str(packages))
    server = started(apart)
    assert look()["parent"] == server
    if what == "a file":
        with (packages / "mako" / "template.py").open("a") as file:
            file.write("\n# edited\n")
    elif what == "a package":
        (packages / "new-1.0.dist-info").mkdir()
    else:
        (packages / "project.pth").write_text("# somewhere else now\n")
    assert look()["forked"] is False
    assert gone(server)
    assert look()["parent"] == os.getpid()
    assert until(lambda: bool(standby.waiting(apart)))


def test_variables_that_are_read_at_the_start_have_their_own(
    server: int, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interpreter cannot be given PYTHONHASHSEED later."""
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    assert look()["parent"] == os.getpid()


@pytest.mark.parametrize("name", ["COVERAGE_PROCESS_START", "PYDEVD_USE_CYTHON", "DD_TRACE_ENABLED"])
def test_whoever_looks_at_interpreters_gets_fresh_ones(
    server: int, look: Look, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Coverage, debuggers and tracers begin when an interpreter does."""
    monkeypatch.setenv(name, "")
    assert look()["parent"] == os.getpid()


def test_a_fork_s_failure_is_told_as_any(
    server: int, forking: AlembicMigrator, project: Project, url: DatabaseURL
) -> None:
    """An error names the revision and what was printed; an interpreter that ends by itself leaves its last words."""
    project.revision("two", "print('in front', flush=True); raise ValueError('of the second')")
    with pytest.raises(MigrationError, match=r"(?s)revision 'two'.*of the second"):
        migrate(forking, url)
    project.revision("two", "print('last words', flush=True); os._exit(3)", down="one")
    with pytest.raises(MigrationError, match=r"ended without a word; its last output:\nlast words"):
        migrate(forking, url)
    assert not [*Path(f"/proc/{server}/task/{server}").glob("children/*")]


def test_an_asynchronous_env_py_runs_in_a_fork(server: int, look: Look, project: Project) -> None:
    """asyncio.run() finds no loop there."""
    project.write(
        "migrations/env.py",
        """
        import asyncio
        from alembic import context
        from sqlalchemy.ext.asyncio import create_async_engine

        def migrate(connection):
            context.configure(connection=connection)
            with context.begin_transaction():
                context.run_migrations()

        async def main():
            engine = create_async_engine("postgresql+psycopg://nowhere/")
            async with engine.connect() as connection:
                await connection.run_sync(migrate)
            await engine.dispose()

        asyncio.run(main())
        """,
    )
    assert look()["parent"] == server
