"""Sessions that write around an undoing, and crashes right after one, leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

import pytest

from clonedb.api import Template
from clonedb.embedded.binaries import Binaries
from tests.differential import template
from tests.differential.chaos import late_stranger, strangers
from tests.differential.grammar import Program, Step, draw_program
from tests.differential.laboratory import NOTHING, Laboratory

_LARGE = Program(
    (Step(0, "delete from large where id % 5 = 1", None, "bulk"),), ("commit",) * 3
)
_READING = Program(
    (
        Step(0, "select * from account", None, "read"),
        Step(
            0, "select pg_logical_emit_message(true, 'program', 'x')", None, "harmless"
        ),  # WAL that has to be flushed
    ),
    ("commit", "close", "leave"),
)
_WRITING = Program(
    (Step(0, "update account set name = 'other' where id < 9", None, "dml"),), ("commit",) * 3
)


@pytest.fixture(scope="module")
def slow(
    installation: Binaries, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Template]:
    """The template on a server whose every flush of WAL takes a while, in which others may come."""
    with (
        template.server(installation, "slow") as url,
        template.opened(url, tmp_path_factory.mktemp("slow")) as found,
    ):
        yield found


@pytest.mark.parametrize(
    "times", [3, pytest.param(12, marks=pytest.mark.campaign("differential"))]
)
def test_an_intruder_leaves_nothing_behind(laboratory: Laboratory, times: int) -> None:
    """The clone is refused, or the undoing after it, without intruders, finds what they wrote."""
    for _ in range(times):
        dsn = laboratory.dsn
        with strangers(dsn, 2):
            laboratory.run(_LARGE, compare=False)
        laboratory.run(NOTHING)


@pytest.mark.campaign("differential")
def test_a_late_stranger_leaves_nothing_behind(slow: Template) -> None:
    """It connects once, somewhere around the end of a program that only reads."""
    random = Random("late")
    with Laboratory(slow, pg_dump=None, every=1000) as laboratory:
        for _ in range(40):
            laboratory.run(
                _READING, compare=False, around=partial(late_stranger, random=random)
            )
            laboratory.run(NOTHING)


@pytest.mark.campaign("differential")
def test_an_undoing_outlives_a_crash(installation: Binaries, tmp_path: Path) -> None:
    """What was undone is not there again when the server has recovered."""
    with (
        template.server(installation, "stock") as url,
        template.opened(url, tmp_path) as found,
        Laboratory(found, pg_dump=None, every=1000) as laboratory,
    ):
        for number in range(3):
            laboratory.run(draw_program(Random(f"before a crash {number}")))
            if laboratory.run(_WRITING) != "refused":
                laboratory.crash()
