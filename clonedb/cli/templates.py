"""`clonedb build`, `fingerprint`, `status`, `list`: templates from the shell."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from clonedb.cli.configuration import Context
from clonedb.cli.progress import progress
from clonedb.cli.several import on_each, opened
from clonedb.cli.table import lines
from clonedb.quantities import duration, size

if TYPE_CHECKING:
    from clonedb.postgres.server import Server
    from clonedb.project.fingerprint import Fingerprint
    from clonedb.project.recipe import Recipe
    from clonedb.settings.config import Config

__all__ = ["COMMANDS"]


@click.command()
@click.option("--force", is_flag=True, help="Build anew even if the template is there.")
@click.pass_obj
def build(context: Context, *, force: bool) -> None:
    """Build the project's template database, unless it is there already."""
    on_each(context.config(), lambda config: _build(config, force=force))


def _build(config: Config, *, force: bool) -> None:
    from clonedb.api import open_template

    with (
        progress() as shown,
        open_template(config, progress=shown, rebuild=force) as template,
    ):
        metadata = template.record.metadata
        how = template.record.how or "already there"
        click.echo(f"{template.name}: {how}, {metadata.state}, {size(metadata.size)}")


@click.command()
@click.option(
    "--explain",
    is_flag=True,
    help="List what goes in, and what differs from the newest template.",
)
@click.pass_obj
def fingerprint(context: Context, *, explain: bool) -> None:
    """Print the fingerprint of the project's template: usable as a cache key."""
    from clonedb.api import fingerprint_of, resolved

    config = resolved(context.config())
    with progress() as shown:
        server, recipe, found = fingerprint_of(config, progress=shown)
    try:
        click.echo(found.digest)
        if explain:
            for entry in found.inputs:
                click.echo(f"  {entry.digest[:12]}  {entry.kind:<9}  {entry.name}")
            _explain_difference(server, recipe, found)
    finally:
        server.close()


def _explain_difference(server: Server, recipe: Recipe, found: Fingerprint) -> None:
    from clonedb.project.fingerprint import differences
    from clonedb.templates.ensure import templates
    from clonedb.templates.layers import likeliest, why_none

    project = recipe.key
    # `templates` gives the newest first
    newest = next((t for t in templates(server) if t.metadata.project == project), None)
    if newest is None:
        click.echo("there is no template of this project on the server yet")
        return

    changes = differences(
        [(kind, name, digest) for kind, name, digest in newest.metadata.inputs], found
    )
    if not changes:
        click.echo(f"the newest template, {newest.name}, has this fingerprint")
        return

    click.echo(f"against the newest template, {newest.name}:")
    for change in changes:
        click.echo(f"  {change.change:<8} {change.kind:<9}  {change.name}")
    lane = (recipe.config.of_schema() or recipe.config).template
    if (layer := likeliest(server, found)) is not None:
        click.echo(f"it would be built upon {layer.name}, and migrated from there")
    elif why := why_none(server, project, lane, found, recipe.words.step):
        click.echo(f"it would be built from nothing because {why}")


@click.command()
@click.pass_obj
def status(context: Context) -> None:
    """Say whether the project's template is there, and what would happen next."""
    on_each(context.config(), _status)


def _status(config: Config) -> None:
    from clonedb.api import fingerprint_of
    from clonedb.names import template_name
    from clonedb.templates.ensure import find

    server, recipe, wanted = fingerprint_of(config)
    try:
        name = template_name(config.prefix, wanted.digest)
        found = find(server, name)
        click.echo(f"project   {recipe.name} in {config.rootdir}")
        click.echo(f"server    {server.about}")
        click.echo(f"template  {name}")
        if found is None:
            click.echo(
                "state     not built; the next test that asks for a database builds it, or `clonedb build`"
            )
        else:
            age = duration(time.time() - found.metadata.made)
            click.echo(
                f"state     ready: {found.metadata.state}, built {age} ago by {found.metadata.by}"
            )
    finally:
        server.close()


@click.command("list")
@click.pass_obj
def list_(context: Context) -> None:
    """List every database that clonedb made on the server."""
    on_each(context.config(), _list)


def _list(config: Config) -> None:
    from clonedb.clones.gc import inventory

    with opened(config) as server:
        rows = inventory(server)

    if not rows:
        click.echo(f"no database of clonedb's on {server.about}")
        return

    cells = [(row.name, row.kind, size(row.size), row.about) for row in rows]
    click.echo(lines([("database", "kind", "size", "what"), *cells]))


COMMANDS = (build, fingerprint, status, list_)
