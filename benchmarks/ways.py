"""Ways to give every test a clean database, in turns: clonedb's isolations, what people write by hand, and tools."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.apparatus.by_hand import ByDump, ByMetadata, ByStatements, dump, reflected
from benchmarks.apparatus.clusters import cluster
from benchmarks.apparatus.handing import ByMode, ByRollback, Way
from benchmarks.apparatus.places import bases, configuration, state_dir
from benchmarks.apparatus.schemas import Size
from benchmarks.apparatus.tables import Chart, Measurement, Table, ratio
from benchmarks.apparatus.turns import Candidate, Found, in_turns, together
from benchmarks.apparatus.work import create, read
from clonedb.api import Template, open_template
from clonedb.embedded import binaries
from clonedb.settings.config import Config

__all__ = ["measure", "ordinary"]

_SMALL, _MEDIUM = Size(tables=2), Size()
_SIZES = (
    *(Size(tables=tables, rows=rows) for tables in (2, 40, 400) for rows in (0, 20)),
    Size(megabytes=170),
)
_CHEAP, _DEAR = 42, 3  # tests that are measured of a way, by how long they take
_PAUSE = 0.05  # seconds that a test takes which leaves a pool the time to keep up
_AUTO, _CLONE, _TRUNCATE, _MIGRATE = (
    "auto: writes 3 rows",
    "clone: tests of no time",
    "truncate",
    "migrate",
)


def measure(*, quick: bool) -> Iterator[Table]:
    """All sizes on the embedded server, by one process and by two at once."""
    with state_dir() as state:
        about = "On the embedded server, data in memory, fsync off"
        yield from _tables(
            about,
            state,
            None,
            (_SMALL, _MEDIUM) if quick else _SIZES,
            1 if quick else 3,
            quick=quick,
        )


def ordinary(*, quick: bool) -> Iterator[Table]:
    """Two sizes (one, when it has to be quick) on a server as initdb makes it, on disk."""
    *_, (name, base) = bases()
    found = binaries.choose(Config(rootdir=base), ())
    with (
        cluster(found, base, settings={}, initdb=["--data-checksums"]) as url,
        tempfile.TemporaryDirectory(prefix="clonedb-benchmark-") as directory,
    ):
        about = f"On a server with default settings, data on {name}, fsync, checksums and autovacuum on"
        sizes = (_SMALL,) if quick else (_SMALL, _MEDIUM)
        yield from _tables(about, Path(directory), url, sizes, 1 if quick else 2, quick=quick)


def _tables(
    where: str, state: Path, url: str | None, sizes: Sequence[Size], rounds: int, *, quick: bool
) -> Iterator[Table]:
    for number, size in enumerate(sizes):
        project = state / f"project-{number}"
        settings = {**size.write(project), "url": url}
        with open_template(configuration(state, rootdir=project, **settings)) as template:
            script = state / f"dump-{number}.sql"
            with template.clone() as clone:
                dump(clone, script)
            cheap, dear = (2, 1) if quick else (_CHEAP, _DEAR)
            for processes in (1,) if quick else (1, 2):
                plan = _Plan(
                    size,
                    state,
                    project,
                    settings,
                    script,
                    rounds,
                    -(-dear // processes),
                    -(-cheap // rounds),
                )
                yield _table(where, size, template, together(plan, processes), processes)


def _table(
    where: str, size: Size, template: Template, found: Mapping[str, Found], processes: int
) -> Table:
    title = f"{size}, -n {processes}: what a test pays for a clean database"
    rows = [
        Measurement(label, each.samples, "ms", series=each.series)
        for label, each in found.items()
        if each.samples
    ]
    for label in (_TRUNCATE, _CLONE, _MIGRATE):
        these, those = found[label].rounds, found[_AUTO].rounds
        if these and those:
            rows.append(ratio(f"{label} / {_AUTO}", *_medians(these, those)))
    by = "one process" if processes == 1 else f"{processes} processes in step"
    about = (
        f"{where}; a template of {template.record.metadata.size / 1e6:.0f} MB. Before and after a test together,"
        " without its own work: a SQLAlchemy session that commits three rows to two tables, if it does not say"
        f" otherwise. By {by}, in turns, after warming up. Clones come from the pool, if it does not say otherwise;"
        " what that still has to do when the next test's time is over is shared by the tests of a turn. By hand: a"
        " connection that stays open, and after a test one message: DELETE of all tables, of those first that refer to"
        " others, or TRUNCATE of all in one statement, and the same rows inserted again; or DELETE of the three rows,"
        " which the author knows; sequences go on. migrate: Alembic's upgrade before and downgrade after, in an"
        " interpreter that stays up. create_all: what SQLAlchemy knows (no triggers, no functions), and the rows. A"
        " dump: CREATE DATABASE, psql in one transaction, DROP DATABASE."
    )
    missing = "".join(
        f" {label} is missing or incomplete: {each.failure}."
        for label, each in found.items()
        if each.failure
    )
    return Table(
        title, about + missing, rows, Chart("bars", y="ms a test, before and after it")
    )


def _medians(
    these: list[list[float]], those: list[list[float]]
) -> tuple[list[float], list[float]]:
    """The medians of rounds that both have."""
    pairs = list(zip(these, those, strict=False))
    return [statistics.median(one) for one, _ in pairs], [
        statistics.median(other) for _, other in pairs
    ]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What each process measures: all ways, in one size."""

    size: Size
    state: Path
    project: Path
    settings: Mapping[str, Any]
    script: Path
    rounds: int
    dear: int
    most: int

    def carry_out(self, step: Callable[[], None], *, first: bool) -> Mapping[str, Found]:
        """Open the template as each isolation would be configured, which decides how clones are made; measure."""
        with contextlib.ExitStack() as stack:
            opened: dict[str, Template] = {}

            def template(isolation: str) -> Template:
                if isolation not in opened:
                    values = {**self.settings, "isolation": isolation}
                    config = configuration(self.state, rootdir=self.project, **values)
                    opened[isolation] = stack.enter_context(open_template(config))
                return opened[isolation]

            def settle() -> None:
                if first and self.rounds > 1:  # nobody pays for what others wrote
                    template("clone").server.run(
                        lambda connection: connection.execute("checkpoint")
                    )

            candidates = list(_candidates(self.size, self.script, template))
            amount = {"rounds": self.rounds, "dear": self.dear, "most": self.most}
            return in_turns(candidates, **amount, settle=settle, step=step)


