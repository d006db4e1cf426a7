"""`clonedb clone`, `run`, `alembic`, `psql`, `drop`, `gc`: databases from the shell."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import click

from clonedb.cli.configuration import Context
from clonedb.cli.process import run_to_end
from clonedb.cli.progress import progress
from clonedb.cli.several import on_each, opened, which_has
from clonedb.postgres.libpq_variables import leading_to
from clonedb.quantities import duration

if TYPE_CHECKING:
    from clonedb.clones.clone import Clone
    from clonedb.clones.gc import Leftover
    from clonedb.names import Name
    from clonedb.postgres.server import Server
    from clonedb.settings.config import Config

__all__ = ["COMMANDS"]

_HOLD = 8 * 3600.0  # seconds an embedded server stays up for a database that was made by hand
# `run ls -h` asks ls, not us
_OTHERS_OPTIONS = MappingProxyType(
    {"ignore_unknown_options": True, "allow_interspersed_args": False}
)


@click.command()
@click.option(
    "--driver",
    help="Driver in the URL (psycopg, asyncpg, ...); without it a plain postgresql:// URL.",
)
@click.pass_obj
def clone(context: Context, driver: str | None) -> None:
    """Make a database in the template's state and print its URL; `clonedb drop` ends it."""
    from clonedb.api import open_template
    from clonedb.embedded import leases
    from clonedb.templates.metadata import Kept

    with progress() as shown, open_template(context.config(), progress=shown) as template:
        made = template.clone()
        run = secrets.token_hex(8)
        # kept before the URL is printed: it is there when the user comes to it
        made.keep(Kept(project=template.recipe.key, run=run, when=time.time(), test=None))
        if template.server.lease is not None:
            leases.hold(template.server.config, template.server.lease, _HOLD)
            shown.say(
                f"the embedded server stays up for {duration(_HOLD)}, until nothing is kept there, or until"
                " `clonedb server stop`"
            )

        click.echo(
            template.server.url(made.name).replace(driver=driver).render()
            if driver
            else made.dsn
        )


@click.command(context_settings=dict(_OTHERS_OPTIONS))
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def run(context: Context, command: tuple[str, ...]) -> None:
    """Run COMMAND with a fresh clone in DATABASE_URL, and drop it afterwards.

    The variables that [tool.clonedb] route names hold the URL too, or that of a clone of the
    template which it has for them. The command's exit code is passed on.
    """
    from clonedb.api import open_template
    from clonedb.routing.places import templates_of

    config = context.config()
    databases: dict[str, Clone] = {}
    with progress() as shown, contextlib.ExitStack() as stack:
        for name in dict.fromkeys([config.template, *_others(config)]):
            wanted = config if name == config.template else config.of_template(name, "route")
            template = stack.enter_context(open_template(wanted, progress=shown))
            databases[name] = stack.enter_context(template.clone())
        own = databases[config.template]
        routed = {
            entry: databases.get(name, own)
            for entry, name in templates_of(config.route).items()
        }
        code = run_to_end(command, _environment(own, routed, config))
    raise SystemExit(code)


def _others(config: Config) -> Iterable[str]:
    """The templates that `route` names, where it names several: a list means the one that is chosen."""
    return config.route.values() if isinstance(config.route, Mapping) else ()


