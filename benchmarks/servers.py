"""One embedded server and two on one machine: what clones cost, and how a template comes to the second."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.apparatus.crowd import Spent, postmaster_of, together
from benchmarks.apparatus.places import configuration, state_dir
from benchmarks.apparatus.schemas import write_long_history, write_medium_schema
from benchmarks.apparatus.tables import Measurement, Table, ratio
from clonedb.api import Template, open_template
from clonedb.settings.config import Config

__all__ = ["measure"]

_WORKERS = (2, 4, 8)
_SHARE = (
    0.55  # of the time that a clone takes with one server, if two of them had processors enough
)
_NO_MORE = 1.1  # times the processor time

# A worker: it makes and drops clones on its server, for so many seconds.
_WORKER = """
import json, sys, time
from pathlib import Path
from benchmarks.apparatus.places import configuration
from clonedb.api import open_template
state, project, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
config = configuration(state, rootdir=project, servers=2).on_server(int(sys.argv[4]))
with open_template(config) as template:
    for _ in range(3):
        template.clone().drop()
    print("ready", flush=True)
    sys.stdin.readline()
    count, begin, processor = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begin < seconds:
        with template.clone() as clone:
            clone.connect().close()
        count += 1
    spent = time.perf_counter() - begin
    print(json.dumps({"clones": count, "seconds": spent, "processor": time.process_time() - processor}), flush=True)
    sys.stdin.readline()
"""


def measure(*, quick: bool) -> Iterator[Table]:
    """What clones cost, and how a template comes to the second server."""
    with state_dir() as state:
        project = state / "project"
        write_medium_schema(project)
        with _two(state, project) as templates:
            yield _clones(
                state,
                project,
                [postmaster_of(template) for template in templates],
                workers=_WORKERS[: 1 if quick else None],
                rounds=1 if quick else 4,
                seconds=0.5 if quick else 4.0,
            )
    yield _second(lengths=(0,) if quick else (0, 20, 100, 300), rounds=1 if quick else 3)


@contextlib.contextmanager
def _two(state: Path, project: Path, **settings: object) -> Iterator[list[Template]]:
    """A project's template on two servers."""
    config = configuration(state, rootdir=project, servers=2, **settings)
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(open_template(config.on_server(each))) for each in (0, 1)]


def _clones(
    state: Path,
    project: Path,
    postmasters: list[int],
    *,
    workers: tuple[int, ...],
    rounds: int,
    seconds: float,
) -> Table:
    rows = list[Measurement]()
    for count in workers:
        found: dict[int, list[Spent]] = {1: [], 2: []}
        for _ in range(rounds):
            for servers, spent in found.items():
                command = [sys.executable, "-c", _WORKER, str(state), str(project)]
                commands = [
                    [*command, str(seconds), str(worker % servers)] for worker in range(count)
                ]
                spent.append(together(commands, postmasters))
        for what, of in (("processor time", _processor), ("time", _wall)):
            samples = {servers: list(map(of, spent)) for servers, spent in found.items()}
            for servers, each in samples.items():
                rows.append(
                    Measurement(
                        f"{count} workers, {_named(servers)}: {what} a clone", each, "ms"
                    )
                )
            target = _NO_MORE if of is _processor else _SHARE
            rows.append(
                ratio(f"{count} workers: {what}, two / one", samples[2], samples[1], target)
            )
        for servers, spent in found.items():
            rows.append(
                Measurement(
                    f"{count} workers, {_named(servers)}: clones a second",
                    [1e3 / _wall(one) for one in spent],
                    "",
                )
            )
    about = (
        "40 tables of 20 rows. A clone is made, connected to and dropped. Processor time is that of both servers and of"
        " the workers; `time` is that of all workers together: with two servers half of it, if the machine has"
        " processors to spare."
    )
    return Table("Clones of one server and of two on one machine", about, rows)


def _named(servers: int) -> str:
    return "one server" if servers == 1 else "two servers"


def _clones_of(spent: Spent) -> int:
    return sum(int(one["clones"]) for one in spent.found)


def _processor(spent: Spent) -> float:
    ours = spent.server + sum(float(one["processor"]) for one in spent.found)
    return ours / _clones_of(spent) * 1e3


def _wall(spent: Spent) -> float:
    return max(float(one["seconds"]) for one in spent.found) / _clones_of(spent) * 1e3


def _second(*, lengths: tuple[int, ...], rounds: int) -> Table:
    """How long it takes until the second server has the template, too."""
    rows = list[Measurement]()
    for length in lengths:
        built, copied = list[float](), list[float]()
        for _ in range(rounds):
            with state_dir() as state:
                one_more = _copied_and_built(state, length)
            copied.append(one_more[0])
            built.append(one_more[1])
        label = f"{length} revisions" if length else "40 tables in 8 revisions"
        rows += [
            Measurement(f"{label}: built", built, "ms"),
            Measurement(f"{label}: copied", copied, "ms"),
            ratio(f"{label}: copied / built", copied, built, 1.0),
        ]
    about = (
        "The server is up; from `open_template` until the template is open: built by its migrations, or copied from the"
        " first server (a clone there, pg_dump, and restoring)."
    )
    return Table("A template on the second server", about, rows)


def _copied_and_built(state: Path, length: int) -> tuple[float, float]:
    """Milliseconds of copying a template to the second server, and of building another one there."""
    project = state / "project"
    if length:
        write_long_history(project, revisions=length)
    else:
        write_medium_schema(project)
    with _two(state, project, prefix="warm"):
        with open_template(configuration(state, rootdir=project, servers=2).on_server(0)):
            copied = _opened(configuration(state, rootdir=project, servers=2))
        # it knows of no other server
        return copied, _opened(configuration(state, rootdir=project, prefix="built"))


def _opened(config: Config) -> float:
    start = time.perf_counter()
    with open_template(config.on_server(1)):
        return (time.perf_counter() - start) * 1e3
