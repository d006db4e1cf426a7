"""`clonedb init`: the few lines that a project needs, shown, tried, and written if they are wanted."""

from __future__ import annotations

import contextlib
import os
import sys
import tomllib
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import click

from clonedb.cli.configuration import Context
from clonedb.errors import CloneDBError, ConfigError, NoMigrationsError

if TYPE_CHECKING:
    from clonedb.project.recipe import Recipe
    from clonedb.project.survey import Survey
    from clonedb.settings.config import Config
    from clonedb.settings.typed import Settings

__all__ = ["COMMANDS"]

_SOURCE = "clonedb init"


@click.command()
@click.option("--yes", is_flag=True, help="Write without asking.")
@click.option("--no-build", is_flag=True, help="Write without trying to build the template.")
@click.pass_obj
def init(context: Context, *, yes: bool, no_build: bool) -> None:
    """Look at the project, and write the lines it needs into pyproject.toml.

    They are shown first, and written when the template could be built with them. A project that
    has a [tool.clonedb] table is left as it is.
    """
    from clonedb.project.survey import survey

    config = context.config()
    file = config.rootdir / "pyproject.toml"
    if file.is_dir():
        raise ConfigError(
            f"{file} is a directory; clonedb's settings are in a file of that name"
        )

    text = file.read_text(encoding="utf-8") if file.exists() else ""
    if "clonedb" in tomllib.loads(text).get("tool", {}):
        click.echo(f"{file} has a [tool.clonedb] table already; nothing was changed")
        return

    # looked at and shown
    found = survey(config.rootdir)
    proposal, recipe = _proposal(config, found)
    for line in _findings(found, recipe):
        click.echo(line)

    wanted = "clonedb_async_session" if found.asynchronous else "clonedb_session"
    lines = proposal.lines()
    if not lines:
        click.echo(f"\nthe project needs no line of configuration: ask for {wanted} in a test")
    else:
        click.echo(f"\nfor {file}:\n")
        click.echo("\n".join(f"    {line}" for line in lines))
        click.echo()
        if not _is_wanted(yes=yes):
            return
        _require_place(file, text, lines)

    # tried before it is written
    if not no_build:
        _try_build(config.replace(_SOURCE, **proposal.settings))
    if lines:
        _append(file, text, lines)
        click.echo(f"written; now ask for {wanted} in a test")


def _is_wanted(*, yes: bool) -> bool:
    if not yes and not sys.stdin.isatty():
        click.echo(
            "nothing was written; run `clonedb init --yes` to write these lines", err=True
        )
        raise SystemExit(1)

    if yes or click.confirm("write them?", default=True):
        return True
    click.echo("nothing was changed")
    return False


def _try_build(config: Config) -> None:
    """What is written works; raises why it does not."""
    from clonedb.api import open_template
    from clonedb.cli.progress import progress

    try:
        with progress() as shown, open_template(config, progress=shown) as template:
            click.echo(f"the template was built: {template.record.metadata.state}")
    except CloneDBError:
        click.echo("nothing was written, because the template could not be built:", err=True)
        raise


def _require_place(file: Path, text: str, lines: list[str]) -> None:
    """Raises ConfigError where a table at the end breaks the file: `tool = {...}` takes no further one."""
    try:
        tomllib.loads(text + _appended(text, lines))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{file} takes no table at its end ({error}); write these lines yourself"
        ) from None


def _appended(text: str, lines: list[str]) -> str:
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    return gap + "\n".join(lines) + "\n"


def _append(file: Path, text: str, lines: list[str]) -> None:
    try:
        with file.open("a", encoding="utf-8") as opened:
            opened.write(_appended(text, lines))
    except OSError as error:
        raise ConfigError(
            f"{file} cannot be written: {error.strerror or error}; write these lines yourself"
        ) from None


def _findings(found: Survey, recipe: Recipe) -> list[str]:
    from clonedb.migrate.plain_recipe import PlainRecipe

    if isinstance(recipe, PlainRecipe):
        made_by = f"schema         {recipe.words.maker}: {', '.join(recipe.steps)}"
    else:
        places = found.configurations or found.environments
        made_by = f"Alembic        {', '.join(places) or 'no alembic.ini'}"
    return [
        made_by,
        f"database URL   {', '.join(found.variables) or 'no variable that looks like one'}",
        f"driver         {', '.join(found.drivers) or 'none named'}",
        f"engine         {'asynchronous' if found.asynchronous else 'synchronous'}",
    ]


