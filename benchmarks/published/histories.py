"""The published histories: where each has its migrations, and what a project that uses them writes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["HISTORIES", "History"]

# As prefect applies its migrations itself: in a worker thread of a running event loop, which its env.py demands.
_PREFECT_ENV_PY = '''\
"""Prefect's own env.py, from a worker thread of an event loop: it calls back into the loop that runs it."""

import runpy
from pathlib import Path

import anyio
import prefect.server.database
from alembic import context

PREFECT = Path(prefect.server.database.__file__).parent / "_migrations" / "env.py"


async def migrate():
    await anyio.to_thread.run_sync(runpy.run_path, str(PREFECT))


context.script.get_heads()  # reads the revisions of version_locations; prefect would put those it comes with in place
anyio.run(migrate)
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """One distribution's migrations at one version, and the facts to find after a build.

    `directory` is where they are below site-packages; `settings` and `alembic` go into `[tool.clonedb]` and
    `[tool.clonedb.alembic]`; `files` are further files of the project; `variables` of the environment may hold
    `{scratch}`, a directory of the run's own. `tables` counts those in schema public, Alembic's own included.
    """

    name: str
    version: str
    revisions: int
    head: str
    tables: int
    directory: str
    settings: Mapping[str, object] = field(default_factory=dict)
    alembic: Mapping[str, object] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def pins(self) -> Path:
        """The file with the exact version of every distribution that is installed."""
        return Path(__file__).with_name(f"{self.name}.txt")

    def environment(self, scratch: Path) -> dict[str, str]:
        """The variables that the package wants, its own files kept below a directory."""
        return {name: value.format(scratch=scratch) for name, value in self.variables.items()}

    def write_project(self, project: Path) -> None:
        """Make a project that migrates with what is installed: a pyproject.toml, in most cases nothing else."""
        self._write(project, self.alembic)

    def write_copy(self, project: Path, site_packages: Path) -> Path:
        """Make a project with a copy of the migrations, to be edited; the directory with the revisions."""
        copy = project / "history"
        shutil.copytree(
            site_packages / self.directory, copy, ignore=shutil.ignore_patterns("__pycache__")
        )
        key = "version_locations" if "version_locations" in self.alembic else "script_location"
        self._write(project, {**self.alembic, key: "history"})
        return copy

    def _write(self, project: Path, alembic: Mapping[str, object]) -> None:
        project.mkdir(parents=True, exist_ok=True)
        lines = [
            "[project]",
            f'name = "uses-{self.name}"',
            'version = "1"',
            "",
            "[tool.clonedb]",
        ]
        lines += [f"{name} = {json.dumps(value)}" for name, value in self.settings.items()]
        lines += ["", "[tool.clonedb.alembic]"]
        lines += [
            f"{json.dumps(name)} = {json.dumps(value)}" for name, value in alembic.items()
        ]
        (project / "pyproject.toml").write_text("\n".join(lines) + "\n")
        for name, text in self.files.items():
            path = project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


HISTORIES = (
    History(
        name="optuna",
        version="5.0.0",
        revisions=10,
        head="v3.2.0.a",
        tables=12,
        directory="optuna/storages/_rdb/alembic",
        alembic={"script_location": "optuna:storages/_rdb/alembic", "sqlalchemy.url": "{url}"},
    ),
    History(
        name="dstack",
        version="0.22.5",
        revisions=141,
        head="40f19bea9d2a",
        tables=35,
        directory="dstack/_internal/server/migrations",
        settings={"driver": "asyncpg", "route": ["DSTACK_DATABASE_URL"]},
        alembic={
            "script_location": "dstack:_internal/server/migrations",
            "recursive_version_locations": True,
            "path_separator": "os",
        },
        variables={"HOME": "{scratch}", "DSTACK_SERVER_DIR": "{scratch}/.dstack"},
    ),
    History(
        name="prefect",
        version="3.8.8",
        revisions=118,
        head="d4a7e1c93f52",
        tables=36,
        directory="prefect/server/database/_migrations/versions/postgresql",
        settings={"driver": "asyncpg", "route": ["PREFECT_SERVER_DATABASE_CONNECTION_URL"]},
        alembic={
            "script_location": "migrations",
            "version_locations": "prefect:server/database/_migrations/versions/postgresql",
            "path_separator": "space",
        },
        files={"migrations/env.py": _PREFECT_ENV_PY},
        variables={
            "HOME": "{scratch}",
            "PREFECT_HOME": "{scratch}/prefect",
            "DO_NOT_TRACK": "1",
        },
    ),
)
"""Of the packages tried these are on the package index with wheels only, migrate on PostgreSQL, and differ in kind:

optuna reads `sqlalchemy.url` and makes an engine of its own; dstack reads an environment variable, is asynchronous, and
has a transaction for each revision; prefect calls back into a running event loop, and needs the extension pg_trgm.
"""
