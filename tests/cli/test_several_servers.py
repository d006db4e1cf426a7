"""Commands with several servers: which go over all of them, and what one that is down means."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest

from clonedb.embedded import binaries, leases
from clonedb.settings.config import Config
from clonedb.url import DatabaseURL
from tests.cli.conftest import Command
from tests.projects import Project


def url_of(lease: leases.Lease) -> str:
    """A server of clonedb's own as somebody else's."""
    return DatabaseURL(
        user=lease.user, password=lease.password, host="127.0.0.1", port=lease.port
    ).render()


@pytest.fixture
def two(
    items: Project, own_server: leases.Lease, postgres_bin: str | None
) -> Iterator[list[str]]:
    """URLs of the commands' server and of a second one, which are the project's."""
    second = (
        Config(rootdir=items.directory)
        .replace(
            "tests",
            state_dir=str(own_server.data_dir.parents[2]),
            postgres_bin=postgres_bin,
            servers=2,
        )
        .on_server(1)
    )
    with leases.lease(second, binaries.choose(second, ())) as held:
        urls = [url_of(own_server), url_of(held)]
        items.settings(url=urls)
        yield urls


@pytest.mark.campaign("long")
def test_what_goes_over_all_servers(cli: Command, two: list[str], items: Project) -> None:
    """`build` has the template on each, and the others say and do it server by server."""
    built = cli("build")
    copies = len(re.findall(r"^clonedb: copying template", built.err, re.MULTILINE))
    assert copies == len(re.findall(r": copied in [\d.]+ s, at two", built.out)) <= 1
    parts = built.out.split("\n\n")
    assert [part.partition(",")[0] for part in parts] == ["server 1 of 2", "server 2 of 2"]
    for part, url in zip(parts, two, strict=True):
        assert str(DatabaseURL.parse(url)) in part
        assert re.search(r"((built|copied) in [\d.]+ s|already there), at two", part)
    listed = cli("list").out
    assert listed.count(" template ") >= 2
    assert cli("status").out.count("state     ready") == 2
    assert cli("gc", "--dry-run").out.count("server ") == 2

    archive = items.directory / "template.clonedb"
    cli("export", str(archive))
    assert cli("import", str(archive)).out.count("already there") == 2


def test_a_database_is_found_on_the_server_that_has_it(cli: Command, two: list[str]) -> None:
    """`psql NAME` and `drop NAME` look for it; what needs one server takes the first."""
    second = cli("--url", two[1], "clone").out.strip().rpartition("/")[2]
    first = cli("clone").out.strip()
    assert f":{DatabaseURL.parse(two[0]).port}/" in first
    said = cli("psql", second, "--", "-Atc", "select inet_server_port()").out
    assert said == f"{DatabaseURL.parse(two[1]).port}\n"
    name = first.rpartition("/")[2]
    refused = cli("drop", name, second, "clonedb_no_such", code=1)
    assert "'clonedb_no_such' was not made by clonedb" in refused.err
    assert cli("drop", second, name).out == f"dropped {second}\ndropped {name}\n"


def test_a_server_that_is_down(cli: Command, two: list[str]) -> None:
    """The others are gone over all the same, and the command fails; what needs one server takes the next."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        down = f"postgresql://me:hidden-word@127.0.0.1:{bound.getsockname()[1]}/"
        outcome = cli("--url", f"{down} {two[0]}", "build", code=1)
        assert re.search(r"server 2 of 2, .*:\n\w+: ", outcome.out)
        assert "Connection refused" in outcome.err
        assert outcome.err.count("clonedb: cannot connect to database") == 1
        run = cli("--url", f"{down},{two[0]}", "run", "true")
        assert "a server is left out, and its workers use the others" in run.err
        assert "hidden-word" not in outcome.text + run.text
