"""The template of the differential test, on a server of its own."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg

from benchmarks.apparatus.clusters import TUNED, cluster
from clonedb.api import OpenTemplate, open_template
from clonedb.config import Config
from clonedb.postgres import binaries
from clonedb.postgres.binaries import Binaries
from tests.projects import Project

__all__ = ["TUNED", "binaries_of", "memory", "opened", "pg_dump", "server"]

_HERE = Path(__file__).parent

# What autovacuum does once a minute on a server as initdb makes it, a test would never see.
_BUSY = {"autovacuum_naptime": "1s", "autovacuum_vacuum_threshold": "5", "autovacuum_analyze_threshold": "500"}


def binaries_of(wanted: str | None) -> Binaries:
    """The installation of a major version, or in a directory; the preferred one when nothing is wanted.

    Raises LookupError, with every place looked at.
    """
    config = Config(rootdir=Path.cwd())
    if wanted and "/" in wanted:
        config = config.replace("--postgres", postgres_bin=wanted)
    found, looked_at = binaries.find(config)
    for one in found:
        if not wanted or "/" in wanted or one.major == int(wanted):
            return one
    raise LookupError(f"no PostgreSQL {wanted} here: {'; '.join(looked_at)}")


def pg_dump(server: Binaries) -> Path | None:
    """A pg_dump that can read a server: its own, or that of another installation at least as new; wheels may lack it."""
    found, _ = binaries.find(Config(rootdir=Path.cwd()))
    newer = sorted((one for one in found if one.major >= server.major), key=lambda one: one.major)
    programs = (one.program("pg_dump") for one in (server, *newer))
    return next((program for program in programs if program is not None), None)


def memory() -> Path:
    """Where data is quickest."""
    directory = Path("/dev/shm")
    return directory if os.access(directory, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


@contextlib.contextmanager
def server(found: Binaries, *, tuned: bool = True, checksums: bool = False) -> Iterator[str]:
    """A server that allows prepared transactions: its URL. One that is not tuned has PostgreSQL's own settings."""
    settings = {**(TUNED if tuned else _BUSY), "max_prepared_transactions": "20", "allow_in_place_tablespaces": "on"}
    with cluster(found, memory(), settings=settings, initdb=["--data-checksums"] if checksums else []) as url:
        with psycopg.connect(url, dbname="postgres", autocommit=True) as connection:
            connection.execute("create tablespace differential_space location ''")
        yield url


@contextlib.contextmanager
def opened(url: str, directory: Path, *, unlogged: bool = False) -> Iterator[OpenTemplate]:
    """The template on a server; whoever comes first builds it, from a project in this directory."""
    if not (directory / "alembic.ini").exists():
        Project(directory, {}).revision("one", "pass")
    seeds = ["schema.sql", "unlogged.sql"] if unlogged else ["schema.sql"]
    config = Config(rootdir=directory).replace(
        "test", url=url, seed=[str(_HERE / name) for name in seeds], state_dir=str(directory / "state"), standby=0.0
    )
    with open_template(config) as template:
        yield template
