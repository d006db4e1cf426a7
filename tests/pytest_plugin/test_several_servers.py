"""Several servers under pytest-xdist: which worker goes where, templates that travel, servers that are down."""

from __future__ import annotations

import itertools
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clonedb.embedded import binaries, leases
from clonedb.settings.config import Config
from clonedb.url import DatabaseURL
from tests.projects import Project

OLD = Path("/usr/lib/postgresql/15/bin")
TESTS = """
    import os, pytest
    from pathlib import Path

    @pytest.mark.parametrize("number", range(12))
    def test_it(clonedb, number):
        with clonedb.connect() as connection:
            assert connection.execute("select name from item").fetchall() == [("seeded",)]
            connection.execute("insert into item (name) values ('mine')")
            port = connection.execute("select inet_server_port()").fetchone()[0]
        line = f"{os.environ.get('PYTEST_XDIST_WORKER', 'alone')} {port}\\n"
        with open(Path(__file__).with_name("places"), "a") as file:
            file.write(line)
"""


_numbers = itertools.count()


@pytest.fixture
def prefix(run_id: str) -> str:
    """Each test begins without a template."""
    return f"s{run_id[:5]}_{os.getpid():x}_{next(_numbers)}"


def url_of(lease: leases.Lease) -> str:
    """A server of clonedb's own as somebody else's."""
    return DatabaseURL(
        user=lease.user, password=lease.password, host="127.0.0.1", port=lease.port
    ).render()


@pytest.fixture(scope="module")
def two(config: Config, lease: leases.Lease) -> Iterator[tuple[leases.Lease, leases.Lease]]:
    """The run's server, and a second one beside it."""
    second = config.replace("tests", servers=2).on_server(1)
    with leases.lease(second, binaries.choose(second, ())) as held:
        yield lease, held


