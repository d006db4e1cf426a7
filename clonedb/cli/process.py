"""Programs that a command starts: run to their end, and told of by a shell's exit codes."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

__all__ = ["run_to_end"]


def run_to_end(
    command: Sequence[str], environment: Mapping[str, str], *, directory: Path | None = None
) -> int:
    """Run a program and wait for its end: Ctrl-C reaches it directly, SIGTERM is passed on to it.

    Its exit code, 127 if there is no such program, 126 if it may not be run, 128 + n if signal
    n killed it.
    """
    try:
        process = subprocess.Popen(command, env=environment, cwd=directory)
    except OSError as error:
        click.echo(f"clonedb: cannot run {command[0]!r}: {error.strerror}", err=True)
        return 126 if isinstance(error, PermissionError) else 127

    # the terminal sends it to the program, too: that decides what becomes of it
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    terminate = signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, terminate)

    # Popen has -n for a program that signal n killed
    return code if code >= 0 else 128 - code
