"""`clonedb server` and `clonedb demo`, each with a state directory of its own."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from clonedb.embedded import leases
from clonedb.settings.config import Config
from tests.cli.conftest import Command, make_state_dir
from tests.projects import Project


@pytest.fixture
def unused_dir() -> Iterator[Path]:
    """A state directory that nobody used yet."""
    directory = make_state_dir()
    yield directory
    leases.stop(Config(rootdir=Path("/")).replace("tests", state_dir=str(directory)))
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def environment(environment: dict[str, str], unused_dir: Path) -> dict[str, str]:
    """The commands' environment, without a server there."""
    return {**environment, "CLONEDB_STATE_DIR": str(unused_dir)}


def test_the_life_of_an_embedded_server(cli: Command, items: Project, unused_dir: Path) -> None:
    """None yet; up with a clone in it; stopped, its data there; up again; reset, and all is gone."""
    assert (
        cli("server", "status").out
        == f"no embedded server yet in {unused_dir}; the first use makes one\n"
    )
    assert cli("server", "stop").out == "no embedded server was running\n"
    assert cli("server", "reset").out == "there was no embedded server\n"

    url = cli("clone").out.strip()
    status = cli("server", "status").out
    found = re.fullmatch(
        r"(\S+): PostgreSQL [\d.]+, running, pid \d+, port (\d+), held for 8 hours, [\d.]+ MB in (.+)\n",
        status,
    )
    assert found, status
    name, port = found[1], found[2]
    assert f":{port}/" in url
    assert found[3].startswith(str(unused_dir))

    assert cli("server", "stop").out == f"stopped {name}\n"
    assert cli("server", "stop").out == "no embedded server was running\n"
    status = cli("server", "status").out
    assert re.fullmatch(rf"{name}: PostgreSQL [\d.]+, stopped, [\d.]+ MB in .+\n", status)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url, connect_timeout=2)

    clone = url.rpartition("/")[2]
    assert cli("psql", clone, "--", "-Atc", "select count(*) from item").out == "1\n"
    assert cli("server", "reset").out == f"deleted {name}\n"
    assert "no embedded server yet" in cli("server", "status").out
    assert "no database of clonedb's" in cli("list").out


def test_status_with_another_server(cli: Command) -> None:
    """A url makes the embedded server idle: status says so, and shows no password."""
    outcome = cli("--url", "postgresql://me:hidden-word@db.invalid/", "server", "status")
    assert outcome.out.startswith(
        "url is set ('postgresql://me:***@db.invalid/' from --url): no embedded server is used\n"
    )


@pytest.mark.campaign("long")
def test_the_demo(cli: Command, items: Project, unused_dir: Path) -> None:
    """The sample shop's tests pass wherever the command is run, whatever that project's settings say of migrations."""
    items.settings(target="one", seed=["no-such-file.sql"], isolation="clone")
    outcome = cli("demo", "-n", "2")
    assert re.search(r"^=+ \d+ passed in ", outcome.out, re.MULTILINE)
    assert "isolation 'clone' (CLONEDB_ISOLATION)" in outcome.out
    assert re.search(
        r"clonedb: template '\w+' built in \d+\.\d s on embedded server", outcome.out
    )
    assert re.search(r"; \d+ clones; a test paid \d+\.\d ms \(median\)", outcome.out)
    assert (unused_dir / "servers").is_dir()
    again = cli("demo", "-n", "0", "--rebuild", "-k", "newest_revision", "-v")
    assert "test_the_database_is_at_the_newest_revision PASSED" in again.out
    assert re.search(r" 1 passed, \d+ deselected in ", again.out)
    assert re.search(r"' built in \d+\.\d s on embedded server", again.out)
