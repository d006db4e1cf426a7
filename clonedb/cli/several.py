"""Commands that go over several servers: what each does there, and those that do not answer."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import click

from clonedb.errors import CloneDBError

if TYPE_CHECKING:
    from clonedb.postgres.server import Server
    from clonedb.settings.config import Config

__all__ = ["on_each", "opened", "which_has"]


def on_each(config: Config, work: Callable[[Config], None]) -> None:
    """Do what a command does on each server, under a line with its name if there are several.

    One on which it fails keeps it from no other; then the command fails at the end.
    """
    from clonedb.postgres.servers import each_server

    configs = each_server(config)
    if len(configs) == 1:
        work(config)
        return

    failed = False
    for number, one in enumerate(configs, 1):
        if number > 1:
            click.echo()
        click.echo(f"server {number} of {len(configs)}{_place(one)}:")
        try:
            work(one)
        except CloneDBError as error:
            failed = True
            click.echo(f"clonedb: {error}", err=True)
    if failed:
        raise SystemExit(1)


def _place(config: Config) -> str:
    return f", {config.shown('url')}" if config.url is not None else " (embedded)"


@contextlib.contextmanager
def opened(config: Config) -> Iterator[Server]:
    """The project's server, or the first that answers of several."""
    from clonedb.api import open_project_server

    server = open_project_server(config)
    try:
        yield server
    finally:
        server.close()


def which_has(config: Config, name: str) -> Config:
    """The configuration of the server that has a database, of several; else of the first."""
    from clonedb.postgres import sql
    from clonedb.postgres.servers import each_server

    configs = each_server(config)
    for one in configs if len(configs) > 1 else ():
        # one that is down may have it, and others may have it all the same
        with contextlib.suppress(CloneDBError), opened(one) as server:
            if server.run(sql.find_database, name) is not None:
                return one
    return config
