"""`clonedb config`, and how every command comes to its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from clonedb.config import Config
from clonedb.keys import KEYS
from clonedb.settings import load

__all__ = ["COMMANDS", "Place"]


@dataclass(frozen=True, slots=True)
class Place:
    """What was said before the command's name: the directory and the options for all commands."""

    directory: str
    options: Mapping[str, Any]

    def config(self, **more: Any) -> Config:
        """The project's configuration; raises ConfigError."""
        return load(Path(self.directory), options={**self.options, **more}, option_prefix="--")


@click.command()
@click.option("--all", "everything", is_flag=True, help="Settings that have their default value too.")
@click.pass_obj
def config(place: Place, *, everything: bool) -> None:
    """Show each setting, its value, and where that was said."""
    from rich.console import Console
    from rich.table import Table

    found = place.config()
    table = Table(box=None, pad_edge=False)
    for column in ("setting", "value", "from"):
        table.add_column(column, overflow="fold")
    for name in KEYS:
        if everything or name in found.sources:
            table.add_row(name, found.shown(name), found.source(name))
    console = Console(highlight=False)
    console.print(f"project: {found.rootdir}", soft_wrap=True, markup=False)
    if table.row_count:
        console.print(table)
    if not everything:
        console.print("everything else has its default: clonedb config --all shows them")


COMMANDS = (config,)
