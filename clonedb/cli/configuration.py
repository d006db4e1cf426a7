"""`clonedb config`, and how every command comes to its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from clonedb.cli.table import lines
from clonedb.settings.config import Config
from clonedb.settings.keys import KEYS
from clonedb.settings.load import load

__all__ = ["COMMANDS", "Context"]


@dataclass(frozen=True, slots=True)
class Context:
    """What was said before the command's name: the directory and the options for all commands."""

    directory: str
    options: Mapping[str, Any]

    def config(self, **more: Any) -> Config:
        """The project's configuration; raises ConfigError."""
        return load(Path(self.directory), options={**self.options, **more}, option_prefix="--")


@click.command()
@click.option(
    "--all", "everything", is_flag=True, help="Settings that have their default value too."
)
@click.pass_obj
def config(context: Context, *, everything: bool) -> None:
    """Show each setting, its value, and where that was said."""
    found = context.config()
    rows = [
        (name, found.shown(name), found.source(name))
        for name in KEYS
        if everything or name in found.sources
    ]
    click.echo(f"project: {found.rootdir}")
    if rows:
        click.echo(lines([("setting", "value", "from"), *rows]))
    if not found.url:
        from clonedb.embedded.places import data_about

        click.echo(f"embedded server: {data_about(found)}")

    if not everything:
        click.echo("everything else has its default: clonedb config --all shows them")


COMMANDS = (config,)
