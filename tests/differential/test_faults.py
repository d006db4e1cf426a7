"""The differential test finds what it is for: an undoing that leaves something out is found within 200 programs."""

from __future__ import annotations

from random import Random

import pytest

from tests.differential.faults import FAULTS, seeded
from tests.differential.grammar import draw_program
from tests.differential.laboratory import DifferenceError, Laboratory
from tests.differential.shrinking import shrink

_WITHIN = 200


@pytest.mark.parametrize("fault", FAULTS)
def test_a_seeded_fault_is_found(laboratory: Laboratory, fault: str) -> None:
    """And the program that finds it can be made small."""
    with seeded(fault):
        error = _found(laboratory)
        assert error is not None, f"not in {_WITHIN} programs"
        least = shrink(error, laboratory.fails, seconds=20)
    assert len(least.life) == 1
    assert 1 <= len(least.life[0].steps) <= 3
    assert laboratory.fails(least.life) is None  # it is the fault that was found


def _found(laboratory: Laboratory) -> DifferenceError | None:
    try:
        for number in range(_WITHIN):
            laboratory.run(draw_program(Random(f"faults {number}")))
    except DifferenceError as error:
        return error
    return None
