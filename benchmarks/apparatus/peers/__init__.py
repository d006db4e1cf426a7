"""Other ways to give a test its database, each used as its own documentation says, and clonedb's beside them."""

from __future__ import annotations

from benchmarks.apparatus.peers.clonedb import AUTO, CLONE, SESSION
from benchmarks.apparatus.peers.peer import Peer
from benchmarks.apparatus.peers.pgmem import PGMEM
from benchmarks.apparatus.peers.pgtestdbpy import PGTESTDBPY
from benchmarks.apparatus.peers.py_pglite import PY_PGLITE
from benchmarks.apparatus.peers.pytest_mock_resources import PYTEST_MOCK_RESOURCES
from benchmarks.apparatus.peers.pytest_postgresql import PYTEST_POSTGRESQL
from benchmarks.apparatus.peers.rollback import ROLLBACK
from benchmarks.apparatus.peers.sqlalchemy_utils import SQLALCHEMY_UTILS

__all__ = ["PEERS"]

PEERS: tuple[Peer, ...] = (
    AUTO,
    SESSION,
    CLONE,
    ROLLBACK,
    PYTEST_POSTGRESQL,
    PGTESTDBPY,
    SQLALCHEMY_UTILS,
    PYTEST_MOCK_RESOURCES,
    PGMEM,
    PY_PGLITE,
)
