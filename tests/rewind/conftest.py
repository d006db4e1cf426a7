"""A server, a template with every shape of table, and clones that are rewound."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import pytest

from clonedb.clones.clone import Clone, create
from clonedb.embedded.leases import Lease
from clonedb.postgres import sql
from clonedb.postgres.server import Server
from clonedb.postgres.servers import open_server
from clonedb.rewind.rewinder import Pristine, Rewinder, why_not
from clonedb.settings.config import Config
from clonedb.templates.ensure import TemplateRecord
from tests.rewind.shapes import SCHEMA, contents, make_template


@pytest.fixture(scope="module")
def shared(config: Config, lease: Lease) -> Iterator[Server]:
    """The run's server, with databases whose names no other module uses."""
    server = open_server(config.replace("tests", prefix=f"r{secrets.token_hex(4)}"))
    assert why_not(server) is None
    yield server
    for database in server.run(sql.databases, server.config.prefix):
        server.run(sql.drop_whatever, database)
    server.close()


@pytest.fixture(scope="module")
def make(shared: Server) -> Callable[[str], TemplateRecord]:
    """A function that makes a template of a schema."""
    return lambda schema: make_template(shared, schema, secrets.token_hex(32))


@pytest.fixture(scope="module")
def template(make: Callable[[str], TemplateRecord]) -> TemplateRecord:
    """The template with every shape of table."""
    return make(SCHEMA)


@pytest.fixture(scope="module")
def pristine(shared: Server, template: TemplateRecord) -> Iterator[Pristine]:
    """What the template holds."""
    found = Pristine(shared, template)
    yield found
    found.close()


@pytest.fixture(scope="module")
def fresh(shared: Server, template: TemplateRecord) -> dict[str, list[str]]:
    """The contents of a clone that nobody wrote to."""
    with create(shared, template) as clone:
        return contents(clone)


@pytest.fixture
def clone(shared: Server, template: TemplateRecord) -> Iterator[Clone]:
    """A fresh clone of the template."""
    with create(shared, template) as made:
        yield made


@pytest.fixture
def rewinder(clone: Clone, pristine: Pristine) -> Iterator[Rewinder]:
    """Watches the clone."""
    made = Rewinder(clone, pristine)
    yield made
    made.close()
