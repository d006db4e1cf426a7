"""`clonedb config`, and what is said before or instead of a command."""

from __future__ import annotations

import re
import socket
import subprocess
import tomllib
from pathlib import Path

import pytest

import clonedb
from clonedb.settings.keys import KEYS
from tests.cli.conftest import Command
from tests.projects import CLONEDB, Project


def rows(out: str) -> dict[str, tuple[str, str]]:
    """The table that `clonedb config` prints: value and place for each setting."""
    cells = [re.split(r" {2,}", line) for line in out.splitlines()]
    return {row[0]: (row[1], row[2]) for row in cells if row[0] in KEYS}


def test_a_reader_that_leaves(items: Project) -> None:
    """`clonedb config --all | head -1` has nothing to complain of."""
    process = items.popen(*CLONEDB, "config", "--all")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 1
    process.stderr.close()


def test_config_says_where_each_value_comes_from(cli: Command, items: Project) -> None:
    """File, variable and option each win over the one before, and a URL is shown without its password."""
    assert set(rows(cli("config").out)) == {"state_dir", "salt", "prefix", "idle_timeout"}
    items.settings(
        isolation="worker",
        keep_count=5,
        route=["SHOP_DB"],
        url="postgresql://me:hidden-word@db/",
    )
    outcome = cli("config", CLONEDB_KEEP_COUNT="7")
    found = rows(outcome.out)
    file = str(items.directory / "pyproject.toml")
    assert found["isolation"] == ("'worker'", f"{file} [tool.clonedb]")
    assert found["route"] == ("['SHOP_DB']", f"{file} [tool.clonedb]")
    assert found["keep_count"] == ("7", "CLONEDB_KEEP_COUNT")
    assert found["url"][0] == "'postgresql://me:***@db/'"
    outcome = cli("--url", "postgresql://you:hidden-word@elsewhere/", "config")
    assert rows(outcome.out)["url"] == ("'postgresql://you:***@elsewhere/'", "--url")
    assert "hidden-word" not in outcome.text
    assert f"project: {items.directory}" in outcome.out
    assert "clonedb config --all" in outcome.out
    assert "embedded server: " not in outcome.out
    assert re.search(
        r"^embedded server: data in memory \(at most \d+\.\d GB\)$|: data on disk$",
        cli("config", CLONEDB_URL="").out,
        re.MULTILINE,
    )


def test_config_all_shows_every_setting(cli: Command) -> None:
    """Those with their default value too."""
    found = rows(cli("config", "--all").out)
    assert list(found) == list(KEYS)
    assert found["isolation"] == ("'auto'", "default")
    assert found["prefix"][1] == "CLONEDB_PREFIX"


def test_a_directory_to_work_in(cli: Command, items: Project, tmp_path: Path) -> None:
    """`-C` names the project, from wherever the command is run."""
    place = str(items.directory / "migrations")  # the project is found upward
    elsewhere = (*CLONEDB, "-C", place, "config")
    outcome = subprocess.run(
        elsewhere,
        cwd=tmp_path,
        env=items.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"project: {items.directory}\n" in outcome.stdout
    assert (
        "Directory '/does/not/exist' does not exist"
        in cli("-C", "/does/not/exist", "config", code=2).err
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("biuld",), "No such command 'biuld'"),
        (("--bogus",), "No such option"),
        (("build", "--bogus"), "No such option"),
        (("build", "extra"), "unexpected extra argument"),
        (("run",), "Missing argument 'COMMAND...'"),
        (("run", "--"), "Missing argument 'COMMAND...'"),
        (("drop",), "give the names of databases (`clonedb list` shows them), or --all"),
        (
            ("drop", "--all", "one"),
            "give the names of databases (`clonedb list` shows them), or --all",
        ),
        (("clone", "--driver"), "requires an argument"),
        (("-C",), "requires an argument"),
        (("server", "restart"), "No such command 'restart'"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else None,
)
def test_wrong_use(cli: Command, arguments: tuple[str, ...], message: str) -> None:
    """A wrong word is told on standard error, and exit code 2."""
    outcome = cli(*arguments, code=2)
    assert message in outcome.err
    assert "Error: " in outcome.err
    assert outcome.out == ""


def test_version_and_help(cli: Command) -> None:
    """`--version`, `-h` and each command's `-h`, which need no project."""
    assert cli("--version").out == f"clonedb, version {clonedb.__version__}\n"
    text = (Path(clonedb.__file__).parents[1] / "pyproject.toml").read_text()
    assert tomllib.loads(text)["project"]["version"] == clonedb.__version__
    listed = cli("-h").out
    for command in (
        "build",
        "clone",
        "config",
        "demo",
        "drop",
        "fingerprint",
        "gc",
        "list",
        "psql",
        "run",
        "status",
    ):
        assert f"\n  {command} " in listed
    assert "Run COMMAND with a fresh clone in DATABASE_URL" in cli("run", "-h").out
    assert "reset" in cli("server", "--help").out


def test_mistakes_in_settings_are_one_message(cli: Command, items: Project) -> None:
    """A misspelt key, a wrong type and a file that is not TOML: named with the place, exit code 1."""
    items.settings(isolaton="clone")
    assert (
        "[tool.clonedb]: unknown setting 'isolaton' (did you mean 'isolation'?)"
        in cli("config", code=1).err
    )
    items.settings(keep_count="three")
    assert "keep_count is 'three'; it takes a whole number" in cli("list", code=1).err
    items.write("pyproject.toml", "[tool.clonedb\n")
    assert "pyproject.toml is not TOML" in cli("build", code=1).err
    items.write("pyproject.toml", "")
    assert (
        "CLONEDB_KEEP: keep is 'al' (did you mean 'all'?)"
        in cli("build", code=1, CLONEDB_KEEP="al").err
    )
    assert (
        "did you mean 'CLONEDB_ISOLATION'" in cli("build", code=1, CLONEDB_ISOLATON="clone").err
    )


@pytest.mark.parametrize("command", ["build", "list", "fingerprint"])
def test_an_unreachable_server(cli: Command, command: str) -> None:
    """One message that says what was tried and who named it, without the password."""
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"postgresql://me:hidden-word@127.0.0.1:{taken.getsockname()[1]}/"
        outcome = cli("--url", url, command, code=1)
    assert outcome.err.startswith(
        "clonedb: cannot connect to database 'postgres' of server 'postgresql://me:***@"
    )
    assert "(url is from --url; connect_timeout = 5 s)" in outcome.err
    assert "hidden-word" not in outcome.text
    assert len(outcome.err.splitlines()) == 1
    assert outcome.out == ""


def test_another_server_by_option(cli: Command, server_url: str, prefix: str) -> None:
    """`--url` wins over everything; the databases are made there."""
    outcome = cli("--url", server_url, "status")
    assert "server    server 'postgresql+psycopg://postgres:***@127.0.0.1" in outcome.out
    assert (
        "no database of clonedb's on server"
        in cli("--url", server_url, "list", CLONEDB_PREFIX="z" + prefix).out
    )
    assert cli("--url", "mysql://me:hidden-word@db/x", "list", code=1).err == (
        "clonedb: --url: 'mysql://me:***@db/x' is not the URL of a PostgreSQL server; write postgresql://host/name\n"
    )