def _candidates(
    size: Size, script: Path, template: Callable[[str], Template]
) -> Iterator[Candidate]:
    """The ways; `template` gives the template as it is opened under an isolation."""
    plain = template("clone")
    with plain.clone() as clone:
        models = reflected(clone)
    written = f"delete from table_001 where id > {size.rows}; delete from table_000 where id > {size.rows};"

    def ours(label: str, isolation: str, **more: Any) -> Candidate:
        opened = template(isolation)
        return Candidate(
            label, "clonedb", lambda stack, _: ByMode(opened, isolation, stack), **more
        )

    def pooled(
        label: str,
        isolation: str,
        *,
        refusals: bool = False,
        one_name: bool = False,
        **more: Any,
    ) -> Candidate:
        opened = template(isolation)

        def way(stack: contextlib.ExitStack, tests: int) -> ByMode:
            return ByMode(
                opened, isolation, stack, pooled=tests, refusals=refusals, one_name=one_name
            )

        return Candidate(label, "clonedb", way, lasting=False, leaves=True, **more)

    def by_hand(label: str, statements: str) -> Candidate:
        return Candidate(
            label,
            "by hand",
            lambda stack, _: ByStatements(plain, stack, statements),
            ready=True,
        )

    def by_tool(label: str, way: Callable[[contextlib.ExitStack], Way]) -> Candidate:
        return Candidate(label, "other", lambda stack, _: way(stack), ready=True)

    yield ours(_AUTO, "auto", lasting=False)
    yield ours("auto: only reads", "auto", lasting=False, test=read)
    yield pooled("auto: creates a table", "auto", refusals=True, test=create)
    yield pooled("auto: the same, one URL", "auto", refusals=True, one_name=True, test=create)
    yield pooled("clone: tests of 50 ms", "clone", pause=_PAUSE)
    yield pooled(_CLONE, "clone")
    yield pooled("clone: the same, one URL", "clone", one_name=True)
    yield ours("clone, without the pool", "clone")
    yield ours("rollback", "rollback")
    yield Candidate("rollback, by hand", "by hand", lambda stack, _: ByRollback(plain, stack))
    yield by_hand("DELETE of the written rows, by hand", written)
    yield by_hand("DELETE of all, by hand", size.delete + size.insert(keys=True))
    yield by_hand("TRUNCATE of all, by hand", size.truncate + size.insert(keys=True))
    yield ours(_TRUNCATE, "truncate")
    yield ours(_MIGRATE, "migrate")
    yield by_tool(
        "create_all, drop_all",
        lambda stack: ByMetadata(plain, stack, models, size.insert(keys=False)),
    )
    yield by_tool("restoring a dump", lambda _: ByDump(plain, script))
