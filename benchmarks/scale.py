"""What a test pays as tables, megabytes, living clones, tests and workers grow. (As revisions grow: `builds`.)"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.apparatus.crowd import crowd
from benchmarks.apparatus.growth import Turns, in_turns, lines, room, times
from benchmarks.apparatus.handing import ByMode, milliseconds
from benchmarks.apparatus.living import Living, slot
from benchmarks.apparatus.places import configuration, state_dir
from benchmarks.apparatus.processes import pytest_process
from benchmarks.apparatus.schemas import write_medium_schema
from benchmarks.apparatus.seeded import SEEDS, changing, write_seeded
from benchmarks.apparatus.tables import Chart, Table
from benchmarks.apparatus.work import write
from clonedb.api import Template, open_template

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

__all__ = ["measure"]

_GROWS = 1.2  # times that what a rewinding test pays may grow while something else does
_TABLES = (2, 10, 40, 100, 400, 1000)
_MEGABYTES = (8, 64, 170, 500, 1000)
_TRUNCATED = (
    170  # megabytes above which putting all of the seeds back takes seconds, and as much memory
)
_LIVING, _BESIDE = (
    (10, 100, 300, 1000),
    170,
)  # clones, and the megabytes of the template beside them
_TESTS = (10, 100, 500, 2000)
_CLONED = 500  # tests above which a clone for each takes the better part of a minute
_SUITE_WAYS = ("auto", "rollback", "clone", "no database")
_WORKERS = (1, 2, 4, 8)

_SUITES = """
import os

import pytest
from sqlalchemy import text

TESTS = range(int(os.environ["TESTS"]))


@pytest.mark.parametrize("number", TESTS)
def test_writing(clonedb_session, number):
    clonedb_session.execute(text("insert into table_000 (title) values ('one'), ('two')"))
    clonedb_session.execute(text("insert into table_001 (title, parent_id) values ('three', 1)"))
    clonedb_session.commit()


@pytest.mark.parametrize("number", TESTS)
def test_nothing(number):
    pass
