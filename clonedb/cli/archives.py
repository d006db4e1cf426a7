"""`clonedb export` and `clonedb import`: a template as a file, so that a cold machine restores instead of migrating."""

from __future__ import annotations

from pathlib import Path

import click

from clonedb.cli.configuration import Place
from clonedb.cli.progress import progress
from clonedb.quantities import size

__all__ = ["COMMANDS"]


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.pass_obj
def export(place: Place, *, file: Path) -> None:
    """Write the project's template to FILE; it is built first if it is not there."""
    from clonedb.api import open_template
    from clonedb.errors import BuildError
    from clonedb.templates.dump import export as write, pg_dump

    file = file.absolute()
    if not file.parent.is_dir():
        raise BuildError(f"{str(file)!r} cannot be written: there is no directory {str(file.parent)!r}")
    with progress() as shown, open_template(place.config(), progress=shown) as template:
        pg_dump(template.server)  # asked for before anything is done
        with template.clone() as clone:
            write(template.server, template.record, clone.name, file)
        click.echo(f"{file}: template {template.name}, {size(file.stat().st_size)}")


@click.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.pass_obj
def import_(place: Place, *, file: Path) -> None:
    """Put the template in FILE on the server, if it is the project's as the project is now."""
    import os
    import secrets

    from clonedb.api import fingerprint_of, resolved
    from clonedb.templates.restore import restore

    config = resolved(place.config())
    with progress() as shown:
        server, _, wanted = fingerprint_of(config, progress=shown)
        try:
            run = f"{os.getpid()}-{secrets.token_hex(8)}"
            template = restore(server, config, wanted, file, run=run, progress=shown)
        finally:
            server.close()
    metadata = template.metadata
    made = f"restored in {metadata.seconds:.1f} s" if template.built else "already there"
    click.echo(f"{template.name}: {made}, at {', '.join(metadata.heads) or 'no revision'}")


COMMANDS = (export, import_)
