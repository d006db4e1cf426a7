"""What a test pays for its database when the server is some milliseconds away."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.apparatus.clusters import TUNED, cluster
from benchmarks.apparatus.delays import Distance, distant
from benchmarks.apparatus.handing import ByMode
from benchmarks.apparatus.places import bases, configuration, state_dir
from benchmarks.apparatus.schemas import write_medium_schema
from benchmarks.apparatus.tables import Measurement, Table
from benchmarks.apparatus.work import read, write
from clonedb.api import open_template
from clonedb.embedded import binaries
from clonedb.settings.config import Config

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

__all__ = ["measure"]

# ms one way, and the most that a test may pay that wrote nothing or only inserted
_TARGETS: Mapping[float, float] = {0.0: 2.0, 1.0: 3.5, 5.0: 12.0}
_WARMING = 6  # tests that open connections, and of which the rewinder learns what tests write


def measure(*, quick: bool) -> Iterator[Table]:
    """A table for each distance."""
    _, base = next(bases())
    found = binaries.choose(Config(rootdir=base), ())
    with state_dir() as state, cluster(found, base, settings=TUNED) as url:
        project = state / "project"
        write_medium_schema(project)
        path = f"{url.rpartition('=')[2]}/.s.PGSQL.5432"
        for milliseconds, target in _TARGETS.items():
            with distant(path, milliseconds / 1e3) as distance:
                yield _measure(
                    state, project, distance, milliseconds, target, tests=5 if quick else 60
                )


def _update(session: Session) -> None:
    """A row updated, and one that others refer to not."""
    from sqlalchemy import text

    session.execute(text("update table_001 set title = 'changed' where id = 7"))


def _measure(
    state: Path,
    project: Path,
    distance: Distance,
    milliseconds: float,
    target: float,
    *,
    tests: int,
) -> Table:
    url = f"postgresql://postgres@127.0.0.1:{distance.port}/"
    rows = [Measurement("one query, to compare with", _queries(distance, tests), "ms")]
    with open_template(configuration(state, rootdir=project, url=url)) as template:
        for label, test, most, trips in (
            ("writes nothing", read, target, 1.0),
            ("inserts 3 rows into 2 tables", write, target, 1.0),
            ("updates a row", _update, None, 2.0),
        ):
            with contextlib.ExitStack() as stack:
                way = ByMode(template, "auto", stack)
                for _ in range(_WARMING):
                    _one(way, test, distance)
                found = [_one(way, test, distance) for _ in range(tests)]
            rows.append(Measurement(label, [one for one, _ in found], "ms", most))
            # without a delay an answer comes before what is sent next without waiting for it
            if milliseconds:
                counts = [count for _, count in found]
                rows.append(Measurement("  ... round trips", counts, "", trips))
    about = (
        "Before and after a test together, without its own work: an SQLAlchemy session that commits, isolation auto,"
        f" 40 tables of 20 rows. Between the test and the server is a proxy that takes {milliseconds:g} ms one way, and"
        " counts how often something was sent after an answer had come. The first tests do not count, in which"
        " connections are opened and rows of the template are read. The query is an empty one, sent and answered on one"
        " connection through the same proxy: what is less than that cannot be had here."
    )
    return Table(f"A server {milliseconds:g} ms away", about, rows)


def _queries(distance: Distance, number: int) -> list[float]:
    """The milliseconds that each of so many queries takes: one round trip, the proxy's own time, and nothing else."""
    import psycopg

    url = f"postgresql://postgres@127.0.0.1:{distance.port}/postgres"
    found = []
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(_WARMING + number):
            start = time.perf_counter()
            connection.execute("select")
            found.append((time.perf_counter() - start) * 1e3)
    return found[_WARMING:]


def _one(
    way: ByMode, test: Callable[[Session], None], distance: Distance
) -> tuple[float, float]:
    """The milliseconds and the round trips of what is done before and after a test."""
    start, before = time.perf_counter(), distance.trips
    session = way.before()
    spent, trips = time.perf_counter() - start, distance.trips - before
    test(session)
    session.commit()
    start, before = time.perf_counter(), distance.trips
    way.after(session)
    return (
        (spent + time.perf_counter() - start) * 1e3,
        float(trips + distance.trips - before),
    )