@pytest.fixture
def closed() -> Iterator[str]:
    """A URL with a password where nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"postgresql://me:hidden-word@127.0.0.1:{bound.getsockname()[1]}/"


@pytest.fixture
def counting(project: Project) -> Project:
    """A project whose migrations and whose tests leave lines of where they ran."""
    project.revision(
        "one", 'op.execute("create table item (id serial primary key, name text not null)")'
    )
    project.revision(
        "two",
        """
        op.execute("insert into item (name) values ('seeded')")
        with open("builds", "a") as file:
            file.write("built\\n")
        """,
    )
    project.write("test_it.py", TESTS)
    return project


def builds(project: Project) -> int:
    """How many templates were migrated."""
    file = project.directory / "builds"
    return len(file.read_text().splitlines()) if file.exists() else 0


def places(project: Project) -> dict[str, set[int]]:
    """The ports of the servers that each worker used."""
    found: dict[str, set[int]] = {}
    for line in (project.directory / "places").read_text().splitlines():
        worker, port = line.split()
        found.setdefault(worker, set()).add(int(port))
    return found


def test_workers_go_to_servers_by_their_numbers(
    counting: Project, two: tuple[leases.Lease, leases.Lease]
) -> None:
    """gw0 to the first, gw1 to the second, gw2 to the first; the template is built once and copied; no password shows."""
    urls = [url_of(lease) for lease in two]
    counting.settings(url=urls)
    outcome = counting.pytest("-n", "4", "-v", "--dist", "each").demand()
    first, second = two[0].port, two[1].port
    assert places(counting) == {
        "gw0": {first},
        "gw1": {second},
        "gw2": {first},
        "gw3": {second},
    }
    assert builds(counting) == 1
    summary = next(line for line in outcome.out.splitlines() if "clonedb: template" in line)
    for port in (first, second):
        assert re.search(rf"; \d+ clones for 24 tests on server '[^']*:{port}'", summary), (
            summary
        )
    made = re.findall(r"template '\w+' (built|copied) in [\d.]+ s on", summary)
    assert sorted(made) == ["built", "copied"], summary
    for lease in two:
        assert lease.password not in outcome.text

    # the worker's own number decides, and nothing is built or copied again
    again = counting.pytest("-n", "2", "--dist", "each", CLONEDB_URL=", ".join(urls)).demand()
    assert "reused" in again.out
    assert " built in " not in again.out
    assert builds(counting) == 1


def test_without_xdist_the_first_server_is_used(
    counting: Project, two: tuple[leases.Lease, leases.Lease]
) -> None:
    """And the summary is that of one server."""
    urls = " ".join(url_of(lease) for lease in reversed(two))
    outcome = counting.pytest("-p", "no:xdist", "--clonedb-url", urls).demand()
    assert places(counting) == {"alone": {two[1].port}}
    assert " tests on server" not in outcome.out


@pytest.mark.campaign("long")
def test_a_server_that_is_down_is_left_out(
    counting: Project, two: tuple[leases.Lease, leases.Lease], closed: str
) -> None:
    """Its workers go to the others, one after the other; a line says so; with `frozen` it is an error."""
    counting.settings(url=[url_of(two[0]), closed, url_of(two[1])])
    outcome = counting.pytest("-n", "5", "--dist", "each").demand()
    first, second = two[0].port, two[1].port
    assert places(counting) == {
        "gw0": {first},
        "gw1": {first},
        "gw2": {second},
        "gw3": {first},
        "gw4": {second},
    }
    assert re.search(
        r"clonedb: a server is left out, and its workers use the others: .*Connection refused",
        outcome.text,
    )
    assert "hidden-word" not in outcome.text

    refused = counting.pytest("-n", "2", "--dist", "each", "--clonedb-frozen").demand(1)
    assert "12 passed" in refused.out
    assert re.search(
        r"ServerDownError: .*none of several servers is left out, because frozen is set \(--clonedb-frozen\)",
        refused.out,
    )


def test_no_server_answers(counting: Project, closed: str) -> None:
    """One error names all of them."""
    other = closed.replace("127.0.0.1", "localhost")
    counting.settings(url=[closed, other])
    outcome = counting.pytest("-p", "no:xdist").demand(1)
    assert "none of the servers of url answers" in outcome.out
    for url in (closed, other):
        assert str(DatabaseURL.parse(url)) in outcome.out
    assert "hidden-word" not in outcome.text


@pytest.mark.campaign("long")
@pytest.mark.skipif(not OLD.is_dir(), reason="PostgreSQL 15 is not installed")
def test_servers_of_two_versions_build_a_template_each(
    counting: Project, config: Config, two: tuple[leases.Lease, leases.Lease]
) -> None:
    """The version is part of the fingerprint."""
    older = config.replace("tests", postgres_bin=str(OLD))
    with leases.lease(older, binaries.choose(older, ())) as held:
        counting.settings(url=[url_of(two[0]), url_of(held)])
        outcome = counting.pytest("-n", "2", "--dist", "each").demand()
        assert places(counting) == {"gw0": {two[0].port}, "gw1": {held.port}}
    assert builds(counting) == 2
    names = re.findall(r"template '(\w+)' built in", outcome.out)
    assert len(set(names)) == 2


def test_a_template_that_cannot_be_copied_is_built(
    counting: Project, two: tuple[leases.Lease, leases.Lease]
) -> None:
    """A check that a dump's rows do not pass, as it finds its table by the search_path."""
    counting.revision(
        "three",
        """
        op.execute("create table allowed (name text)")
        op.execute("insert into allowed values ('seeded'), ('mine')")
        op.execute(
            "create function is_allowed(text) returns boolean language plpgsql as"
            " 'begin return exists (select from allowed where name = $1); end'"
        )
        op.execute("alter table item add check (is_allowed(name))")
        """,
    )
    counting.settings(url=[url_of(lease) for lease in two])
    outcome = counting.pytest("-n", "2", "--dist", "each").demand()
    assert re.search(
        r"clonedb: template '\w+' cannot be copied: .* of server .*relation \"allowed\" does not exist",
        outcome.text,
    )
    assert builds(counting) == 2
    assert places(counting) == {"gw0": {two[0].port}, "gw1": {two[1].port}}


