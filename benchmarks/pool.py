"""What clones made ahead and dropped behind save: a test's waiting for its clone, and whole suites with and without."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.apparatus.places import configuration, environment, state_dir, timed
from benchmarks.apparatus.schemas import write_medium_schema
from benchmarks.apparatus.tables import Measurement, Table
from clonedb.api import Template, open_template
from clonedb.clones.pool import Pool

__all__ = ["measure"]

_TARGET = 0.15  # ms that a test waits while the pool keeps up
_SLOWER = 1.05  # times the suite without, which is what one machine's two equal runs differ by

# A suite of which each test commits three rows. Without the pool it is as clonedb would be if it had none.
_CONFTEST = """
import os, pytest

if os.environ["POOL"] == "0":
    from clonedb.clones.pool import Pool
    take = Pool.take
    Pool.take = lambda self, *, ahead=0: take(self)
"""
_TESTS = """
import os, time, pytest

def work(kind):
    end = time.perf_counter() + 0.02
    if kind == "waits":
        time.sleep(0.02)
    while kind == "computes" and time.perf_counter() < end:
        pass

@pytest.mark.parametrize("number", range(int(os.environ["TESTS"])))
def test_writes(clonedb_connection, number):
    for _ in range(3):
        clonedb_connection.execute("insert into table_000 (title) values ('mine')")
    clonedb_connection.commit()
    work(os.environ["WORK"])
"""


def measure(*, quick: bool) -> Iterator[Table]:
    """What one test waits, and whole suites whose tests do nothing else, wait, or compute."""
    with state_dir() as state:
        project = state / "project"
        write_medium_schema(project)
        with open_template(configuration(state, rootdir=project)) as template:
            yield _waiting(template, 10 if quick else 60)
            (project / "conftest.py").write_text(_CONFTEST)
            (project / "test_it.py").write_text(_TESTS)
            yield _suites(state, project, tests=30 if quick else 100, rounds=1 if quick else 3)


def _waiting(template: Template, takes: int) -> Table:
    with contextlib.ExitStack() as stack:
        pool = Pool(template.server, template.record)
        stack.callback(pool.close)
        lone = Pool(template.server, template.record)
        for _ in range(3):
            pool.drop(pool.take(ahead=3))
        ahead, behind, made, dropped, room = [], [], [], [], []
        admission = template.server.admission
        for _ in range(takes):
            time.sleep(0.15)  # the test's own time, in which the pool keeps up
            start = time.perf_counter()
            clone = pool.take(ahead=3)
            ahead.append((time.perf_counter() - start) * 1e3)
            clone.connect().close()
            time.sleep(0.005)
            start = time.perf_counter()
            pool.drop(clone)
            behind.append((time.perf_counter() - start) * 1e3)
            time.sleep(0.15)
            start = time.perf_counter()
            clone = lone.take()
            made.append((time.perf_counter() - start) * 1e3)
            start = time.perf_counter()
            lone.drop(clone)
            dropped.append((time.perf_counter() - start) * 1e3)
            start = time.perf_counter()
            slot = admission.try_slot()
            room.append((time.perf_counter() - start) * 1e3)
            admission.give(slot or 0)
    rows = [
        Measurement("a clone made ahead: the test waits", ahead, "ms", _TARGET),
        Measurement("a used clone: the test waits", behind, "ms"),
        Measurement("without a pool: create", made, "ms"),
        Measurement("without a pool: drop", dropped, "ms"),
        Measurement("a slot of max_clones, in the making of each", room, "ms"),
    ]
    about = "40 tables of 20 rows on the embedded server; one process, whose tests leave the pool 150 ms each."
    return Table("What a test waits for its clone", about, rows)


def _suites(state: Path, project: Path, *, tests: int, rounds: int) -> Table:
    rows = []
    for workers in (1, 2):
        for kind in ("nothing", "waits", "computes"):
            found: dict[str, list[float]] = {"1": [], "0": []}
            for _ in range(rounds):
                for pooled, samples in found.items():
                    samples.append(
                        _suite(state, project, pooled, kind, workers=workers, tests=tests)
                    )
            ratios = [one / other for one, other in zip(found["1"], found["0"], strict=True)]
            label = f"-n {workers}, each {'does no more' if kind == 'nothing' else f'{kind} for 20 ms'}"
            rows += [
                Measurement(f"{label}: with the pool", found["1"], "s"),
                Measurement(f"{label}: without", found["0"], "s"),
                Measurement(f"{label}: ratio", ratios, "x", _SLOWER),
            ]
    about = (
        f"{tests} tests under isolation `clone`, which commit three rows each; whole processes, by turns;"
        f" {len(os.sched_getaffinity(0))} processors."
    )
    return Table("Suites with and without the pool", about, rows)


def _suite(
    state: Path, project: Path, pooled: str, kind: str, *, workers: int, tests: int
) -> float:
    variables = environment(
        CLONEDB_STATE_DIR=str(state),
        CLONEDB_IDLE_TIMEOUT="300",
        CLONEDB_ISOLATION="clone",
        POOL=pooled,
        WORK=kind,
    )
    left_out = [
        word
        for name in ("cacheprovider", "hypothesispytest", "asyncio", "anyio")
        for word in ("-p", f"no:{name}")
    ]
    command = [sys.executable, "-m", "pytest", "-q", *left_out, "-n", str(workers)]
    seconds, _, text = timed(command, cwd=project, variables={**variables, "TESTS": str(tests)})
    if f"{tests} passed" not in text:
        raise RuntimeError(f"the suite did not pass:\n{text}")
    return seconds
