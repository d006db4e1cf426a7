"""Sessions that write around an undoing, and crashes right after one, leave nothing behind."""

from __future__ import annotations

from tests.differential.chaos import strangers
from tests.differential.grammar import Program, Step
from tests.differential.laboratory import NOTHING, Laboratory

_LARGE = Program((Step(0, "delete from large where id % 5 = 1", None, "bulk"),), ("commit",) * 3)


def test_an_intruder_leaves_nothing_behind(laboratory: Laboratory) -> None:
    """The clone is refused, or the undoing after it, without intruders, finds what they wrote."""
    for _ in range(10):
        dsn = laboratory.dsn
        with strangers(dsn, 2):
            laboratory.run(_LARGE, compare=False)
        laboratory.run(NOTHING)
