"""`clonedb export` and `clonedb import`: a template as a file, so that a cold machine restores instead of migrating."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from clonedb.cli.configuration import Context
from clonedb.cli.progress import progress
from clonedb.cli.several import on_each
from clonedb.quantities import size

if TYPE_CHECKING:
    from clonedb.settings.config import Config

__all__ = ["COMMANDS"]


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.pass_obj
def export(context: Context, *, file: Path) -> None:
    """Write the project's template to FILE (- is standard output); it is built first if it is not there."""
    from clonedb.api import open_template
    from clonedb.archive.dump import export as write, pg_dump
    from clonedb.archive.trust import note_export
    from clonedb.errors import BuildError

    path = None if str(file) == "-" else file.absolute()
    if path is not None and not path.parent.is_dir():
        raise BuildError(
            f"{str(path)!r} cannot be written: there is no directory {str(path.parent)!r}"
        )

    with progress() as shown, open_template(context.config(), progress=shown) as template:
        pg_dump(template.server)  # asked for before anything is done
        with template.clone() as clone:
            written = write(template.server, template.record, clone.name, path)
        note_export(template.server.config, written.digest)
        about = f"template {template.name}, {size(written.size)}, sha256:{written.digest}"
        click.echo(f"{path or '-'}: {about}", err=path is None)


@click.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--trust",
    is_flag=True,
    help="Run what is in FILE although this user did not export it here.",
)
@click.option(
    "--digest",
    metavar="SHA256",
    help="Demand that FILE is what `clonedb export` printed this for.",
)
@click.pass_obj
def import_(context: Context, *, file: Path, trust: bool, digest: str | None) -> None:
    """Put the template in FILE on the server, if it is the project's as the project is now.

    An archive is code: its statements run with the privileges of the server's role.
    """
    on_each(context.config(), lambda config: _import(config, file, trust=trust, digest=digest))


def _import(config: Config, file: Path, *, trust: bool, digest: str | None) -> None:
    import os
    import secrets

    from clonedb.api import fingerprint_of, resolved
    from clonedb.archive.restore import restore
    from clonedb.archive.trust import require_trusted

    config = resolved(config)
    with progress() as shown:
        server, _, wanted = fingerprint_of(config, progress=shown)
        try:
            run = f"{os.getpid()}-{secrets.token_hex(8)}"
            require = require_trusted(config, str(file), trust=trust, digest=digest)
            template = restore(
                server, config, wanted, file, require=require, run=run, progress=shown
            )
        finally:
            server.close()

    metadata = template.metadata
    made = f"restored in {metadata.seconds:.1f} s" if template.built else "already there"
    click.echo(f"{template.name}: {made}, {metadata.state}")


COMMANDS = (export, import_)
