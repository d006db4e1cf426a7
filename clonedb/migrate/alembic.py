"""Asking Alembic: what the interpreter that runs env.py is told of a project, and what it is asked to do."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clonedb.migrate.environment import environment_of, is_old_sqlalchemy
from clonedb.migrate.inside import command
from clonedb.migrate.process import MigrationProcess, elsewhere
from clonedb.project.find import Project
from clonedb.settings.config import Config
from clonedb.url import DatabaseURL

if TYPE_CHECKING:
    from clonedb.project.launchers import Launcher

__all__ = ["AlembicMigrator"]


def _named(text: str | None, rootdir: Path) -> str | None:
    """The driver of a PostgreSQL URL, the project's if it names none; None if it is no such URL or that is missing."""
    if not text or not text.startswith(("postgresql", "postgres")):
        return None
    driver = text.partition("://")[0].partition("+")[2] or _projects(rootdir)
    return driver if importlib.util.find_spec(driver) else None


def _projects(rootdir: Path, *, synchronous: bool = False) -> str:
    """The driver that a project migrates with if nothing says so: psycopg is always there, because clonedb needs it.

    It is psycopg2 if that is installed and all that is required, or if nothing is required and
    it is the default of SQLAlchemy, before 2.1. For what is known to be synchronous asyncpg
    does not count.
    """
    from clonedb.project.survey import required_drivers

    if not importlib.util.find_spec("psycopg2"):
        return "psycopg"
    required = set(required_drivers(rootdir))
    if synchronous:
        required.discard("asyncpg")
    return (
        "psycopg2"
        if required == {"psycopg2"} or (is_old_sqlalchemy() and not required)
        else "psycopg"
    )


@dataclass(frozen=True, slots=True)
class AlembicMigrator:
    """Runs Alembic and the seeds in a fresh interpreter that gets the caller's sys.path, directory and environment."""

    config: Config
    project: Project

    def command(
        self, url: DatabaseURL, arguments: Sequence[str]
    ) -> tuple[list[str], dict[str, str]]:
        """How one of Alembic's own commands is run on a database: the program with its arguments, and its environment.

        `revision` writes its file where the project has its revisions.
        """
        program = [sys.executable, "-P", str(command.__file__), *arguments]
        return program, {
            **environment_of(self.config, url, self._driver),
            command.VARIABLE: json.dumps(self._setup(url)),
        }

    def session(
        self,
        url: DatabaseURL,
        *,
        remedy: Callable[[], str] = elsewhere,
        waiting: Callable[[], None] | None = None,
    ) -> MigrationProcess:
        """An interpreter for several requests on one database: 0.4 s to start, then each costs what env.py costs."""
        setup, environment = self._setup(url), environment_of(self.config, url, self._driver)
        return MigrationProcess(self.config, setup, environment, remedy=remedy, waiting=waiting)

    def _setup(self, url: DatabaseURL) -> dict[str, Any]:
        project = self.project
        roots = [str(root) for root in project.import_roots]
        given = [name.lower() for name in self.config.alembic]  # as configparser has it
        options = {name: project.options[name] for name in given if name in project.options}
        return {
            "sys_path": [*sys.path, *(root for root in roots if root not in sys.path)],
            "rootdir": str(project.rootdir),
            "env_py": str(project.env_py),
            "ini": str(project.ini) if project.ini else None,
            "toml": str(project.toml) if project.toml else None,
            "section": project.section,
            "options": {**options, "script_location": str(project.script_location)},
            # without the option Alembic takes `versions` below script_location
            "version_locations": [str(location) for location in project.version_locations]
            if "version_locations" in project.options
            else [],
            "prepended": [str(directory) for directory in project.prepended],
            "x": list(self.config.x),
            "prepare": self.config.prepare,
            "launcher": self._launcher(),
            "url": url.render(),
            # for clonedb's own sessions: psycopg is there wherever clonedb is
            "own_url": url.replace(driver="psycopg").render(),
            "env_url": url.replace(
                driver=self._driver(self.project.options.get("sqlalchemy.url"))
            ).render(),
            # what is taken out of all that is shown
            "secrets": [url.password] if url.password else [],
        }

    def _launcher(self) -> Launcher | None:
        """What env.py was made for, as far as nothing is said of it."""
        env_py = self.project.env_py
        if self.config.prepare is not None or not env_py.is_file():
            return None
        from clonedb.project.launchers import launcher_of

        return launcher_of(env_py, self.project.rootdir)

    def _driver(self, value: str | None) -> str:
        """The driver for a URL that env.py may read: that of the URL which ours stands in for, if it is installed.

        The setting `driver` is what the tests' URLs have, and env.py need not be as
        asynchronous as they are, so it comes second, and not at all if it is asyncpg and env.py
        has no word of asyncio. The project's own driver comes last.
        """
        option, rootdir = self.project.options.get("sqlalchemy.url"), self.project.rootdir
        asked = self.config.driver
        synchronous = asked == "asyncpg" and not self._is_asynchronous()
        return (
            _named(value, rootdir)
            or (None if synchronous else asked)
            or _named(option, rootdir)
            or _projects(rootdir, synchronous=synchronous)
        )

    def _is_asynchronous(self) -> bool:
        """Whether env.py may run an asynchronous engine; one that cannot be read may."""
        try:
            return b"async" in self.project.env_py.read_bytes()
        except OSError:
            return True
