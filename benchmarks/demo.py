"""The main job as a newcomer sees it: `clonedb demo`, the sample shop's tests in parallel, on the embedded server."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.apparatus.places import configuration, environment, state_dir, timed
from benchmarks.apparatus.tables import Measurement, Table
from clonedb.embedded import leases

__all__ = ["measure"]


def measure(*, quick: bool) -> Iterator[Table]:
    """One table: the first run on an empty state directory, later ones with the server stopped and running."""
    firsts: list[float] = []
    stopped: list[float] = []
    running: list[float] = []
    passed = ""
    for _ in range(1 if quick else 3):
        with state_dir() as state:
            firsts.append(_demo(state, "built in")[0])
            for _ in range(1 if quick else 3):
                leases.stop(configuration(state))
                stopped.append(_demo(state, "reused")[0])
                seconds, passed = _demo(state, "reused")
                running.append(seconds)
    rows = [
        Measurement("first run: nothing there", firsts, "s", 60.0),
        Measurement("second run: the template there, the server stopped", stopped, "s"),
        Measurement("second run: the server running", running, "s"),
    ]
    about = f"Whole processes of `clonedb demo` ({passed}), from nothing in the state directory; data in memory."
    yield Table("The demo", about, rows)


def _demo(state: Path, made: str) -> tuple[float, str]:
    """The seconds of one run, and what pytest counted; `made` is what it must say of the template."""
    variables = environment(
        CLONEDB_STATE_DIR=str(state), CLONEDB_IDLE_TIMEOUT="300", COLUMNS="200"
    )
    seconds, _, text = timed(
        [sys.executable, "-m", "clonedb", "demo"], cwd=state, variables=variables
    )
    counted = re.search(r"\d+ passed", text)
    if counted is None or made not in text:
        raise RuntimeError(
            f"the demo did not say that tests passed and the template was {made!r}:\n{text}"
        )
    return seconds, counted[0]
