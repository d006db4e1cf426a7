"""How many templates, and how many bytes of them, a project keeps."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from clonedb.clones import gc
from clonedb.names import template_name
from clonedb.postgres import sql
from clonedb.postgres.server import Server
from clonedb.postgres.servers import open_server
from clonedb.settings.config import Config
from clonedb.templates import catalog
from clonedb.templates.catalog import find, note
from tests.projects import Project
from tests.templates.conftest import opened

Configured = Callable[..., Config]


DAY = 86400.0  # seconds


def _age(server: Server, days: Mapping[str, float]) -> None:
    """Let templates look as if this host used each so many days ago."""
    for name, number in days.items():
        record = find(server, name)
        assert record is not None
        used = time.time() - number * DAY
        note(server, record, used=used, hosts={socket.gethostname(): used})


def test_templates_that_are_too_large_together_go(
    items: Project, configured: Configured
) -> None:
    """The least recently used go, until the rest is small enough; the last used of a lane stays, however large."""
    names, size = [], 0
    for salt in ("one", "two", "three"):
        template, _ = opened(configured(salt=salt))
        names.append(template.name)
        size = template.record.metadata.size
        template.close()
    with contextlib.closing(open_server(configured(keep_bytes=int(2.5 * size)))) as server:
        # used within the hour, so that another run may be about to begin with them
        assert gc.collect(server) == []
        _age(server, {names[0]: 3, names[1]: 2, names[2]: 1})
        assert _collected(server, 1) == {names[0]}
    with contextlib.closing(open_server(configured(keep_bytes=0))) as server:
        assert _collected(server, 1) == {names[1]}
        assert gc.collect(server) == []
        assert [item.name for item in gc.inventory(server)] == [names[2]]


def test_templates_that_were_not_used_for_long_go(
    items: Project, configured: Configured
) -> None:
    """The last one of a project, too: another one may have taken its place on the disk for good."""
    template, _ = opened(configured())
    template.close()
    with contextlib.closing(open_server(configured(keep_days=10.0))) as server:
        _age(server, {template.name: 9})
        assert gc.collect(server) == []
        _age(server, {template.name: 11})
        (gone,) = gc.collect(server)
        assert gone.why == "it was not used for keep_days = 10"
    with contextlib.closing(open_server(configured(keep_days=0.0))) as server:
        template, _ = opened(configured())
        template.close()
        assert gc.collect(server) == []


def test_thirty_templates_of_many_teams(
    items: Project, configured: Configured, server_url: str
) -> None:
    """On a shared server a small `keep_bytes` leaves what is in use, was used within the hour, or was last used."""
    settings = configured(url=server_url, keep_templates=100)
    first, _ = opened(settings)
    record = first.record
    first.close()  # with what it collects, to which a template without its comment is a dead builder's
    with contextlib.closing(open_server(settings)) as server:
        names = [record.name]
        for number in range(29):
            names.append(template_name(settings.prefix, f"{number:012x}{0:052x}"))
            server.run(sql.create_database, names[-1], template=record.name)
            # the last but one was used half an hour ago
            used = time.time() - (1800 if number == 27 else (number + 3) * 3600)
            hosts = {f"host{number % 5}": used}
            described = replace(record.metadata, used=used, hosts=hosts)
            server.run(sql.comment, names[-1], described.to_json())

    held = names[-1]
    small = settings.replace("the test", keep_bytes=f"{record.metadata.size * 8}B")
    with (
        contextlib.closing(open_server(small)) as server,
        contextlib.closing(open_server(settings)) as user,
    ):
        assert user.use(held)
        gone = _collected(server, 21)
        left = {item.name for item in gc.inventory(server)}
    assert left == set(names) - gone
    # the eight that were used last, by whichever host, and the one that is in use
    assert left == {names[0], names[-2], *names[1:7], held}


@pytest.mark.campaign("long")
def test_layers_of_seeds_do_not_pile_up(items: Project, configured: Configured) -> None:
    """The schemas below seeds are a lane of their own, with as many templates as any other."""
    items.write("seed.sql", "insert into item (name) values ('x')")
    for number in range(3):
        items.revision("three", f"{number}", down="two")
        opened(configured(seed=["seed.sql"]))[0].close()
    with contextlib.closing(open_server(configured(keep_templates=1))) as server:
        assert len(gc.inventory(server)) == 6
        assert len(_collected(server, 4)) == 4
        assert len(gc.inventory(server)) == 2
    assert opened(configured(seed=["seed.sql"]))[1].built() is None


@pytest.mark.campaign("long")
def test_hosts_do_not_displace_each_others_templates(
    items: Project, configured: Configured, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a server of the user's each host has its last ones; what another host did not use for a week goes with ours."""
    names = {}
    for host, salt in (("desk", "a"), ("ci", "b"), ("ci", "c"), ("ci", "d")):
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        template, _ = opened(configured(url=server_url, salt=salt))
        names[salt] = template.name
        template.close()
    monkeypatch.setattr(catalog, "_HOUR", -1.0)
    template, _ = opened(configured(url=server_url, salt="a"))
    assert template.record.metadata.used_by_host().keys() == {"desk"}
    template.close()
    settings = configured(url=server_url, keep_templates=1)
    with contextlib.closing(open_server(settings)) as server:
        record = find(server, names["a"])
        assert record is not None
        assert record.metadata.used_by_host().keys() == {"desk", "ci"}
        days = record.metadata.made - 3 * 86400
        note(server, record, hosts={"desk": days})
        # what was used within the hour stays, by whatever host
        assert gc.collect(server) == []
        _age(server, {names["b"]: 0.3, names["c"]: 0.2})
        assert _collected(server, 2) == {names["b"], names["c"]}
        assert gc.collect(server) == []
        note(server, record, hosts={"desk": days - 5 * 86400})
        assert _collected(server, 1) == {names["a"]}
        assert [item.name for item in gc.inventory(server)] == [names["d"]]


def _collected(server: Server, number: int) -> set[str]:
    """What is collected once the server has noticed that nobody uses it any more."""
    gone: set[str] = set()
    deadline = time.monotonic() + 10
    while len(gone) < number and time.monotonic() < deadline:
        gone |= {leftover.name for leftover in gc.collect(server)}
    return gone