@dataclass(slots=True)
class _Proposal:
    """The settings that a project needs; `remarks` are comments behind some, and `undecided` lines to complete."""

    settings: Settings
    remarks: dict[str, str] = field(default_factory=dict)
    undecided: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """As they stand in pyproject.toml; none when there is nothing to say."""
        from clonedb.project.detect import as_lines

        if not self.settings and not self.undecided:
            return []
        found = []
        for line in as_lines(self.settings):
            remark = self.remarks.get(line.partition(" = ")[0])
            found.append(f"{line}  # {remark}" if remark else line)
        # in TOML a setting behind the head of a sub-table would belong to that
        place = next((at for at, line in enumerate(found) if not line), len(found))
        return ["[tool.clonedb]", *found[:place], *self.undecided, *found[place:]]


def _proposal(config: Config, found: Survey) -> tuple[_Proposal, Recipe]:
    settings, recipe = _schema(config, found)
    proposal = _Proposal(settings)
    _add_launcher(proposal, recipe)
    _add_application(proposal, found)
    return proposal, recipe


def _schema(config: Config, found: Survey) -> tuple[Settings, Recipe]:
    """The settings that say what makes the schema, none if it is found without, and the recipe.

    Each is tried, because an alembic.ini need not say where its migrations are: Flask-Migrate's
    leaves that to its own command. Raises NoMigrationsError or ConfigError when nothing helps.
    """
    from clonedb.migrate.recipes import find_recipe
    from clonedb.project.detect import FOUND
    from clonedb.settings.keys import KEYS

    candidates: list[Settings] = []
    for ini in found.configurations:
        place = PurePosixPath(ini).parent.as_posix()
        candidates += [
            {"alembic_ini": ini},
            {"alembic_ini": ini, "alembic": {"script_location": place}},
        ]

    # an env.py without an alembic.ini
    candidates += [{"alembic": {"script_location": place}} for place in found.environments]
    try:
        recipe = find_recipe(config)
    except (ConfigError, NoMigrationsError):
        for settings in candidates:
            with contextlib.suppress(ConfigError, NoMigrationsError):
                return settings, find_recipe(config.replace(_SOURCE, **settings))

        raise

    taken = {name: getattr(recipe.config, name) for name in KEYS}
    of_files: Settings = {  # type: ignore[assignment]
        name: dict(value) if name == "alembic" else value
        for name, value in taken.items()
        if recipe.config.source(name) == FOUND
    }
    return of_files, recipe


def _add_launcher(proposal: _Proposal, recipe: Recipe) -> None:
    """What an env.py needs that its application's own command runs."""
    from clonedb.migrate.recipes import find_launcher

    launcher = find_launcher(recipe)
    if launcher is None:
        return
    if len(launcher.names) == 1:
        proposal.settings["prepare"] = launcher.names[0]
        proposal.remarks["prepare"] = "what env.py expects to be run by"
        return

    listed = f" ({' or '.join(launcher.names)})" if launcher.names else ""
    proposal.undecided.append(
        f'# prepare = "package.module:name"  # env.py expects its application{listed}: this names it, see the README'
    )


def _add_application(proposal: _Proposal, found: Survey) -> None:
    """The driver in the URLs that tests get, and what leads the application to their databases."""
    asynchronous = [name for name in found.drivers if name != "psycopg2"]
    drivers = [
        name
        for name in (asynchronous if found.asynchronous else found.drivers)
        if find_spec(name)
    ]
    if drivers and drivers[0] != "psycopg":  # which it is without being told
        proposal.settings["driver"] = drivers[0]
        proposal.remarks["driver"] = "in the URLs that tests get"
    known = [name for name in found.variables if name in os.environ]
    if known:
        proposal.settings["route"] = known[:1]
        proposal.remarks["route"] = "holds the application's URL: leads to the test's database"
    elif found.variables:
        proposal.settings["route"] = ["*"]
        proposal.remarks["route"] = (
            f"{found.variables[0]} is not set here: every engine leads to the test's database"
        )


COMMANDS = (init,)
