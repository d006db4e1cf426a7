"""Whole pytest processes, with no plugin but those that are named."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.apparatus.places import environment, timed

__all__ = ["pytest_process"]


def pytest_process(
    project: Path, test: str, *, plugins: Sequence[str], **variables: str
) -> tuple[float, float]:
    """Run a test, or a module of them, in a directory: seconds on the clock, and of processor time.

    Processor time is the process's own; the server's is not in it. Raises RuntimeError when a test does not pass.
    """
    (project / "pytest.ini").write_text("[pytest]\n")
    named = [word for plugin in plugins for word in ("-p", plugin)]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *named, test]
    alone = environment(
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", CLONEDB_IDLE_TIMEOUT="300", **variables
    )
    seconds, processor, _ = timed(command, cwd=project, variables=alone)
    return seconds, processor