@pytest.fixture
def apart(counting: Project, state_dir: Path) -> Iterator[Callable[..., Config]]:
    """A state directory of the project's own."""
    directory = state_dir / f"several-{counting.directory.parent.name}"
    directory.mkdir(mode=0o711)
    counting.environment["CLONEDB_STATE_DIR"] = str(directory)
    config = Config(rootdir=counting.directory).replace("tests", state_dir=str(directory))
    yield lambda **settings: config.replace("tests", **settings)
    leases.reset(config)


@pytest.mark.campaign("long")
def test_embedded_servers_side_by_side(counting: Project, apart: Callable[..., Config]) -> None:
    """The first is where the only one would be; the second has a number; the commands go over both."""
    counting.settings(servers=2)
    outcome = counting.pytest("-n", "3", "--dist", "each").demand()
    found = places(counting)
    assert found["gw0"] == found["gw2"] != found["gw1"]
    assert builds(counting) == 1
    assert re.search(r"clones? for 24 tests on embedded server 1 \(PostgreSQL", outcome.out)
    assert re.search(r"clones? for 12 tests on embedded server 2 \(PostgreSQL", outcome.out)

    names = [status.name for status in leases.servers(apart())]
    assert len(names) == 2
    assert names[1] == f"{names[0]}-server-2"
    status = counting.clonedb("server", "status").demand().out
    assert [line.partition(":")[0] for line in status.splitlines()] == names
    listed = counting.clonedb("list").demand().out
    assert "server 1 of 2 (embedded):" in listed
    assert listed.count(" template ") == 2

    # what one server had is there for who has one again
    alone = counting.pytest("-p", "no:xdist", CLONEDB_SERVERS="1").demand()
    assert re.search(r"reused on embedded server \(PostgreSQL", alone.out)
    stopped = counting.clonedb("server", "stop").demand().out
    assert stopped == "".join(f"stopped {name}\n" for name in names)
    assert counting.clonedb("server", "reset").demand().out.count("deleted ") == 2


def test_a_url_leaves_servers_aside(
    counting: Project, two: tuple[leases.Lease, leases.Lease]
) -> None:
    """`servers` is for embedded ones; the header says so."""
    counting.settings(servers=2)
    outcome = counting.pytest("-n", "2", "--dist", "each", CLONEDB_URL=url_of(two[0])).demand()
    assert places(counting) == {"gw0": {two[0].port}, "gw1": {two[0].port}}
    assert "(servers = 2 is for embedded servers only)" in outcome.out


def test_workers_in_other_directories_have_a_server_each(
    counting: Project, two: tuple[leases.Lease, leases.Lease], tmp_path: Path
) -> None:
    """They are told all URLs, and take one by their number; a failed test's clone is found where it is."""
    counting.settings(url=[url_of(lease) for lease in two])
    counting.write(
        "tests/test_it.py",
        """
        def test_it(clonedb):
            with clonedb.connect() as connection:
                port = connection.execute("select inet_server_port()").fetchone()[0]
            assert False, f"on port {port}"
        """,
    )
    counting.write("pytest.ini", "[pytest]\n")
    specs = [f"--tx=popen//chdir={tmp_path / name}" for name in ("one", "other")]
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    copied = ("--rsyncdir", str(counting.directory), str(counting.directory / "tests"))
    outcome = counting.pytest("--dist", "each", *specs, *copied).demand(1)
    for lease in two:
        assert f"on port {lease.port}" in outcome.out, outcome.text
        assert lease.password not in outcome.text

    kept = re.findall(r"database kept: .*clonedb psql (\w+)", outcome.out)
    assert len(kept) == 2
    ports = {
        int(counting.clonedb("psql", name, "--", "-Atc", "select inet_server_port()").out)
        for name in kept
    }
    assert ports == {lease.port for lease in two}
    assert counting.clonedb("drop", *kept).demand().out.count("dropped ") == 2
