"""Progress of a build on a terminal: a bar over its steps, or lines where there is no terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

import click

from clonedb.progress import Lines, Progress

__all__ = ["progress"]


class _Bar:
    """A rich progress bar on standard error, shown once a build takes longer than a second."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress as Bar,
            TextColumn,
            TimeElapsedColumn,
        )

        self._start = time.monotonic()
        self._bar = Bar(
            TextColumn("{task.fields[what]}"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True, highlight=False),
            transient=True,
        )
        self._task = self._bar.add_task("", total=None, what="")
        self._started = False

    def say(self, message: str) -> None:
        """A line, without the bar until the next step: what comes after the last one is printed by others."""
        self.stop()
        self._bar.console.print(f"clonedb: {message}", markup=False, soft_wrap=True)

    warn = say

    def step(self, what: str, number: int, total: int, name: str) -> None:
        """Move the bar."""
        self._bar.update(
            self._task, completed=number - 1, total=total, description=name, what=what
        )
        if not self._started and time.monotonic() - self._start > 1.0:
            self._started = True
            self._bar.start()

    def stop(self) -> None:
        """Take the bar away."""
        self._bar.stop()
        self._started = False


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """What a command shows while it works."""
    if not sys.stderr.isatty():
        yield Lines(lambda line: click.echo(line, err=True))
        return
    bar = _Bar()
    try:
        yield bar
    finally:
        bar.stop()