@click.command(context_settings=dict(_OTHERS_OPTIONS))
@click.argument("arguments", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def alembic(context: Context, arguments: tuple[str, ...]) -> None:
    """Run one of Alembic's own commands on a fresh clone: `clonedb alembic revision --autogenerate -m "..."`.

    The database is migrated to the target, and dropped afterwards; what stays are the files
    that Alembic writes.
    """
    from clonedb.api import open_template
    from clonedb.migrate.recipes import require_revisions

    with (
        progress() as shown,
        open_template(context.config(), progress=shown) as template,
        template.clone() as database,
    ):
        migrator = require_revisions(template.recipe, "clonedb alembic").migrator
        program, environment = migrator.command(template.server.url(database.name), arguments)
        code = run_to_end(program, environment, directory=template.recipe.rootdir)

    raise SystemExit(code)


def _environment(
    database: Clone, routed: Mapping[str, Clone], config: Config
) -> dict[str, str]:
    """Ours, but DATABASE_URL, the routed names and libpq's variables lead to a database, by the driver they named."""
    from clonedb.errors import ConfigError
    from clonedb.routing.environment import variables_in
    from clonedb.url import DatabaseURL

    # the clone's own, which the project's variables are to lead to
    own = DatabaseURL.parse(database.dsn)
    variables = {}
    for name in {"DATABASE_URL": None, **dict.fromkeys(variables_in(config.route))}:
        driver = config.driver
        with contextlib.suppress(ConfigError):  # psycopg and psql know no driver in a URL
            driver = DatabaseURL.parse(os.environ.get(name, "")).driver
        url = DatabaseURL.parse(routed.get(name, database).dsn)
        variables[name] = url.replace(driver=driver).render()

    return leading_to(os.environ, own.conninfo(), alone=config.url is None) | variables


@click.command(context_settings=dict(_OTHERS_OPTIONS))
@click.argument("name", required=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def psql(context: Context, name: str | None, arguments: tuple[str, ...]) -> None:
    """Open psql on a kept clone, or on a fresh one that is dropped afterwards."""
    import shutil

    from clonedb.api import open_template
    from clonedb.errors import NotOursError, ServerNotFoundError

    config = context.config()
    if name is not None and name.startswith("-"):  # an option of psql's, and no name
        arguments, name = (name, *arguments), None
    # what is meant for psql may be set off by `--`
    if arguments[:1] == ("--",):
        arguments = arguments[1:]
    with contextlib.ExitStack() as stack:
        if name is None:
            shown = stack.enter_context(progress())
            template = stack.enter_context(open_template(config, progress=shown))
            server, name = template.server, stack.enter_context(template.clone()).name
        else:
            server = stack.enter_context(opened(which_has(config, name)))
            if _require_ours(server, name).kind == "template":
                raise NotOursError(
                    f"{name!r} is a template, which takes no connections; `clonedb psql` without a name opens a fresh"
                    " clone of the project's"
                )

        program = (server.binaries and server.binaries.program("psql")) or shutil.which("psql")
        if program is None:
            raise ServerNotFoundError(
                "no psql found; install PostgreSQL's client programs (postgresql-client)"
            )

        keywords = server.url(name).conninfo()
        environment = leading_to(os.environ, keywords, alone=server.embedded)
        if server.embedded:
            environment["PGREQUIREAUTH"] = "scram-sha-256"  # psql 16 and newer know it
        options = {"host": "-h", "port": "-p", "user": "-U"}
        place_ = [
            part
            for key, flag in options.items()
            if key in keywords
            for part in (flag, keywords[key])
        ]
        code = run_to_end([str(program), *place_, *arguments, name], environment)

    raise SystemExit(code)


def _require_ours(server: Server, name: str) -> Name:
    """What a database's name says; raises NotOursError unless it is there and clonedb made it."""
    from clonedb.errors import NotOursError
    from clonedb.names import parse
    from clonedb.postgres import sql

    found = parse(server.config.prefix, name)
    if found is None:
        raise NotOursError(
            f"database {name!r} was not made by clonedb (prefix {server.config.prefix!r}), so it is left alone;"
            " `clonedb list` shows those that were"
        )

    if server.run(sql.find_database, name) is None:
        raise NotOursError(
            f"there is no database {name!r} on {server.about}; `clonedb list` shows what is there"
        )

    return found


@click.command()
@click.argument("names", nargs=-1)
@click.option(
    "--all",
    "of_project",
    is_flag=True,
    help="Every clone and template of this project that nobody uses.",
)
@click.option(
    "--everything", is_flag=True, help="Those of every project on the server; asks before."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def drop(
    context: Context, names: tuple[str, ...], *, of_project: bool, everything: bool, yes: bool
) -> None:
    """Drop databases that clonedb made: kept clones by NAME, or all that are neither in use nor open."""
    if [bool(names), of_project, everything].count(True) != 1:
        raise click.UsageError(
            "give the names of databases (`clonedb list` shows them), or --all, or --everything"
        )

    config = context.config()
    if names:
        _drop_named(config, dict.fromkeys(names))
        return
    projects = None if everything else _projects(config)

    def drop_there(one: Config) -> None:
        with opened(one) as server:
            if everything and not yes:
                _ask(server)
            _drop_all(server, projects)
            _end_hold(server)

    on_each(config, drop_there)


def _drop_named(config: Config, names: Iterable[str]) -> None:
    """Drop databases, each on the server that has it; none if one of them is not clonedb's."""
    from clonedb.clones.gc import drop_one

    with contextlib.ExitStack() as stack:
        servers: dict[int | None, Server] = {}
        found = [(name, which_has(config, name)) for name in names]
        for name, one in found:
            if one.number not in servers:
                servers[one.number] = stack.enter_context(opened(one))
            _require_ours(servers[one.number], name)
        for name, one in found:
            drop_one(servers[one.number], name)
            click.echo(f"dropped {name}")
        for server in servers.values():
            _end_hold(server)


def _end_hold(server: Server) -> None:
    """Let an embedded server stop again if it was held for kept clones, and there is none any more."""
    from clonedb.clones.gc import inventory
    from clonedb.embedded.servers import end_hold

    if server.lease is not None and not any(
        item.kind == "kept clone" for item in inventory(server)
    ):
        end_hold(server.config, server.lease.name)


def _drop_all(server: Server, projects: set[str] | None) -> None:
    from clonedb.clones.gc import collect

    refused: list[Leftover] = []
    for leftover in (
        dropped := collect(server, everything=True, projects=projects, refused=refused.append)
    ):
        click.echo(f"dropped {leftover.name}")
    _say_refused(refused)
    if not dropped and not refused:
        click.echo("there was nothing to drop")


def _projects(config: Config) -> set[str]:
    """The keys of a project, whose named templates may be made in ways of their own."""
    from clonedb.migrate.recipes import find_recipe

    names = ("default", *(config.project_wide or config).templates)
    return {find_recipe(config.of_template(name, "clonedb drop")).key for name in names}


def _ask(server: Server) -> None:
    """Have the user confirm that every project's databases are dropped; ends the command when that is not done."""
    from clonedb.clones.gc import collect

    found = collect(server, everything=True, dry_run=True)
    if not found:
        return
    for leftover in found:
        click.echo(f"{leftover.name}: {leftover.project or leftover.why}", err=True)
    count = "1 database" if len(found) == 1 else f"{len(found)} databases"
    click.confirm(f"drop {count} of every project on {server.about}?", abort=True, err=True)


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be dropped.")
@click.pass_obj
def gc(context: Context, *, dry_run: bool) -> None:
    """Drop what dead processes left, and templates beyond keep_templates, keep_days and keep_bytes."""
    on_each(context.config(), lambda config: _collect(config, dry_run=dry_run))


def _collect(config: Config, *, dry_run: bool) -> None:
    from clonedb.clones.gc import collect

    with opened(config) as server:
        refused: list[Leftover] = []
        found = collect(server, dry_run=dry_run, refused=refused.append)
    for leftover in found:
        click.echo(f"{'would drop' if dry_run else 'dropped'} {leftover.name}: {leftover.why}")
    _say_refused(refused)
    if not found and not refused:
        click.echo("nothing is left over")


def _say_refused(leftovers: Sequence[Leftover]) -> None:
    for leftover in leftovers:
        click.echo(f"could not drop {leftover.name}: {leftover.why}")


COMMANDS = (clone, run, alembic, psql, drop, gc)
