"""Migrators: they bring a new database to a project's target, in an interpreter of their own."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from clonedb.config import Config
from clonedb.errors import ConfigError, MigrationError
from clonedb.migrate.failure import error_from, scrub
from clonedb.progress import Progress
from clonedb.project.find import Project
from clonedb.url import DatabaseURL

__all__ = ["AlembicMigrator", "Migrated", "Migrator"]

_PROGRAM = Path(__file__).with_name("upgrade.py")


def _named(text: str | None) -> str | None:
    """The driver of a PostgreSQL URL, psycopg if it names none; None if it is no such URL or the driver is missing."""
    if not text or not text.startswith(("postgresql", "postgres")):
        return None
    driver = text.partition("://")[0].partition("+")[2] or "psycopg"
    return driver if importlib.util.find_spec(driver) else None


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migrator did: the revisions the database is at, those it ran, their files, and the data files it read."""

    heads: tuple[str, ...]
    revisions: tuple[str, ...]
    scripts: tuple[Path, ...]
    read: tuple[Path, ...]


class Migrator(Protocol):
    """What the builder asks of a migration tool."""

    def migrate(self, url: DatabaseURL, *, progress: Progress, remedy: str) -> Migrated:
        """Bring the empty database at `url` to the project's target and fill it with the seeds.

        `remedy` is what to tell a user whose migrations want an extension that the server lacks. Raises BuildError.
        """


@dataclass(frozen=True, slots=True)
class AlembicMigrator:
    """Runs Alembic and the seeds in a fresh interpreter that gets the caller's sys.path, directory and environment."""

    config: Config
    project: Project

    def migrate(self, url: DatabaseURL, *, progress: Progress, remedy: str) -> Migrated:
        """Run `clonedb/upgrade.py`; on Ctrl-C or an error it is ended and waited for."""
        request = self._request(url)
        with tempfile.TemporaryFile() as output:
            failed, done = None, None
            for event in self._events(request, output, url):
                if event["event"] == "revision":
                    progress.revision(event["number"], event["total"], event["name"])
                elif event["event"] == "failed":
                    failed = event
                elif event["event"] == "done":
                    done = event
            output.seek(0)
            text = scrub(output.read().decode(errors="replace"), request["secrets"])
        if failed is not None:
            raise error_from(failed, output=text, rootdir=self.project.rootdir, remedy=remedy)
        if done is None:
            tail = "\n".join(text.strip().splitlines()[-15:]) or "it printed nothing"
            raise MigrationError(
                f"the interpreter that ran the migrations ended without a word; its last output:\n{tail}"
            )
        revisions = tuple(revision["name"] for revision in done["revisions"])
        scripts = tuple(Path(revision["path"]) for revision in done["revisions"])
        return Migrated(tuple(done["heads"]), revisions, scripts, tuple(Path(path) for path in done["read"]))

    def _events(self, request: Mapping[str, Any], output: Any, url: DatabaseURL) -> Iterator[dict[str, Any]]:
        reading, writing = os.pipe()
        command = [sys.executable, "-P", str(_PROGRAM), str(writing)]
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[writing],
                env=self._environment(url),
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        try:
            with contextlib.suppress(BrokenPipeError):
                assert process.stdin is not None  # noqa: S101 - it is a pipe
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            with os.fdopen(reading, encoding="utf-8") as lines:
                for line in lines:
                    yield json.loads(line)
            process.wait()
        finally:
            process.kill()
            process.wait()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()  # type: ignore[union-attr]

    def _request(self, url: DatabaseURL) -> dict[str, Any]:
        project = self.project
        roots = [str(root) for root in project.import_roots]
        options = {name: project.options.get(name, value) for name, value in self.config.alembic.items()}
        return {
            "sys_path": [*sys.path, *(root for root in roots if root not in sys.path)],
            "rootdir": str(project.rootdir),
            "ini": str(project.ini) if project.ini else None,
            "toml": str(project.toml) if project.toml else None,
            "section": project.section,
            "options": {**options, **self._locations()},
            "x": list(self.config.x),
            "target": self.config.target,
            "url": url.render(),
            "own_url": url.replace(driver="psycopg").render(),
            "env_url": url.replace(driver=self._driver(self.project.options.get("sqlalchemy.url"))).render(),
            "seeds": [self._seed(seed) for seed in self.config.seed],
            "secrets": [url.password] if url.password else [],
        }

    def _locations(self) -> dict[str, str]:
        """Where the migrations are, absolute: Alembic takes relative paths from the current directory."""
        project = self.project
        locations = {"script_location": str(project.script_location)}
        if "version_locations" not in project.options:
            return locations
        separators = {"os": os.pathsep, "space": " ", "newline": "\n", ":": ":", ";": ";"}
        name = project.options.get("path_separator") or project.options.get("version_path_separator")
        if name is None and "prepend_sys_path" not in project.options:
            name = locations["path_separator"] = "newline"
        separator = separators.get(name or "", ", ")
        return {**locations, "version_locations": separator.join(map(str, project.version_locations))}

    def _seed(self, seed: str) -> dict[str, str]:
        module, colon, function = seed.partition(":")
        if colon and not seed.endswith(".sql"):
            return {"name": seed, "module": module, "function": function}
        path = self.config.path(seed)
        if not path.is_file():
            raise ConfigError(
                f"{self.config.source('seed')}: seed {seed!r} is neither a file ({path}) nor package.module:function"
            )
        return {"name": seed, "path": str(path)}

    def _driver(self, value: str | None) -> str:
        """The driver for a URL that env.py may read: that of the URL which ours stands in for, if it is installed.

        The setting `driver` is what the tests' URLs have, and env.py need not be as asynchronous as they are, so it
        comes second. psycopg, which is both, comes last.
        """
        option = self.project.options.get("sqlalchemy.url")
        return _named(value) or self.config.driver or _named(option) or "psycopg"

    def _environment(self, url: DatabaseURL) -> dict[str, str]:
        """The caller's environment, in which every usual name of a database leads to the one being built.

        A script that connects without SQLAlchemy, by libpq's variables or by DATABASE_URL, must not reach another one.
        """
        environment, keywords = dict(os.environ), url.conninfo()
        if "host" in keywords:
            for name in ("PGHOSTADDR", "PGSERVICE"):
                environment.pop(name, None)
        libpq = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGPASSWORD": "password", "PGDATABASE": "dbname"}
        environment |= {name: keywords[keyword] for name, keyword in libpq.items() if keyword in keywords}
        for name in {"DATABASE_URL", *self.config.route}:
            environment[name] = url.replace(driver=self._driver(os.environ.get(name))).render()
        return environment
