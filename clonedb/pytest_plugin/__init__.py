"""The pytest plugin: clonedb's decisions, spoken in pytest's words.

Every pytest run of an environment loads this, so nothing here imports SQLAlchemy, Alembic,
psycopg or filelock before a test asks for a database, and nothing connects before then.
"""

from __future__ import annotations

from clonedb.pytest_plugin.async_fixtures import (
    clonedb_async_connection,
    clonedb_async_engine,
    clonedb_async_session,
    clonedb_async_sessionmaker,
)
from clonedb.pytest_plugin.fixtures import (
    clonedb,
    clonedb_config,
    clonedb_connection,
    clonedb_dsn,
    clonedb_engine,
    clonedb_factory,
    clonedb_session,
    clonedb_sessionmaker,
    clonedb_template,
    clonedb_url,
)
from clonedb.pytest_plugin.migration_fixtures import clonedb_at, clonedb_empty
from clonedb.pytest_plugin.options import pytest_addoption, pytest_configure
from clonedb.pytest_plugin.process_state import pytest_fixture_setup, pytest_runtestloop
from clonedb.pytest_plugin.remote_workers import pytest_configure_node
from clonedb.pytest_plugin.report import (
    pytest_exception_interact,
    pytest_report_header,
    pytest_runtest_makereport,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
    pytest_unconfigure,
)
from clonedb.pytest_plugin.routing import pytest_sessionstart

__all__ = [
    "clonedb",
    "clonedb_async_connection",
    "clonedb_async_engine",
    "clonedb_async_session",
    "clonedb_async_sessionmaker",
    "clonedb_at",
    "clonedb_config",
    "clonedb_connection",
    "clonedb_dsn",
    "clonedb_empty",
    "clonedb_engine",
    "clonedb_factory",
    "clonedb_session",
    "clonedb_sessionmaker",
    "clonedb_template",
    "clonedb_url",
    "pytest_addoption",
    "pytest_configure",
    "pytest_configure_node",
    "pytest_exception_interact",
    "pytest_fixture_setup",
    "pytest_report_header",
    "pytest_runtest_makereport",
    "pytest_runtestloop",
    "pytest_sessionfinish",
    "pytest_sessionstart",
    "pytest_terminal_summary",
    "pytest_testnodedown",
    "pytest_unconfigure",
]
