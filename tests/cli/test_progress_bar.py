"""The bar of a build on a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess

import pytest

from tests.projects import CLONEDB, TIMEOUT, Project


@pytest.mark.campaign("long")
def test_the_result_stands_alone(items: Project) -> None:
    """When the build is done the bar is taken away, and nothing of it is drawn over the result."""
    items.revision("three", "time.sleep(1.2)")
    items.revision("four", "time.sleep(0.3)")
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(
        [*CLONEDB, "build"],
        cwd=items.directory,
        env={**items.environment, "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal's other end is closed
        while more := os.read(terminal, 4096):
            shown += more
    assert process.wait(TIMEOUT) == 0
    os.close(terminal)
    bar, ready, result = shown.decode().partition(" is ready: ")
    assert "━" in bar
    assert ready
    assert "━" not in result
    assert ": built in" in result.splitlines()[-1]
