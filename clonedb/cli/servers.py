"""`clonedb server`: the embedded servers from the shell."""

from __future__ import annotations

import time

import click

from clonedb.cli.configuration import Context
from clonedb.quantities import duration, size

__all__ = ["COMMANDS"]


@click.group()
def server() -> None:
    """Look at the embedded server, stop it, or delete its data."""


@server.command("status")
@click.pass_obj
def status(context: Context) -> None:
    """Say which embedded servers there are and whether they run."""
    from clonedb.embedded import servers
    from clonedb.embedded.places import not_in_memory, state_dir

    config = context.config()
    if config.url:
        click.echo(
            f"url is set ({config.shown('url')} from {config.source('url')}): no embedded server is used"
        )

    if why := not_in_memory(config):
        click.echo(f"no data in memory: {why}")
    found = servers.servers(config)
    for one in found:
        state: str = one.state
        if one.pid is not None:
            state += f", pid {one.pid}, port {one.port}"
        if one.held_until is not None and one.held_until > time.time():
            state += f", held for {duration(one.held_until - time.time())}"
        click.echo(
            f"{one.name}: PostgreSQL {one.version}, {state}, {size(one.size)} in {one.directory}"
        )

    if not found:
        click.echo(f"no embedded server yet in {state_dir(config)}; the first use makes one")


@server.command("stop")
@click.pass_obj
def stop(context: Context) -> None:
    """Stop the embedded server now; its data stays."""
    from clonedb.embedded import servers

    names = servers.stop(context.config())
    click.echo(
        "\n".join(f"stopped {name}" for name in names) or "no embedded server was running"
    )


@server.command("reset")
@click.pass_obj
def reset(context: Context) -> None:
    """Stop the embedded server and delete its data: templates and kept clones are gone."""
    from clonedb.embedded import servers

    names = servers.reset(context.config())
    click.echo("\n".join(f"deleted {name}" for name in names) or "there was no embedded server")


COMMANDS = (server,)
