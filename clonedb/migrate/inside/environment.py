"""A project's env.py and revisions in the interpreter that migrates: Alembic's Config, and one run of env.py a step."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from clonedb.migrate.inside.env_context import (
    Attributes,
    command_options,
    require_postgresql,
)
from clonedb.migrate.inside.failure import NotMigratedError
from clonedb.migrate.inside.launchers import prepared
from clonedb.migrate.inside.revision_files import RevisionFiles
from clonedb.migrate.inside.variables import AskedVariables

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

__all__ = ["AlembicEnvironment"]

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


class _NoConnectionError(Exception):
    """env.py asked its Config for a connection, found none, and failed."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(str(reason))
        self.reason = reason


class AlembicEnvironment:
    """A project's migrations, run as often as need be; every run reads env.py anew, as every `alembic` command does.

    `version_tables` are those that the last run used, each with its schema. `asked` are the
    environment variables that were read; its names begin anew with each run.
    """

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self.version_tables: list[tuple[str, str | None]] = []
        self.asked: AskedVariables = AskedVariables(setup["rootdir"])
        self._setup = setup
        self._revisions: RevisionFiles | None = None
        self._given = False  # whether attributes.get("connection") finds one

    @cached_property
    def script(self) -> ScriptDirectory:
        """The revisions; what env.py changes about where they are stays changed."""
        from alembic.script import ScriptDirectory

        with self._configured(("upgrade", "heads")) as config:
            found = ScriptDirectory.from_config(config)
        self._revisions = RevisionFiles(found)
        return found

    def doubled(self) -> list[tuple[str, list[str]]]:
        """The ids that several revision files have, and the files."""
        return self._revisions.doubled() if self._revisions else []

    def plan(self, target: str, *, with_env_py: bool) -> list[tuple[str, str]]:
        """The revisions that bring an empty database to a target, in order, and their files; runs none.

        It loads the revisions, as Alembic does only once env.py has run: for a process that is
        thrown away. Some can be loaded only `with_env_py`, because that configures what they
        import.
        """
        found: list[tuple[str, str]] = []

        def look(_heads: Any = (), _context: Any = None) -> list[Any]:
            planned = [] if target == "base" else self.script._upgrade_revs(target, ())  # type: ignore[arg-type]  # noqa: SLF001
            # anew: env.py may be run a second time, with a connection
            found[:] = [(step.revision.revision, step.revision.path) for step in planned]
            return []

        if with_env_py:
            self.run(look, command=("upgrade", target), dont_mutate=True)
        else:
            look()

        return found

    def branches(self, target: str) -> dict[str, Any]:
        """The history's heads, each with the labels of its branch, and the revisions that a target means."""
        found: dict[str, Any] = {}

        def look(_heads: Any, _context: Any) -> list[Any]:
            script = self.script
            heads = [script.get_revision(name) for name in script.get_heads()]
            labels = [(head.revision, sorted(head.branch_labels or ())) for head in heads]
            revisions: Iterable[Any] = script.get_revisions(target)  # None stands for base
            meant = [each.revision for each in revisions if each is not None]
            found.update(heads=labels, meant=meant)
            return []

        self.run(look, command=("heads",), dont_mutate=True)
        return found

    def command(self, arguments: Sequence[str]) -> None:
        """What `alembic ARGUMENTS` does; ends the process as that does, when something is wrong."""
        from alembic.config import CommandLine

        self.run(
            lambda _heads, _context: [], command=("current",), dont_mutate=True
        )  # whether env.py wants a connection
        with self._configured(arguments) as config, prepared(self._setup, config):
            assert config.cmd_opts is not None  # noqa: S101 - for the type checker: just made
            CommandLine(prog="clonedb alembic").run_cmd(config, config.cmd_opts)

    def run(
        self,
        steps: Callable[[Any, Any], Iterable[Any]],
        *,
        command: Sequence[str],
        **options: Any,
    ) -> None:
        """Run env.py as an alembic command does; when it runs migrations, `steps(heads, context)` says which.

        One that asks for a connection in its Config and fails without is run again with one.
        Raises NotMigratedError when it runs no migrations at all, and whatever env.py or a
        revision raises.
        """
        reasons: list[BaseException] = []
        # once it was needed it is given at once
        attempts = (True,) if self._given else (False, True)
        for given in attempts:
            self._given = given
            try:
                self._run(steps, command, options)
            except _NoConnectionError as error:
                reasons.append(error.reason)
            else:
                return

        self._given = False
        raise reasons[0]

    def _run(
        self,
        steps: Callable[[Any, Any], Iterable[Any]],
        command: Sequence[str],
        options: dict[str, Any],
    ) -> None:
        from alembic.runtime.environment import EnvironmentContext

        self.version_tables, script = [], self.script
        configured = False

        def noted(heads: Any, context: Any) -> Iterable[Any]:
            table = (context.version_table, context.version_table_schema)
            if table not in self.version_tables:
                self.version_tables.append(table)
            return steps(heads, context)

        self.asked.names.clear()
        with self._configured(command) as config:
            environment = EnvironmentContext(config, script, fn=noted, **options)
            configure = environment.configure

            def configure_postgresql(*arguments: Any, **keywords: Any) -> None:
                nonlocal configured
                configure(*arguments, **keywords)
                configured = environment.get_context().connection is not None
                require_postgresql(environment.get_context(), self.asked.names)

            # what env.py calls as context.configure()
            environment.configure = configure_postgresql  # type: ignore[method-assign]
            try:
                with prepared(self._setup, config), environment:
                    script.run_env()
                self._require_run()
            except BaseException as error:
                attributes: Any = config.attributes
                # it failed before it had a connection, and the one that it asked for may be why
                if attributes.was_asked and not configured:
                    raise _NoConnectionError(error) from error
                raise

    def _require_run(self) -> None:
        if not self.version_tables:
            raise NotMigratedError(
                "env.py ran to its end but never called context.run_migrations() with a connection, so nothing was"
                " migrated; does it connect only under a condition (an environment variable, a -x argument)?"
            )

    def heads(self) -> dict[tuple[str, str | None], tuple[str, ...]]:
        """What each version table of the last run holds, as another session sees it."""
        from alembic.runtime.migration import MigrationContext
        from sqlalchemy import create_engine, pool

        found = {}
        for table, schema in self.version_tables:
            with create_engine(
                self._setup["own_url"], poolclass=pool.NullPool
            ).connect() as connection:
                options = {"version_table": table, "version_table_schema": schema}
                found[table, schema] = MigrationContext.configure(
                    connection, opts=options
                ).get_current_heads()

        return found

    @contextlib.contextmanager
    def _configured(self, command: Sequence[str]) -> Iterator[Config]:
        """Alembic's Config for one run of env.py, as the command makes it."""
        from alembic.config import Config

        setup = self._setup
        section, url = setup["section"], setup["env_url"]
        if setup["toml"] and not hasattr(Config, "toml_file_name"):
            raise NotMigratedError(
                "Alembic is configured in pyproject.toml, which this version of it does not read;"
                " install alembic >= 1.16"
            )

        toml = {"toml_file": setup["toml"]} if setup["toml"] else {}
        attributes = Attributes(url, given=self._given)
        with contextlib.closing(attributes), _ini(setup) as ini:
            config = Config(
                ini, ini_section=section, cmd_opts=command_options(setup, command), **toml
            )
            if not config.file_config.has_section(section):
                # set_main_option() wants it to be there
                config.file_config.add_section(section)
            options = {"sqlalchemy.url": url, **setup["options"], **_places(setup)}
            for name, value in options.items():
                # configparser's interpolation begins with a %
                config.set_main_option(name, value.replace("{url}", url).replace("%", "%%"))
            config.attributes = attributes
            yield config


def _places(setup: Mapping[str, Any]) -> dict[str, str]:
    """Where the revisions are, in absolute paths: Alembic takes relative ones from the current directory.

    A separator that no path has goes with them. Before 1.16 Alembic has one for
    `version_locations` only, and the line's end is none of those that 1.13.0 knows.
    """
    from alembic.config import Config

    locations, prepended = setup["version_locations"], setup["prepended"]
    if not locations:
        return {}
    if not hasattr(Config, "get_version_locations_list"):
        return {"version_path_separator": "os", "version_locations": os.pathsep.join(locations)}
    found = {"path_separator": "newline", "version_locations": "\n".join(locations)}
    return {**found, "prepend_sys_path": "\n".join(prepended)} if prepended else found


@contextlib.contextmanager
def _ini(setup: Mapping[str, Any]) -> Iterator[str]:
    """The project's alembic.ini, or one for a project without: fileConfig() wants a file with logging sections."""
    if setup["ini"]:
        yield setup["ini"]
        return
    with tempfile.NamedTemporaryFile("w", prefix="clonedb-", suffix=".ini") as file:
        file.write(f"[{setup['section']}]\n{_LOGGING_INI}")
        file.flush()
        yield file.name
