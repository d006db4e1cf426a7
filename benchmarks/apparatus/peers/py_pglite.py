"""py-pglite: PostgreSQL in WebAssembly, whose session fixture empties every table before each test."""

from __future__ import annotations

from benchmarks.apparatus.peers.peer import Peer

__all__ = ["PY_PGLITE"]

# It installs its node modules by npm, which is kept from the network: npm's own cache has them, or it cannot run. Its
# server takes one connection at a time, so that its engine's is closed before the migrations open theirs.
_CONFTEST = """
import pytest
from benchmarks.apparatus.peers.given import Given
from py_pglite import PGliteConfig

given = Given.here()

@pytest.fixture(scope="session")
def pglite_config():
    return PGliteConfig(work_dir=given.directory / f"pglite_{given.worker}", log_level="WARNING")

@pytest.fixture(scope="session")
def migrated(pglite_config, pglite_engine):
    pglite_engine.dispose()
    given.migrate(pglite_config.get_dsn())

@pytest.fixture
def database(migrated, pglite_session):
    return pglite_session
"""

PY_PGLITE = Peer(
    name="py-pglite",
    series="peers",
    conftest=_CONFTEST,
    speaks="sqlalchemy",
    plugins=("py_pglite",),
    distributions=("py-pglite",),
    variables={"npm_config_offline": "true"},
    own_server=True,
    rows=0,
    slow="its session fixture empties 40 tables one by one, and under xdist its server ends in the middle",
)
