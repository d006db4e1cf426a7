"""What it costs to find out that nothing changed: the fingerprint of 300 revisions."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

from benchmarks.apparatus.places import run, state_dir
from benchmarks.apparatus.schemas import write_long_history
from benchmarks.apparatus.tables import Measurement, Table

__all__ = ["SETTLED", "measure"]

REVISIONS = 300
SETTLED = 2.5
"""Seconds after which a file is remembered: one that was written less than two ago is read again each time."""

# `first` is a process's first fingerprint, its modules imported; `again` the median of ten more in the same process.
FINGERPRINT = """
import json, statistics, sys, time
from pathlib import Path
begin = time.perf_counter()
from clonedb.settings.config import Config
from clonedb.project.fingerprint import ServerFacts, fingerprint
from clonedb.migrate.recipes import find_recipe
imported = time.perf_counter()
config = Config(rootdir=Path(sys.argv[1]))
recipe = find_recipe(config)
located = time.perf_counter()

def once():
    start = time.perf_counter()
    found = fingerprint(config, recipe.inputs(Path(sys.argv[2])), ServerFacts(18, "UTF8", "C.UTF-8", ""))
    return time.perf_counter() - start, found

first, found = once()
again = statistics.median(once()[0] for _ in range(10))
revisions = sum(item.kind == "revision" for item in found.inputs)
print(json.dumps({
    "first": first, "again": again, "imports": imported - begin, "project": located - imported,
    "revisions": revisions, "digest": found.digest,
}))
"""


def measure(*, quick: bool) -> Iterator[Table]:
    """One table: with the index of an earlier run, and without."""
    processes = 1 if quick else 20
    with state_dir() as state:
        project, index = state / "project", state / "index"
        write_long_history(project, revisions=REVISIONS)
        time.sleep(SETTLED)
        cold = [_run(project, index, forget=True) for _ in range(processes)]
        warm = [_run(project, index, forget=False) for _ in range(processes)]
    if (
        len({found["digest"] for found in [*cold, *warm]}) != 1
        or warm[0]["revisions"] != REVISIONS
    ):
        raise RuntimeError(
            f"the fingerprints differ, or are not those of {REVISIONS} revisions: {[*cold, *warm]}"
        )
    rows = (
        ("unchanged since the last run, a process's first", warm, "first", 5.0),
        ("  ... and once more in the same process", warm, "again", None),
        ("  ... finding the project before it", warm, "project", None),
        ("  ... importing the modules for both", warm, "imports", None),
        ("no index: every file is read and parsed", cold, "first", None),
    )
    measurements = [
        Measurement(label, [found[key] * 1e3 for found in samples], "ms", target)
        for label, samples, key, target in rows
    ]
    yield Table(
        f"Fingerprint of {REVISIONS} revisions",
        "Each in a fresh process; the files are in memory.",
        measurements,
    )


def _run(project: object, index: object, *, forget: bool) -> dict[str, float]:
    if forget:
        shutil.rmtree(str(index), ignore_errors=True)
    return run(FINGERPRINT, str(project), str(index))[1]
