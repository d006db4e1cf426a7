"""What reading the WAL of all workers of a server costs each of them: processor time of a rewound test."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.apparatus.clusters import TUNED, cluster
from benchmarks.apparatus.handing import ByMode, milliseconds
from benchmarks.apparatus.places import bases, configuration, state_dir
from benchmarks.apparatus.schemas import write_medium_schema
from benchmarks.apparatus.tables import Measurement, Table, ratio
from benchmarks.apparatus.work import write
from clonedb.api import open_template
from clonedb.embedded import binaries
from clonedb.settings.config import Config

__all__ = ["measure"]

WORKERS = (1, 2, 4, 8, 16, 32)
_TARGET = 1.25
_WARMING = 30
_PATIENCE = 120.0  # seconds for what the neighbours do meanwhile


def measure(*, quick: bool) -> Iterator[Table]:
    """One table."""
    _, base = next(bases())
    found = binaries.choose(Config(rootdir=base), ())
    with (
        state_dir() as state,
        cluster(found, base, settings=TUNED) as one,
        cluster(found, base, settings=TUNED) as other,
    ):
        project = state / "project"
        write_medium_schema(project)
        yield _measure(state, project, one, other, rounds=2 if quick else 8)


def _measure(state: Path, project: Path, url: str, other: str, *, rounds: int) -> Table:
    most = max(WORKERS)
    found: dict[int, list[float]] = {number: [] for number in WORKERS}
    with contextlib.ExitStack() as stack:
        # first, so that their sessions are all there are
        near = stack.enter_context(_neighbours(state, project, url))
        elsewhere = stack.enter_context(_neighbours(state, project, other))
        template = stack.enter_context(
            open_template(configuration(state, rootdir=project, url=url))
        )
        way = ByMode(template, "auto", stack)
        for _ in range(_WARMING):
            milliseconds(way, write)

        server = template.server
        backends = [
            row[0]
            for row in server.rows(
                "select pid from pg_stat_activity where backend_type = 'client backend' and not pid = any(%s)",
                [near.backends],
            )
        ]
        for _ in range(rounds):
            for number, samples in found.items():
                for test in range(11):
                    session = way.before()
                    write(session)
                    session.commit()
                    near.work(number - 1)
                    # so that each case waits as long, and finds the processor's caches alike
                    elsewhere.work(most - number)
                    before = time.process_time() + _seconds(backends)
                    way.after(session)
                    spent = time.process_time() + _seconds(backends) - before
                    # in the first one's window is what the case before wrote
                    if test:
                        samples.append(spent * 1e3)
    rows = [
        Measurement(f"{number} {'worker' if number == 1 else 'workers'}", samples, "ms")
        for number, samples in found.items()
    ]
    rows += [
        ratio(f"{number} workers / 1", samples, found[1], _TARGET if number == most else None)
        for number, samples in found.items()
        if number > 1
    ]
    about = (
        "Processor time of the worker and of its backends for giving a database back after a test that inserted 3 rows"
        " into 2 tables. Meanwhile another process has run one such test for each neighbour on the same server,"
        f" rewinding included, and on another server those that are missing to {most}: with a server for each 8 or 4"
        f" workers, {most} pay what 8 or 4 pay here. 40 tables of 20 rows, data in memory."
    )
    return Table("The WAL of the neighbours", about, rows)


@dataclass(frozen=True, slots=True)
class _Neighbours:
    """A process that works as other workers do; `backends` are those of its sessions."""

    backends: list[int]
    _told: Connection

    def work(self, tests: int) -> None:
        """Run so many tests, with all that is done before and after them, and wait for it."""
        if not tests:
            return
        self._told.send(tests)
        if not self._told.poll(_PATIENCE):
            raise RuntimeError(
                f"{tests} tests of neighbours did not end within {_PATIENCE:g} s"
            )
        self._told.recv()


@contextlib.contextmanager
def _neighbours(state: Path, project: Path, url: str) -> Iterator[_Neighbours]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, state, project, url), daemon=True)
    process.start()
    try:
        if not ours.poll(_PATIENCE):
            raise RuntimeError(f"neighbours did not begin within {_PATIENCE:g} s")
        yield _Neighbours(ours.recv(), ours)
    finally:
        ours.send(0)
        process.join(_PATIENCE)
        process.terminate()


def _work(told: Connection, state: Path, project: Path, url: str) -> None:
    with (
        open_template(configuration(state, rootdir=project, url=url)) as template,
        contextlib.ExitStack() as stack,
    ):
        way = ByMode(template, "auto", stack)
        for _ in range(_WARMING):
            milliseconds(way, write)
        # before the other process opens its own
        rows = template.server.rows(
            "select pid from pg_stat_activity where backend_type = 'client backend'"
        )
        told.send([pid for (pid,) in rows])
        while tests := told.recv():
            for _ in range(tests):
                milliseconds(way, write)
            told.send(None)


def _seconds(pids: Iterable[int]) -> float:
    """Seconds that processes have spent on a processor so far (Linux)."""
    # in nanoseconds; /proc/PID/stat counts in hundredths of a second
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e9
