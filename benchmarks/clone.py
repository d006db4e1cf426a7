"""What a test pays for a database of its own: create, first connection, drop, on a schema of medium size."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from benchmarks.apparatus.places import bases, configuration, state_dir
from benchmarks.apparatus.schemas import write_medium_schema
from benchmarks.apparatus.tables import Measurement, Table
from clonedb.api import Template, open_template

__all__ = ["measure"]

T = TypeVar("T")
STRATEGIES = ("file_copy", "wal_log")


def measure(*, quick: bool) -> Iterator[Table]:
    """A table for each place the data may be in."""
    for name, base in bases():
        with state_dir(base) as state:
            project = state / "project"
            write_medium_schema(project)
            yield _measure(name, state, project, clones=5 if quick else 40)


def _measure(name: str, state: Path, project: Path, *, clones: int) -> Table:
    with contextlib.ExitStack() as stack:
        opened = {
            strategy: stack.enter_context(
                open_template(configuration(state, rootdir=project, strategy=strategy))
            )
            for strategy in STRATEGIES
        }
        template = opened["file_copy"]
        template.clone().drop()  # its checkpoint removes the empty files that VACUUM FULL left of the tables before
        metadata, directory = template.record.metadata, _directory(template)
        files = len(list(directory.iterdir())) if os.access(directory, os.R_OK | os.X_OK) else 0
        rounds = [
            _round(opened, directory if files else None, state / "copy")
            for _ in range(clones + 2)
        ]
    about = (
        f"40 tables of 20 rows, {metadata.size / 1e6:.1f} MB{f' in {files} files' if files else ''}, built in"
        f" {metadata.seconds:.2f} s; fsync is off. One process, its sessions open: in turns a clone by each strategy"
        " and a copy of the template's directory, file by file, the floor: the ratios are what a machine's drift"
        " does not move. The first connection is psycopg's by loopback TCP with the password, and asks one question."
    )
    rows = [
        Measurement(
            label, [one[label] for one in rounds[2:]], "x" if "/" in label else "ms"
        )  # the first two warm up
        for label in rounds[0]
    ]
    return Table(f"A clone of a medium schema, data in {name}", about, rows)


def _round(
    opened: Mapping[str, Template], directory: Path | None, copy: Path
) -> dict[str, float]:
    """A clone by each strategy and a copy of the directory: the milliseconds of each step, and the ratios."""
    found, ratios = {}, {}
    for strategy, template in opened.items():
        for step, milliseconds in _clone(template).items():
            found[f"{strategy.upper()}: {step}"] = milliseconds
    if directory is not None:
        found["plain copy of the directory"], _ = _timed(lambda: _copy(directory, copy))
        shutil.rmtree(copy)
        for strategy in map(str.upper, opened):
            ratio = found[f"{strategy}: create"] / found["plain copy of the directory"]
            ratios[f"{strategy}: create / plain copy"] = ratio
    return found | ratios


def _clone(template: Template) -> dict[str, float]:
    """The milliseconds of each step in a clone's life."""
    create, clone = _timed(template.clone)
    connect, connection = _timed(clone.connect)
    answer, _ = _timed(lambda: connection.execute("select 1").fetchone())
    connection.close()
    drop, _ = _timed(clone.drop)
    connect += answer
    return {
        "create": create,
        "first connection": connect,
        "drop": drop,
        "all three": create + connect + drop,
    }


def _timed(action: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = action()
    return (time.perf_counter() - start) * 1e3, result


def _directory(template: Template) -> Path:
    """Where the server keeps the template's files."""
    lease = template.server.lease
    assert lease is not None  # the benchmark's server is an embedded one
    query = "select oid from pg_database where datname = %s"
    oid = template.server.run(
        lambda connection: connection.execute(query, [template.name]).fetchone()
    )
    assert oid is not None
    return lease.data_dir / "base" / str(oid[0])


def _copy(source: Path, target: Path) -> None:
    """Copy a flat directory as plainly as Python can: shutil.copytree looks at each file's mode and times too."""
    target.mkdir()
    for entry in os.scandir(source):
        shutil.copyfile(entry.path, f"{target}/{entry.name}")
