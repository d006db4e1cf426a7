"""How many templates, and how many bytes of them, a project keeps."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

import pytest

from clonedb.clones import gc, retention
from clonedb.postgres.server import Server
from clonedb.postgres.servers import open_server
from clonedb.settings.config import Config
from clonedb.templates import catalog
from clonedb.templates.catalog import find, note
from tests.projects import Project
from tests.templates.conftest import opened

Configured = Callable[..., Config]


def test_templates_that_are_too_large_together_go(
    items: Project, configured: Configured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The least recently used go, until the rest is small enough; the last used of a lane stays, however large."""
    names, size = [], 0
    for salt in ("one", "two", "three"):
        template, _ = opened(configured(salt=salt))
        names.append(template.name)
        size = template.record.metadata.size
        template.close()
    with contextlib.closing(open_server(configured())) as server:
        monkeypatch.setattr(retention, "_MOST_BYTES", int(2.5 * size))
        assert _collected(server, 1) == {names[0]}
        monkeypatch.setattr(retention, "_MOST_BYTES", 0)
        assert _collected(server, 1) == {names[1]}
        assert gc.collect(server) == []
        assert [item.name for item in gc.inventory(server)] == [names[2]]


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
