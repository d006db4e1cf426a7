"""`clonedb init`: the few lines that a project needs, shown, and written if they are wanted."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from clonedb.cli.configuration import Place
from clonedb.errors import ConfigError

if TYPE_CHECKING:
    from clonedb.project.survey import Survey

__all__ = ["COMMANDS"]


@click.command()
@click.option("--yes", is_flag=True, help="Write without asking.")
@click.pass_obj
def init(place: Place, *, yes: bool) -> None:
    """Look at the project, and write the lines it needs into pyproject.toml.

    They are shown first. A project that has a [tool.clonedb] table is left as it is.
    """
    from clonedb.project.survey import survey

    config = place.config()
    file = config.rootdir / "pyproject.toml"
    if file.is_dir():
        raise ConfigError(f"{file} is a directory; clonedb's settings are in a file of that name")
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    if "[tool.clonedb" in text:
        click.echo(f"{file} has a [tool.clonedb] table already; nothing was changed")
        return
    found = survey(config.rootdir)
    for line in _findings(found):
        click.echo(line)
    lines = _table(config.rootdir, found)
    if len(lines) == 1:
        click.echo("\nthe project needs no line of configuration: ask for clonedb_session in a test")
        return
    click.echo(f"\nfor {file}:\n")
    click.echo("\n".join(f"    {line}" for line in lines))
    click.echo()
    if not yes and not sys.stdin.isatty():
        click.echo("nothing was written; run `clonedb init --yes` to write these lines", err=True)
        raise SystemExit(1)
    if not yes and not click.confirm("write them?", default=True):
        click.echo("nothing was changed")
        return
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    try:
        with file.open("a", encoding="utf-8") as opened:
            opened.write(gap + "\n".join(lines) + "\n")
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror or error}; write these lines yourself") from None
    click.echo(f"written; now ask for {'clonedb_async_session' if found.asynchronous else 'clonedb_session'} in a test")


def _findings(found: Survey) -> list[str]:
    return [
        f"Alembic        {', '.join(found.configurations) or 'no alembic.ini'}",
        f"database URL   {', '.join(found.variables) or 'no variable that looks like one'}",
        f"driver         {', '.join(found.drivers) or 'none named'}",
        f"engine         {'asynchronous' if found.asynchronous else 'synchronous'}",
    ]


def _table(rootdir: Path, found: Survey) -> list[str]:
    lines = ["[tool.clonedb]"]
    if found.configurations and not (rootdir / "alembic.ini").exists():
        lines.append(f"alembic_ini = {json.dumps(found.configurations[0])}")
    asynchronous = [name for name in found.drivers if name != "psycopg2"]
    drivers = asynchronous if found.asynchronous else found.drivers
    if drivers and drivers[0] != "psycopg":  # which it is without being told
        lines.append(f"driver = {json.dumps(drivers[0])}  # in the URLs that tests get")
    known = [name for name in found.variables if name in os.environ]
    if known:
        lines.append(f"route = {json.dumps(known[:1])}  # holds the application's URL: leads to the test's database")
    elif found.variables:
        lines.append(
            f'route = ["*"]  # {found.variables[0]} is not set here: every engine leads to the test\'s database'
        )
    return lines


COMMANDS = (init,)
