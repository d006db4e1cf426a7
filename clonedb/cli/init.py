"""`clonedb init`: the few lines that a project needs, shown, and written if they are wanted."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from clonedb.cli.configuration import Context
from clonedb.errors import ConfigError

if TYPE_CHECKING:
    from clonedb.project.find import Project
    from clonedb.project.survey import Survey
    from clonedb.settings.config import Config

__all__ = ["COMMANDS"]


@click.command()
@click.option("--yes", is_flag=True, help="Write without asking.")
@click.pass_obj
def init(context: Context, *, yes: bool) -> None:
    """Look at the project, and write the lines it needs into pyproject.toml.

    They are shown first. A project that has a [tool.clonedb] table is left as it is.
    """
    from clonedb.project.survey import survey

    config = context.config()
    file = config.rootdir / "pyproject.toml"
    if file.is_dir():
        raise ConfigError(
            f"{file} is a directory; clonedb's settings are in a file of that name"
        )

    text = file.read_text(encoding="utf-8") if file.exists() else ""
    if "[tool.clonedb" in text:
        click.echo(f"{file} has a [tool.clonedb] table already; nothing was changed")
        return

    found = survey(config.rootdir)
    for line in _findings(found):
        click.echo(line)
    settings, project = _found_by(config, found)
    lines = [*_table(found, settings.get("alembic_ini")), *_launcher(project)]
    if "alembic" in settings:
        location = json.dumps(settings["alembic"]["script_location"])
        lines += ["", "[tool.clonedb.alembic]", f"script_location = {location}"]

    if len(lines) == 1:
        click.echo(
            "\nthe project needs no line of configuration: ask for clonedb_session in a test"
        )
        return

    click.echo(f"\nfor {file}:\n")
    click.echo("\n".join(f"    {line}" for line in lines))
    click.echo()
    if not yes and not sys.stdin.isatty():
        click.echo(
            "nothing was written; run `clonedb init --yes` to write these lines", err=True
        )
        raise SystemExit(1)

    if not yes and not click.confirm("write them?", default=True):
        click.echo("nothing was changed")
        return

    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    try:
        with file.open("a", encoding="utf-8") as opened:
            opened.write(gap + "\n".join(lines) + "\n")
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be written: {error.strerror or error}; write these lines yourself"
        ) from None

    click.echo(
        f"written; now ask for {'clonedb_async_session' if found.asynchronous else 'clonedb_session'} in a test"
    )


def _findings(found: Survey) -> list[str]:
    return [
        f"Alembic        {', '.join(found.configurations or found.environments) or 'no alembic.ini'}",
        f"database URL   {', '.join(found.variables) or 'no variable that looks like one'}",
        f"driver         {', '.join(found.drivers) or 'none named'}",
        f"engine         {'asynchronous' if found.asynchronous else 'synchronous'}",
    ]


def _found_by(config: Config, found: Survey) -> tuple[dict[str, Any], Project]:
    """The settings by which the migrations are found, none if they are without, and what is found.

    Tried out, because an alembic.ini need not say where they are: Flask-Migrate's leaves that
    to its own command. Raises NoMigrationsError or ConfigError when nothing helps.
    """
    from clonedb.errors import ConfigError, NoMigrationsError
    from clonedb.project.find import find_project

    candidates: list[dict[str, Any]] = []
    for ini in found.configurations:
        beside = {"script_location": PurePosixPath(ini).parent.as_posix()}
        candidates += [{"alembic_ini": ini}, {"alembic_ini": ini, "alembic": beside}]

    candidates += [{"alembic": {"script_location": place}} for place in found.environments]
    try:
        return {}, find_project(config)
    except (ConfigError, NoMigrationsError):
        for settings in candidates:
            with contextlib.suppress(ConfigError, NoMigrationsError):
                return settings, find_project(config.replace("clonedb init", **settings))

        raise


def _launcher(project: Project) -> list[str]:
    """A line to complete for an env.py that expects its application's own command."""
    text = project.env_py.read_text(encoding="utf-8", errors="replace")
    if not any(word in text for word in ("current_app", "advanced_alchemy")):
        return []
    return [
        '# prepare = "package.module:function"  # env.py expects its application: this gives it that, see the README'
    ]


def _table(found: Survey, alembic_ini: str | None) -> list[str]:
    lines = ["[tool.clonedb]"]
    if alembic_ini is not None:
        lines.append(f"alembic_ini = {json.dumps(alembic_ini)}")
    asynchronous = [name for name in found.drivers if name != "psycopg2"]
    drivers = [
        name
        for name in (asynchronous if found.asynchronous else found.drivers)
        if find_spec(name)
    ]
    if drivers and drivers[0] != "psycopg":  # which it is without being told
        lines.append(f"driver = {json.dumps(drivers[0])}  # in the URLs that tests get")
    known = [name for name in found.variables if name in os.environ]
    if known:
        lines.append(
            f"route = {json.dumps(known[:1])}  # holds the application's URL: leads to the test's database"
        )
    elif found.variables:
        lines.append(
            f'route = ["*"]  # {found.variables[0]} is not set here: every engine leads to the test\'s database'
        )

    return lines


COMMANDS = (init,)
