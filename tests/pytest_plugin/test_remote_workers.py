"""pytest-xdist's workers in another directory or on another host: told by the controller, not by their environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.projects import Outcome, Project, clean_environment, databases
from tests.remote_host import socket_server

TESTS = """
    import os, pathlib
    import pytest

    @pytest.mark.parametrize("number", range(4))
    def test_it(number, clonedb):
        with clonedb.connect() as connection:
            assert connection.execute("select name from item").fetchall() == [("seeded",)]
            connection.execute("delete from item")
        print("in", pathlib.Path.cwd(), os.environ.get("PYTEST_XDIST_WORKER"))
    """


@pytest.fixture
def shop(make_project: Callable[[str], Project]) -> Project:
    """A project of two revisions, some tests, and settings in its pyproject.toml."""
    project = make_project("shop")
    project.items()
    project.settings(isolation="auto")
    project.write("tests/test_it.py", TESTS)
    project.write("pytest.ini", "[pytest]\n")
    return project


@pytest.fixture
def socket_worker(tmp_path: Path, environment: dict[str, str]) -> Iterator[str]:
    """The address of a socket server whose environment says nothing but where this machine has its state."""
    own = ("CLONEDB_STATE_DIR", "CLONEDB_POSTGRES_BIN")
    here = {name: value for name, value in environment.items() if name in own}
    with socket_server(
        tmp_path / "host", {**dict(clean_environment()), **here}, address="127.0.0.1"
    ) as (address, _):
        yield address


def run(project: Project, worker: str, *options: str, **more: str) -> Outcome:
    """Run the project's tests in one worker, to which the whole project is copied."""
    return project.pytest(
        "-d",
        "--tx",
        worker,
        "--rsyncdir",
        str(project.directory),
        *options,
        str(project.directory / "tests"),
        **more,
    )


def templates(project: Project, admin_dsn: str) -> list[str]:
    """The project's templates on the run's server."""
    prefix = project.environment["CLONEDB_PREFIX"]
    return databases(admin_dsn, f"{prefix}_t_")


def test_a_worker_in_another_directory(shop: Project, tmp_path: Path, admin_dsn: str) -> None:
    """It finds the template that was built in the project's own directory."""
    shop.clonedb("build").demand()
    built = templates(shop, admin_dsn)
    (tmp_path / "copy").mkdir()
    outcome = run(shop, f"popen//chdir={tmp_path / 'copy'}", "-rP").demand()
    assert "4 passed" in outcome.out
    assert f"in {tmp_path / 'copy'} gw0" in outcome.out
    assert "reused on" in outcome.out
    assert templates(shop, admin_dsn) == built


def test_a_worker_of_a_socket_server(
    shop: Project, socket_worker: str, server_url: str, admin_dsn: str
) -> None:
    """URL, salt, prefix and -x come from the controller's environment and command line, none from its own."""
    option = ("--clonedb-x", "tenant=a")
    shop.pytest(*option, CLONEDB_URL=server_url).demand()
    built = templates(shop, admin_dsn)
    outcome = run(
        shop, f"socket={socket_worker}", *option, "-rP", CLONEDB_URL=server_url
    ).demand()
    assert "4 passed" in outcome.out
    assert "reused on server 'postgresql" in outcome.out
    assert templates(shop, admin_dsn) == built


@pytest.mark.campaign("long")
def test_the_password_stays_out_of_reports(
    shop: Project, socket_worker: str, server_url: str, tmp_path: Path
) -> None:
    """Neither a failure with its variables nor the file for CI has it."""
    shop.write(
        "tests/test_it.py",
        """
        def test_it(clonedb_url, pytestconfig):
            told, url = pytestconfig.workerinput, clonedb_url
            print(told, vars(pytestconfig.option))
            assert url == told
        """,
    )
    report = tmp_path / "report.xml"
    outcome = run(
        shop,
        f"socket={socket_worker}",
        "--showlocals",
        f"--junitxml={report}",
        CLONEDB_URL=server_url,
    ).demand(1)
    password = server_url.partition("@")[0].rpartition(":")[2]
    assert "1 failed" in outcome.out
    assert "testrunuid" in outcome.out
    assert password not in outcome.text
    assert password not in report.read_text()


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        ("rules.txt", "lacks what the run has in"),
        ("two.py", "missing here: revision migrations/versions/two.py"),
    ],
)
def test_a_copy_that_lacks_a_file(
    shop: Project, tmp_path: Path, admin_dsn: str, left_out: str, said: str
) -> None:
    """What is missing is named before a template is built without it."""
    shop.settings(isolation="auto", seed=["seeds/rows.sql"], watch=["rules.txt"])
    shop.write("seeds/rows.sql", "insert into item (name) values ('more');\n")
    shop.write("rules.txt", "one\n")
    before = templates(shop, admin_dsn)
    (tmp_path / "copy").mkdir()
    outcome = run(
        shop, f"popen//chdir={tmp_path / 'copy'}", f"--rsyncignore={left_out}"
    ).demand(1)
    assert "ConfigError: a worker's copy of the project" in outcome.out
    assert said in outcome.out
    assert left_out in outcome.out
    assert "(--rsyncdir, or rsyncdirs in its ini file)" in outcome.out
    assert templates(shop, admin_dsn) == before


@pytest.mark.campaign("long")
def test_a_setting_that_the_controller_cannot_read(shop: Project, socket_worker: str) -> None:
    """Its variables are not the worker's, and so is the error."""
    outcome = run(shop, f"socket={socket_worker}", CLONEDB_MAX_CLONES="many").demand(1)
    assert "which began this run: CLONEDB_MAX_CLONES: max_clones is 'many'" in outcome.out


@pytest.mark.campaign("long")
def test_variables_of_libpq_and_of_watch_env(
    shop: Project, socket_worker: str, server_url: str, admin_dsn: str
) -> None:
    """A URL without host and password is filled in by the controller's variables; so is what a template depends on."""
    name, _, place = server_url.partition("://")[2].partition("@")
    user, _, password = name.partition(":")
    host, _, port = place.partition(":")
    shop.settings(watch_env=["TENANT"])
    variables = {
        "CLONEDB_URL": "postgresql://",
        "PGHOST": host,
        "PGPORT": port.rstrip("/"),
        "PGUSER": user,
        "PGPASSWORD": password,
        "TENANT": "a",
    }
    shop.clonedb("build", **variables).demand()
    built = templates(shop, admin_dsn)
    assert "4 passed" in run(shop, f"socket={socket_worker}", **variables).demand().out
    assert templates(shop, admin_dsn) == built
