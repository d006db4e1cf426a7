"""The command line: `clonedb`, which says in words what the package does in calls."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import click

from clonedb.cli import (
    archives,
    check,
    clones,
    configuration,
    demo,
    init,
    servers,
    service,
    templates,
)
from clonedb.errors import CloneDBError

__all__ = ["main"]


class _TerminatedError(KeyboardInterrupt):
    """SIGTERM: what is being done is cleared away as after Ctrl-C."""


def _terminate(number: int, _frame: object) -> None:
    signal.signal(
        number, signal.SIG_IGN
    )  # another one would come into the middle of clearing away
    raise _TerminatedError


class _Group(click.Group):
    """Shows an error of ours as one message, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        # signal.signal() works in the main thread only
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _terminate)
        try:
            return super().invoke(ctx)
        except CloneDBError as error:
            click.echo(f"clonedb: {error}", err=True)
            raise SystemExit(1) from None
        except BrokenPipeError:  # click ends in silence, as other programs before `| head` do
            raise
        except OSError as error:  # a full disk, an unreadable directory: the user's to mend
            where = (
                f": {os.fsdecode(error.filename)!r}"
                if isinstance(error.filename, (str, bytes))
                else ""
            )
            click.echo(f"clonedb: {error.strerror or error}{where}", err=True)
            raise SystemExit(1) from None
        except _TerminatedError:
            click.echo("clonedb: terminated; nothing is left behind", err=True)
            # what a shell says of a program that a signal ended: 128 and its number
            raise SystemExit(128 + signal.SIGTERM) from None
        except KeyboardInterrupt:
            click.echo("clonedb: interrupted; nothing is left behind", err=True)
            raise SystemExit(130) from None


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="clonedb")
@click.option(
    "-C",
    "--directory",
    default=".",
    type=click.Path(exists=True, file_okay=False),
    help="Project to work in.",
)
@click.option(
    "--url",
    help="URL of the PostgreSQL server to use, or several, instead of the configured one.",
)
@click.option("--template", help="Named template to work with, instead of the project's own.")
@click.pass_context
def main(context: click.Context, directory: str, url: str | None, template: str | None) -> None:
    """A fresh, fully migrated PostgreSQL database for every test: migrate once, clone in milliseconds."""
    context.obj = configuration.Context(directory, {"url": url, "template": template})


_COMMANDS: tuple[click.Command, ...] = (
    *configuration.COMMANDS,
    *templates.COMMANDS,
    *archives.COMMANDS,
    *check.COMMANDS,
    *clones.COMMANDS,
    *servers.COMMANDS,
    *service.COMMANDS,
    *demo.COMMANDS,
    *init.COMMANDS,
)
for _command in _COMMANDS:
    main.add_command(_command)
