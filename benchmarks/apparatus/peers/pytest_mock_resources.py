"""pytest-mock-resources: its fixture with a template, on a server that is there already: no container is started."""

from __future__ import annotations

from benchmarks.apparatus.peers.peer import Peer

__all__ = ["PYTEST_MOCK_RESOURCES"]

_CONFTEST = """
import pytest
from benchmarks.apparatus.peers.given import Given
from pytest_mock_resources import PostgresConfig, create_postgres_fixture
from pytest_mock_resources.action import AbstractAction

given = Given.here()

class Migrations(AbstractAction):
    fixtures = ("postgres",)
    static_safe = True

    def apply(self, connection):
        url = connection.engine.url.set(drivername="postgresql")
        given.migrate(url.render_as_string(hide_password=False))

@pytest.fixture(scope="session")
def pmr_postgres_config():
    return PostgresConfig(
        host=given.address,
        port=5432,
        username="postgres",
        password=given.password,
        root_database="postgres",
        drivername="postgresql+psycopg",
    )

database = create_postgres_fixture(Migrations(), session=True)
"""

PYTEST_MOCK_RESOURCES = Peer(
    name="pytest-mock-resources",
    series="peers",
    conftest=_CONFTEST,
    speaks="sqlalchemy",
    plugins=("pytest_mock_resources",),
    options_in_parallel=("--pmr-multiprocess-safe",),
    distributions=("pytest-mock-resources", "python-on-whales"),
    needs_address=True,
)
