"""What a test pays when its database is rewound, beside the other ways to give it one."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.apparatus.clusters import cluster
from benchmarks.apparatus.crowd import Paid, crowd
from benchmarks.apparatus.handing import ByMode, ByRollback, Way, milliseconds
from benchmarks.apparatus.peers.pytest_postgresql import pytest_postgresql
from benchmarks.apparatus.places import bases, configuration, state_dir
from benchmarks.apparatus.schemas import write_medium_schema
from benchmarks.apparatus.tables import Measurement, Table, ratio
from benchmarks.apparatus.work import read, write
from clonedb.api import Template, open_template
from clonedb.embedded import binaries
from clonedb.settings.config import Config

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

__all__ = ["measure"]

SIZES = (20, 30_000, 1_000_000)
WORKERS = 8
BURST = 5

_SIZED = """
create table sized_{size} (id bigserial primary key, name text not null, n int, note text);
create index on sized_{size} (n);
insert into sized_{size} (name, n, note) select 'name ' || n, n, md5(n::text) from generate_series(1, {size}) n;
"""


def measure(*, quick: bool) -> Iterator[Table]:
    """The ways in turns, tables of three sizes, a server with default settings, and eight workers."""
    rounds = 2 if quick else 20
    with state_dir() as state:
        project = state / "project"
        write_medium_schema(project)
        with open_template(configuration(state, rootdir=project)) as template:
            yield _ways(template, rounds)
            yield _workers(template, state, project, seconds=1.0 if quick else 5.0)
        sized = state / "sized"
        write_medium_schema(sized, tables=1)
        (sized / "sized.sql").write_text("".join(_SIZED.format(size=size) for size in SIZES))
        with open_template(configuration(state, rootdir=sized, seed=["sized.sql"])) as template:
            yield _sizes(template, rounds)
    *_, (name, base) = bases()
    yield _default_settings(name, base, rounds, tests=3 if quick else 20)


def _ways(template: Template, rounds: int) -> Table:
    with contextlib.ExitStack() as stack:
        ways: Mapping[str, tuple[Way, Callable[[Session], None]]] = {
            "rewind: writes 3 rows to 2 tables": (ByMode(template, "auto", stack), write),
            "rewind: only reads": (ByMode(template, "auto", stack), read),
            "rollback": (ByRollback(template, stack), write),
            "clone": (ByMode(template, "clone", stack), write),
            "truncate": (ByMode(template, "truncate", stack), write),
        }
        found = _in_turns({label: _timing(*way) for label, way in ways.items()}, rounds)
    writing, reading, *others = ways
    targets = {writing: 2.0, reading: 0.6}
    rows = [
        Measurement(label, samples, "ms", targets.get(label))
        for label, samples in found.items()
    ]
    rows += [
        ratio(f"{many} / {other}", found[writing], found[other], target, times)
        for other, many, times, target in zip(
            others,
            ("rewind", "10 rewinds", "20 rewinds"),
            (1, 10, 20),
            (3.0, 1.0, 1.0),
            strict=True,
        )
    ]
    about = (
        "40 tables of 20 rows; what is done before and after a test together, without the test: SQLAlchemy sessions"
        f" that commit, in one process, {BURST} of each in turns, and one before them that does not count (in its"
        " window is the WAL of the others). Rewind, clone and truncate: what the fixtures do under the isolations auto,"
        " clone and truncate. Rollback: a session of savepoints in an outer transaction. The embedded server is up, its"
        " data in memory, fsync off."
    )
    return Table("What a test pays for a database in its template's state", about, rows)


def _sizes(template: Template, rounds: int) -> Table:
    from sqlalchemy import text

    numbers = count(1)

    def insert(size: int) -> Callable[[Session], None]:
        def test(session: Session) -> None:
            session.execute(text(f"insert into sized_{size} (name) values ('one')"))

        return test

    def change(size: int) -> Callable[[Session], None]:
        def test(
            session: Session,
        ) -> None:  # a row updated and a row deleted, in places all over the table
            at = {
                "one": next(numbers) * 7919 % size + 1,
                "two": next(numbers) * 104_729 % size + 1,
            }
            session.execute(text(f"update sized_{size} set name = 'new' where id = :one"), at)
            session.execute(text(f"delete from sized_{size} where id = :two"), at)

        return test

    with contextlib.ExitStack() as stack:
        way = ByMode(template, "auto", stack)
        tests = {f"one row into {size:,}": _timing(way, insert(size)) for size in SIZES}
        tests |= {
            f"update and delete in {size:,}": _timing(way, change(size)) for size in SIZES
        }
        found = _in_turns(tests, rounds)
    rows = [Measurement(label, samples, "ms") for label, samples in found.items()]
    small, middle, large = list(found)[:3]
    rows.append(ratio(f"{large} / {small}", found[large], found[small], 3.0))
    rows.append(ratio(f"{large} / {middle}", found[large], found[middle], 1.3))
    changes = list(found)[3:]
    rows.append(
        ratio(f"{changes[2]} / {changes[1]}", found[changes[2]], found[changes[1]], None)
    )
    size = template.record.metadata.size / 1e6
    about = f"One clone of {size:.0f} MB with a table of each size; before and after the test together, in turns."
    return Table("Rewinding tables of different sizes", about, rows)


def _default_settings(name: str, base: Path, rounds: int, *, tests: int) -> Table:
    found = binaries.choose(Config(rootdir=base), ())
    with (
        cluster(found, base, settings={}, initdb=["--data-checksums"]) as url,
        tempfile.TemporaryDirectory(prefix="clonedb-benchmark-") as directory,
    ):
        project = Path(directory) / "project"
        write_medium_schema(project)
        state = Path(directory) / "state"
        with (
            open_template(configuration(state, rootdir=project, url=url)) as template,
            contextlib.ExitStack() as stack,
        ):
            way = ByMode(template, "auto", stack)
            rewound = _in_turns(
                {"rewind": _timing(way, write), "reads": _timing(way, read)}, rounds
            )
        theirs = pytest_postgresql(
            url.rpartition("=")[2], project, Path(directory) / "theirs", tests=tests
        )
    rows = [
        Measurement("rewind: writes 3 rows to 2 tables", rewound["rewind"], "ms"),
        Measurement("rewind: only reads", rewound["reads"], "ms"),
    ]
    absent = ""
    if isinstance(theirs, str):
        absent = f" Nothing to compare with: {theirs}."
    else:
        rows.append(Measurement("pytest-postgresql", theirs, "ms"))
        rows.append(
            Measurement(
                "100 rewinds / pytest-postgresql",
                [100 * statistics.median(rewound["rewind"]) / one for one in theirs],
                "x",
                1.0,
            )
        )
    about = (
        f"40 tables of 20 rows on a server as initdb makes it, data on {name}, fsync, checksums and autovacuum on;"
        " before and after the test together. pytest-postgresql: its noproc fixture with the migrations as `load`, a"
        f" whole pytest run, the first test left out.{absent}"
    )
    return Table("A server with default settings", about, rows)


def _workers(template: Template, state: Path, project: Path, *, seconds: float) -> Table:
    one, many = (
        crowd(template, state, project, workers, seconds=seconds) for workers in (1, WORKERS)
    )
    explained = max(1.0, WORKERS * one.processor / (many.cores * one.whole))
    growth = many.whole / one.whole
    rows = [*_paid("1 worker", one), *_paid(f"{WORKERS} workers", many)]
    rows.append(Measurement("a whole test, 8 workers / 1", [growth], "x"))
    rows.append(
        Measurement(
            f"  explained by the processor ({many.cores:.2f} cores were free)", [explained], "x"
        )
    )
    rows.append(Measurement("  beyond that", [growth / explained], "x", 1.3))
    rows.append(
        Measurement(
            "processor time of a test, 8 workers / 1", [many.processor / one.processor], "x"
        )
    )
    about = (
        "Processes on one embedded server, data in memory, each with a clone that it writes 3 rows to 2 tables of and"
        f" rewinds, for {seconds:g} s. Processor time is the worker's and the server's. Explained: what {WORKERS} times"
        " the processor time of one worker's test take on the cores that other programs left, if that is longer than"
        " the test."
    )
    return Table("Workers on one server", about, rows)


def _paid(label: str, paid: Paid) -> list[Measurement]:
    return [
        Measurement(f"{label}: before and after a test", paid.samples, "ms"),
        Measurement("  ... the whole test", [paid.whole], "ms"),
        Measurement("  ... its processor time", [paid.processor], "ms"),
    ]


def _timing(way: Way, test: Callable[[Session], None]) -> Callable[[], float]:
    return lambda: milliseconds(way, test)


def _in_turns(tests: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Some of each in every round: a machine that slows down slows all of them. The first round warms up.

    The first of each turn does not count: the WAL that the others wrote is read in it.
    """
    found: dict[str, list[float]] = {label: [] for label in tests}
    for number in range(rounds + 1):
        for label, test in tests.items():
            samples = [test() for _ in range(BURST + 1)]
            if number:
                found[label] += samples[1:]
    return found
