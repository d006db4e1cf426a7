"""What ordinary tests do takes no new clone, and what only reads is not undone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from clonedb.api import Template
from clonedb.embedded.binaries import Binaries
from tests.differential import template
from tests.differential.grammar import Program, Step, draw_step, filled
from tests.differential.laboratory import Laboratory
from tests.differential.statements import GROUPS

_ORDINARY = ("dml", "bulk", "sequences", "transactions", "errors", "session", "harmless")
_AT_ONCE = 3


@pytest.fixture(
    params=[
        pytest.param("tuned", marks=pytest.mark.campaign("differential")),
        "as initdb makes it, with checksums",
    ]
)
def either(
    request: pytest.FixtureRequest,
    installation: Binaries,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Template]:
    """The template on a tuned server, and on one with PostgreSQL's own settings, where reads write hint bits."""
    tuned = request.param == "tuned"
    with (
        template.server(
            installation, "tuned" if tuned else "stock", checksums=not tuned
        ) as url,
        template.opened(url, tmp_path_factory.mktemp("either")) as found,
    ):
        yield found


@pytest.mark.campaign("differential")
def test_programs_that_read_are_not_undone(either: Template) -> None:
    """Neither each statement alone, nor programs of several with sessions that stay open."""
    random = Random("reads")
    with Laboratory(either, pg_dump=None) as laboratory:
        for statement in GROUPS["read"]:
            step = Step(0, *filled(statement, random), "read")
            assert (
                laboratory.run(Program((step,), ("commit", "leave", "keep"))) == "untouched"
            ), statement
        for _ in range(4):
            steps = tuple(draw_step(random, "reads") for _ in range(8))
            assert laboratory.run(Program(steps, ("leave", "keep", "close"))) == "untouched", (
                steps
            )


@pytest.mark.campaign("differential")
def test_ordinary_statements_take_no_new_clone(laboratory: Laboratory) -> None:
    """Each statement of the ordinary groups, few at a time: none is refused, whatever became of it."""
    random = Random("ordinary")
    statements = [
        (group, *filled(statement, random))
        for group in _ORDINARY
        for statement in GROUPS[group]
    ]
    for start in range(0, len(statements), _AT_ONCE):
        steps = tuple(
            Step(0, text, data, group)
            for group, text, data in statements[start : start + _AT_ONCE]
        )
        laboratory.run(Program(steps, ("commit",) * 3))
    assert laboratory.tally.refused.total() == 0, laboratory.tally.examples


@pytest.mark.campaign("differential")
def test_an_ordinary_suite_keeps_its_clone(laboratory: Laboratory) -> None:
    """Programs of ordinary statements in several sessions, one after the other."""
    random = Random("suite")
    for _ in range(20):
        steps = tuple(draw_step(random, "ordinary") for _ in range(random.randint(1, 10)))
        laboratory.run(Program(steps, ("commit", "leave", "keep")))
    assert laboratory.tally.refused.total() == 0, laboratory.tally.examples


def test_other_databases_change_nothing(
    opened: Template, laboratory: Laboratory, pg_dump: Path | None
) -> None:
    """What another worker does to its clone, drops, and makes is not undone here."""
    reading = Program(
        (Step(0, "select * from account", None, "read"),), ("commit", "close", "keep")
    )
    laboratory.run(reading)
    with opened.clone() as other, other.connect(autocommit=True) as connection:
        for statement in (
            "insert into account (name) select 'other' from generate_series(1, 1000)",
            "create table made_elsewhere as select * from large",
            "delete from large",
            "vacuum full account",
            "alter role differential_reader set search_path = app",
            "alter role differential_reader reset all",
        ):
            connection.execute(statement.encode())
            assert laboratory.run(reading) == "untouched", statement
    assert laboratory.run(reading) == "untouched"