"""

_IN_TURNS = (
    "Before and after a test that writes 3 rows to 2 tables and commits, in one process, in turns; a clone is created,"
    " connected to for the first time, and dropped. The embedded server is up, its data in memory."
)


def measure(*, quick: bool) -> Iterator[Table]:
    """A table, with a line for each way, for everything that grows."""
    few, once = (2, 1) if quick else (None, None)
    with state_dir() as state:
        yield _tables(state, _TABLES[:few], rounds=once or 4)
        write_medium_schema(project := state / "project")
        with open_template(configuration(state, rootdir=project)) as template:
            yield _tests(state, project, _TESTS[:few], _SUITE_WAYS[:few], rounds=once or 2)
            yield _workers(
                template, state, project, _WORKERS[:few], seconds=0.3 if quick else 4.0
            )
    yield _megabytes(_MEGABYTES[:few], rounds=once or 4)
    if quick:
        yield _living((5, 10), _MEGABYTES[0], rounds=1)
    else:
        yield _living(_LIVING, _BESIDE, rounds=5)


def _tables(state: Path, sizes: tuple[int, ...], *, rounds: int) -> Table:
    with contextlib.ExitStack() as stack:
        templates = {}
        for size in sizes:
            write_medium_schema(project := state / f"{size}", tables=size)
            templates[size] = _open(stack, state, project)
        actions = {
            (name, size): _timing(template, name, write, stack)
            for size, template in templates.items()
            for name in ("auto", "clone", "rollback")
        }
        actions |= {
            ("auto: the first test of a process", size): _first(template)
            for size, template in templates.items()
        }
        found = in_turns(actions, rounds=rounds)
        truncate = {
            ("truncate", size): _timing(template, "truncate", write, stack)
            for size, template in templates.items()
        }
        found |= in_turns(truncate, rounds=rounds)
    small, large = sizes[0], sizes[-1]
    rows = [
        *lines(found, lambda series, size: f"{series}, {size:,} tables"),
        *(
            times(
                f"{name}, {large:,} tables / {small}",
                found[name, large],
                found[name, small],
                target,
            )
            for name, target in (
                ("auto", _GROWS),
                ("clone", None),
                ("rollback", None),
                ("truncate", None),
            )
        ),
    ]
    about = (
        f"20 rows, 4 or 5 indexes and a sequence a table. {_IN_TURNS} The first test of a process is given a clone, and"
        " what is in it is read, before it can be rewound."
    )
    return Table("As tables grow", about, rows, Chart("lines", y="ms a test", x="tables"))


def _megabytes(sizes: tuple[int, ...], *, rounds: int) -> Table:
    """Each size on a server of its own, in turns with the smallest."""
    found: dict[tuple[str, int], Turns] = {}
    ratios, without = [], []
    small, *others = sizes
    for size in others:
        with state_dir() as state, contextlib.ExitStack() as stack:
            if 7 * size * 1e6 > room(state):  # template, clones, and the WAL of the build
                without.append(f"{size:,}")
                continue
            templates = {
                each: _open(
                    stack, state, write_seeded(state / f"{each}", megabytes=each), seed=[SEEDS]
                )
                for each in (small, size)
            }
            actions: dict[tuple[str, int], Callable[[], float]] = {}
            for each, template in templates.items():
                auto = ByMode(template, "auto", stack)
                actions["auto", each] = partial(milliseconds, auto, write)
                actions["auto: changes 2 rows of the seeds", each] = partial(
                    milliseconds, auto, changing(each)
                )
                actions["clone", each] = _timing(template, "clone", write, stack)
            turns = in_turns(actions, rounds=rounds)
            if size <= _TRUNCATED:
                turns |= in_turns(
                    {
                        ("truncate", each): _timing(template, "truncate", write, stack)
                        for each, template in templates.items()
                    },
                    rounds=rounds,
                )
        for key, samples in turns.items():
            found[key] = [*found.get(key, ()), *samples]
        ratios += [
            times(
                f"{name}, {size:,} MB / {small}", turns[name, size], turns[name, small], target
            )
            for name, target in (
                ("auto", _GROWS),
                ("auto: changes 2 rows of the seeds", None),
                ("clone", None),
            )
            if size == sizes[-1]
        ]
    rows = [*lines(found, lambda series, size: f"{series}, {size:,} MB"), *ratios]
    about = (
        f"2 tables of 20 rows, and one of seeds, which makes up the megabytes. {_IN_TURNS} truncate puts all rows back"
        f" from the process's memory, and is left out above {_TRUNCATED} MB. What the seeds' rows were is read from a"
        f" second clone.{_left_out(without, 'MB')}"
    )
    return Table("As the seeds grow", about, rows, Chart("lines", y="ms a test", x="megabytes"))


def _living(numbers: tuple[int, ...], megabytes: int, *, rounds: int) -> Table:
    """Two servers: on one the clones grow, on the other there are as few as at first; both in turns."""
    found: dict[tuple[str, int], Turns] = {}
    grown, few = {}, {}
    without = []
    with state_dir() as here, state_dir() as there, contextlib.ExitStack() as stack:
        small = write_seeded(here / "small", megabytes=0)
        large = write_seeded(here / "large", megabytes=megabytes)
        crowds, ways = [], []
        for state in (here, there):
            crowds.append(Living(_open(stack, state, small, max_clones=2 * max(numbers))))
            ways.append(_ways_beside(stack, state, small, large, max_clones=2 * max(numbers)))
        growing, constant = crowds
        constant.grow(numbers[0])
        for number in numbers:
            if 1.1 * (number - growing.number) * growing.megabytes * 1e6 > room(here):
                without.append(f"{number:,}")
                continue
            growing.grow(number)
            actions = {(name, which): ways[which][name] for name in ways[0] for which in (0, 1)}
            turns = in_turns(actions, rounds=rounds)
            grown, few = ({name: turns[name, which] for name in ways[0]} for which in (0, 1))
            found |= {(name, number): samples for name, samples in grown.items()}
    last = f"{growing.number:,} clones alive / {numbers[0]}"
    rows = [
        *lines(found, lambda series, number: f"{series}, {number:,} clones alive"),
        *(
            times(f"{name}, {last}", grown[name], few[name], _GROWS if "auto" in name else None)
            for name in grown
        ),
    ]
    about = (
        f"The living clones are those of another session, of 2 tables, 8 MB each, and each has a slot of max_clones (a"
        f" thousand of {megabytes} MB would be {megabytes} GB); beside them a clone of a template with {megabytes} MB"
        f" of seeds is rewound, and one of 8 MB made and dropped. {_IN_TURNS} The ratios: the server on which they grow"
        f" to one on which {numbers[0]} live, in turns.{_left_out(without, 'clones')}"
    )
    return Table(
        "As living clones grow", about, rows, Chart("lines", y="ms a test", x="clones alive")
    )


def _ways_beside(
    stack: contextlib.ExitStack, state: Path, small: Path, large: Path, *, max_clones: int
) -> Mapping[str, Callable[[], float]]:
    seeded = _open(stack, state, large, seed=[SEEDS], max_clones=max_clones)
    template = _open(stack, state, small, max_clones=max_clones)
    return {
        "auto, much seeded": _timing(seeded, "auto", write, stack),
        "clone": _timing(template, "clone", write, stack),
        "rollback": _timing(template, "rollback", write, stack),
        "a slot of max_clones": partial(slot, template.server.admission),
    }


def _tests(
    state: Path, project: Path, numbers: Sequence[int], ways: Sequence[str], *, rounds: int
) -> Table:
    (project / "test_suites.py").write_text(_SUITES)
    found: dict[tuple[str, int], list[list[float]]] = {}

    def run(name: str, number: int) -> float:
        test = "test_nothing" if name == "no database" else "test_writing"
        variables = {"CLONEDB_STATE_DIR": str(state), "TESTS": str(number)}
        if name != "no database":
            variables["CLONEDB_ISOLATION"] = name
        place = f"test_suites.py::{test}"
        return (
            pytest_process(project, place, plugins=["clonedb.pytest_plugin"], **variables)[0]
            * 1e3
            / number
        )

    run("no database", numbers[0])  # which warms up
    for _ in range(rounds):
        for number in numbers:
            for name in ways:
                if name != "clone" or number <= _CLONED:
                    found.setdefault((name, number), []).append([run(name, number)])
    most, before = numbers[-1], numbers[-2]
    rows = [
        *lines(found, lambda series, number: f"{series}, {number:,} tests"),
        times(
            f"auto, each of {most:,} tests / each of {before:,}",
            found["auto", most],
            found["auto", before],
            1.1,
        ),
        times(f"{most:,} tests: auto / rollback", found["auto", most], found["rollback", most]),
    ]
    about = (
        "Whole pytest processes, from start to end, divided by the number of their tests, which write 3 rows to 2"
        " tables of 40 through clonedb_session and commit; no other plugin; in turns. The embedded server and the"
        f" template are there. No database: as many tests that do nothing. clone: up to {_CLONED} tests."
    )
    return Table(
        "As tests grow", about, rows, Chart("lines", y="ms a test", x="tests in one run")
    )


def _workers(
    template: Template, state: Path, project: Path, numbers: tuple[int, ...], *, seconds: float
) -> Table:
    found: dict[tuple[str, int], Turns] = {}
    for number in numbers:
        paid = crowd(template, state, project, number, seconds=seconds)
        found["before and after a test", number] = [paid.samples]
        found["the whole test", number] = [[paid.whole]]
        found["its processor time", number] = [[paid.processor]]
        found["the suite's clock, for each test", number] = [[paid.whole / number]]
    rows = list(
        lines(found, lambda series, number: f"{series}, {number} worker{'s' * (number > 1)}")
    )
    about = (
        f"auto, {seconds:g} s each: processes on one embedded server, data in memory, each with a clone of 40 tables of"
        " which it writes 3 rows to 2 and rewinds. Processor time is the worker's and the server's. With more workers"
        f" than processors ({os.cpu_count()}) they wait for each other. `rewind` has what that explains."
    )
    return Table("As workers grow", about, rows, Chart("lines", y="ms a test", x="workers"))


def _open(stack: contextlib.ExitStack, state: Path, project: Path, **settings: Any) -> Template:
    return stack.enter_context(
        open_template(configuration(state, rootdir=project, keep_templates=50, **settings))
    )


def _timing(
    template: Template, name: str, test: Callable[[Session], None], stack: contextlib.ExitStack
) -> Callable[[], float]:
    return partial(milliseconds, ByMode(template, name, stack), test)


def _first(template: Template) -> Callable[[], float]:
    """A test that is the first of its process to be rewound; what is imported is there."""

    def action() -> float:
        with contextlib.ExitStack() as stack:
            return milliseconds(ByMode(template, "auto", stack), write)

    return action


def _left_out(sizes: Sequence[str], what: str) -> str:
    return f" No room in memory for {' and '.join(sizes)} {what}." if sizes else ""
