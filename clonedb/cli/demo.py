"""`clonedb demo`: the sample shop's own tests, on the embedded server."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from clonedb.cli.configuration import Context
from clonedb.cli.process import run_to_end
from clonedb.settings.keys import KEYS

__all__ = ["COMMANDS"]

_KEPT = ("url", "data", "idle_timeout", "isolation")
_PATHS = (
    "postgres_bin",
    "state_dir",
)  # relative ones start at the project that the command is run in


@click.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "-n", "--workers", default="auto", show_default=True, help="Number of xdist workers."
)
@click.option(
    "--rebuild", is_flag=True, help="Build the template anew, to see what that costs."
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def demo(context: Context, workers: str, *, rebuild: bool, arguments: tuple[str, ...]) -> None:
    """Run the sample shop's tests in parallel, each on its own migrated database.

    ARGUMENTS are passed on to pytest.
    """
    directory = Path(__file__).parent.parent / "demo"
    config = context.config()
    # -p, because no plugin is loaded by itself (below)
    command = [
        *(
            sys.executable,
            "-m",
            "pytest",
            "-c",
            str(directory / "pytest.ini"),
            "--rootdir",
            str(directory),
        ),
        *(
            "-p",
            "clonedb",
            "-p",
            "xdist",
            "-n",
            workers,
            "--clonedb-alembic-ini",
            str(directory / "alembic.ini"),
        ),
        *(["--clonedb-rebuild"] if rebuild else []),
        *arguments,
        str(directory / "tests"),
    ]
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CLONEDB_", "PYTEST_"))
    }

    # only what says which server: the project that the command is run in has its own migrations
    # and seeds
    environment |= {
        KEYS[name].variable: str(getattr(config, name))
        for name in _KEPT
        if name in config.sources
    }
    environment |= {
        KEYS[name].variable: str(config.path(path))
        for name in _PATHS
        if (path := getattr(config, name))
    }
    environment["PYTHONDONTWRITEBYTECODE"] = (
        "1"  # the package's directory may belong to another account
    )
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = (
        "1"  # whatever else is installed has no part in this
    )
    raise SystemExit(run_to_end(command, environment, directory=directory))


COMMANDS = (demo,)
