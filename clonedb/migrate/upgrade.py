"""The program that migrates and seeds one database, run in an interpreter of its own.

Of its own because env.py's `fileConfig` disables the loggers of the process it runs in, and an asynchronous env.py's
`asyncio.run` fails under a running loop. It reads a request (one line of JSON) from its standard input, which stays
open: when it closes, the process that asked is gone, and this one ends at once. It writes events (a JSON object a line)
to the file descriptor named as its argument: `revision`, `failed`, `done`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

_LOGGING_INI = """
[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = generic
[logger_root]
level = WARNING
handlers = console
qualname =
[handler_console]
class = StreamHandler
args = (sys.stderr,)
level = NOTSET
formatter = generic
[formatter_generic]
format = %(levelname)-5.5s [%(name)s] %(message)s
"""


class _Attributes(dict[str, Any]):
    """Alembic's `Config.attributes`: holds a connection for an env.py that insists on one.

    `attributes["connection"]` opens it; `attributes.get("connection")` finds nothing, so that an env.py that can do
    either makes its own engine, as under the alembic command: people put an Engine, an AsyncEngine or a Connection
    there, and no object is all three.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    def __missing__(self, key: str) -> Any:
        if key != "connection":
            raise KeyError(key)
        from sqlalchemy import create_engine, pool

        self[key] = create_engine(self._url, poolclass=pool.NullPool).connect()
        return self[key]


class Upgrade:
    """One request carried out: migrate, verify, seed; `step` says what is being done when something fails."""

    def __init__(self, request: dict[str, Any], events: int) -> None:
        self.request = request
        self.step: dict[str, Any] = {"phase": "env.py", "name": None, "path": None}
        self._events = os.fdopen(events, "w", buffering=1)
        self._read: set[str] = set()
        self._contexts: list[tuple[str, str | None]] = []
        self._done: list[dict[str, Any]] = []

    def tell(self, event: str, **data: Any) -> None:
        """Send an event to the process that asked."""
        self._events.write(json.dumps({"event": event, **data}) + "\n")

    def run(self) -> None:
        """Carry out the request; ends with a `done` or a `failed` event."""
        from clonedb.migrate.failure import describe

        sys.addaudithook(self._audit)
        try:
            heads = self._migrate()
            self._seed()
        except BaseException as error:  # noqa: BLE001 - SystemExit of an env.py is a failure like others
            self.tell("failed", **self.step, **describe(error, self.request))
            raise SystemExit(1) from None
        rootdir = self.request["rootdir"] + os.sep
        read = sorted(path for path in self._read if path.startswith(rootdir))
        self.tell("done", heads=heads, revisions=self._done, version_tables=self._contexts, read=read)

    def _migrate(self) -> list[str]:
        from alembic.runtime.environment import EnvironmentContext
        from alembic.script import ScriptDirectory

        from clonedb.routing import route_everything
        from clonedb.url import DatabaseURL

        route_everything(DatabaseURL.parse(self.request["url"]))
        script = ScriptDirectory.from_config(config := self._config())
        target = self.request["target"]

        def steps(current: Any, context: Any) -> Iterator[Any]:
            self._contexts.append((context.version_table, context.version_table_schema))
            yield from self._reported(script._upgrade_revs(target, current))  # noqa: SLF001 - as `alembic upgrade` does

        with EnvironmentContext(config, script, fn=steps, destination_rev=target):
            script.run_env()
        self.step = {"phase": "verify", "name": None, "path": None}
        return self._verify(script, target)

    def _config(self) -> Any:
        from alembic.config import Config

        from clonedb.migrate.failure import NotMigratedError

        options = self.request["options"]
        namespace = argparse.Namespace(x=self.request["x"] or None, verbose=False, quiet=False)
        section = self.request["section"]
        if self.request["toml"] and not hasattr(Config, "toml_file_name"):
            raise NotMigratedError(
                "Alembic is configured in pyproject.toml, which this version of it does not read;"
                " install alembic >= 1.16"
            )
        toml = {"toml_file": self.request["toml"]} if self.request["toml"] else {}
        ini = self.request["ini"] or _temporary_ini(section)
        config = Config(ini, ini_section=section, cmd_opts=namespace, **toml)
        if not config.file_config.has_section(section):
            config.file_config.add_section(section)
        url = self.request["env_url"]
        for name, value in {"sqlalchemy.url": url, **options}.items():
            config.set_main_option(name, value.replace("{url}", url).replace("%", "%%"))
        config.attributes = _Attributes(url)
        return config

    def _reported(self, steps: Iterable[Any]) -> Iterator[Any]:
        """The steps, each announced before Alembic takes it and timed when it asks for the next."""
        planned = list(steps)
        for number, step in enumerate(planned, 1):
            script = step.revision
            self.step = {"phase": "revision", "name": script.revision, "path": script.path}
            self.tell("revision", number=number, total=len(planned), name=script.revision, doc=script.doc)
            start = time.perf_counter()
            yield step
            seconds = round(time.perf_counter() - start, 4)
            self._done.append({"name": script.revision, "path": script.path, "seconds": seconds})
        self.step = {"phase": "env.py", "name": None, "path": None}

    def _verify(self, script: Any, target: str) -> list[str]:
        """Look at the version table as another session sees it; returns the revisions in it.

        env.py may have forgotten to commit, may have migrated another place, or may never have called Alembic.
        """
        from alembic.runtime.migration import MigrationContext
        from sqlalchemy import create_engine, pool

        from clonedb.migrate.failure import NotMigratedError

        if not self._contexts:
            raise NotMigratedError(
                "env.py ran to its end but never called context.run_migrations() with a connection, so nothing was"
                " migrated; does it connect only under a condition (an environment variable, a -x argument)?"
            )
        found: list[str] = []
        for table, schema in dict.fromkeys(self._contexts):
            shown = f"{schema}.{table}" if schema else table
            with create_engine(self.request["own_url"], poolclass=pool.NullPool).connect() as connection:
                options = {"version_table": table, "version_table_schema": schema}
                heads = MigrationContext.configure(connection, opts=options).get_current_heads()
            left = script._upgrade_revs(target, heads)  # noqa: SLF001
            if left:
                names = ", ".join(step.revision.revision for step in left[:3]) + (", ..." if len(left) > 3 else "")
                raise NotMigratedError(
                    f"the migrations ended without an error, but the version table {shown!r} holds"
                    f" {', '.join(heads) or 'nothing'}: {len(left)} of {len(left) + len(self._done)} revisions up to"
                    f" {target!r} are missing ({names}); does env.py commit what it did, and on this connection?"
                )
            found += [head for head in heads if head not in found]
        return found

    def _seed(self) -> None:
        from sqlalchemy import create_engine, pool

        for seed in self.request["seeds"]:
            self.step = {"phase": "seed", "name": seed["name"], "path": seed.get("path")}
            self.tell("seed", name=seed["name"])
            if (path := seed.get("path")) is not None:
                self._run_sql(Path(path).read_text(encoding="utf-8"))
                self._read.discard(path)
                continue
            function = importlib.import_module(seed["module"])
            for part in seed["function"].split("."):
                function = getattr(function, part)
            engine = create_engine(self.request["own_url"], poolclass=pool.NullPool)
            with engine.connect() as connection:
                if hasattr(coroutine := function(connection), "__await__"):  # type: ignore[operator]
                    coroutine.close()
                    raise TypeError("this seed is a coroutine function, but it gets a synchronous connection; use def")
                connection.commit()

    def _run_sql(self, text: str) -> None:
        import psycopg

        from clonedb.url import DatabaseURL

        keywords: dict[str, Any] = DatabaseURL.parse(self.request["url"]).conninfo()
        with psycopg.connect("", **keywords) as connection:
            connection.execute(text.encode())

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note which files are read: what is not in the fingerprint would change the template unseen."""
        if event != "open" or not isinstance(arguments[0], str):
            return
        path, mode, flags = arguments
        reads = "r" in mode if mode is not None else not flags & (os.O_WRONLY | os.O_RDWR)
        if reads and not path.endswith((".py", ".pyc")):
            self._read.add(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links and read


def _temporary_ini(section: str) -> str:
    """An alembic.ini for a project that has none: env.py's fileConfig() wants a file with logging sections."""
    with tempfile.NamedTemporaryFile("w", prefix="clonedb-", suffix=".ini", delete=False) as file:
        file.write(f"[{section}]\n{_LOGGING_INI}")
    import atexit

    atexit.register(Path(file.name).unlink, missing_ok=True)
    return file.name


def _end_with_parent(descriptor: int) -> NoReturn:
    while os.read(descriptor, 4096):
        pass
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit  # not reached


def main() -> None:
    """Carry out the request on standard input."""
    line = bytearray()
    while not line.endswith(b"\n"):
        if not (more := os.read(0, 65536)):
            raise SystemExit(2)
        line += more
    request = json.loads(line)
    parent = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    sys.path[:] = request["sys_path"]
    Upgrade(request, int(sys.argv[1])).run()


if __name__ == "__main__":
    main()
