"""The template of the differential test, on a server of its own."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import psycopg

from benchmarks.apparatus.clusters import TUNED, cluster
from clonedb.api import Template, open_template
from clonedb.embedded import binaries
from clonedb.embedded.binaries import Binaries
from clonedb.settings.config import Config
from tests.differential.world import seeds
from tests.projects import Project

__all__ = ["SERVERS", "binaries_of", "memory", "opened", "pg_dump", "server"]

_HERE = Path(__file__).parent

# PostgreSQL's own settings, but nobody misses the data, and what autovacuum does once a minute is done each second.
_STOCK: Mapping[str, str] = {
    "fsync": "off",
    "autovacuum_naptime": "1s",
    "autovacuum_vacuum_threshold": "5",
    "autovacuum_vacuum_scale_factor": "0.05",
    "autovacuum_vacuum_insert_threshold": "50",
    "autovacuum_analyze_threshold": "20",
    "autovacuum_analyze_scale_factor": "0.1",
}

SERVERS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "tuned": TUNED,
        "stock": _STOCK,
        "stock with checkpoints": {
            **_STOCK,
            "checkpoint_timeout": "30s",
            "wal_keep_size": "256MB",
        },
        # each flush of WAL takes 10 ms, in which strangers may come
        "slow": {"commit_delay": "10000", "commit_siblings": "0", "autovacuum": "off"},
    }
)
"""The settings of each kind of server, beyond what initdb writes."""


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
    newer = sorted(
        (one for one in found if one.major >= server.major), key=lambda one: one.major
    )
    programs = (one.program("pg_dump") for one in (server, *newer))
    return next((program for program in programs if program is not None), None)


def memory() -> Path:
    """Where data is quickest."""
    directory = Path("/dev/shm")
    return directory if os.access(directory, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


@contextlib.contextmanager
def server(found: Binaries, kind: str = "tuned", *, checksums: bool = False) -> Iterator[str]:
    """A server that allows prepared transactions: its URL. Only the tuned one never has checksums."""
    settings = {
        **SERVERS[kind],
        "max_prepared_transactions": "20",
        "allow_in_place_tablespaces": "on",
    }
    initdb = ["--data-checksums"] if checksums else []
    if kind == "tuned" and found.major >= 18 and not checksums:
        initdb = ["--no-data-checksums"]
    with cluster(found, memory(), settings=settings, initdb=initdb) as url:
        with psycopg.connect(url, dbname="postgres", autocommit=True) as connection:
            connection.execute("create tablespace differential_space location ''")
        yield url


@contextlib.contextmanager
def opened(url: str, directory: Path, parts: Collection[str] = ()) -> Iterator[Template]:
    """The template with some parts on a server; the first process builds it, from a project in this directory."""
    if not (directory / "alembic.ini").exists():
        Project(directory, {}).revision("one", "pass")
    files = [_HERE / "schema.sql", *seeds(parts)]
    config = Config(rootdir=directory).replace(
        "test", url=url, seed=[str(file) for file in files], state_dir=str(directory / "state")
    )
    with open_template(config) as template:
        yield template
