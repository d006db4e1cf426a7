"""The differential test finds what it is for: an undoing that leaves something out, and all that once went wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random

import pytest
from _pytest.mark import ParameterSet

from clonedb.embedded.binaries import Binaries
from tests.differential import template
from tests.differential.faults import FAULTS, Fault, seeded
from tests.differential.grammar import MIXES, draw_program
from tests.differential.laboratory import DifferenceError, Laboratory
from tests.differential.runs import Orders, run_chunk
from tests.differential.shrinking import shrink
from tests.differential.world import available

_WITHIN = 200
_WITHIN_WORLD = 500

_PLAIN = [name for name, fault in FAULTS.items() if fault == Fault(fault.broken)]
_QUICK = (
    "skip-sequence",
    "unlogged-tail",
    "text-only",
)  # the others are a campaign


def _cases(*, plain: bool) -> list[ParameterSet]:
    """The faults of either kind, those that take long marked as a campaign."""
    return [
        pytest.param(name, marks=() if name in _QUICK else pytest.mark.campaign("differential"))
        for name in FAULTS
        if (name in _PLAIN) == plain
    ]


@pytest.mark.parametrize("fault", _cases(plain=True))
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


@pytest.fixture(scope="module")
def url_of(installation: Binaries) -> Iterator[Callable[[str], str]]:
    """A function that gives a server of a kind."""
    with contextlib.ExitStack() as stack:
        yield cache(lambda kind: stack.enter_context(template.server(installation, kind)))


@pytest.mark.parametrize("name", _cases(plain=False))
def test_what_once_went_wrong_is_found(
    installation: Binaries, url_of: Callable[[str], str], name: str, tmp_path: Path
) -> None:
    """With the parts of a template, on the server and in the circumstances in which it did."""
    fault = FAULTS[name]
    parts = tuple(part for part in available(installation.extensions()) if part in fault.parts)
    if fault.parts and not parts:
        pytest.skip(f"this server has no {', '.join(fault.parts)}")
    orders = Orders(
        url=url_of(fault.server),
        directory=tmp_path,
        seed=4,
        every=10,
        pg_dump=None,
        parts=parts,
        mix=MIXES[fault.mix],
        fault=name,
        patience=0.0,
        chaos=fault.chaos,
        chunk=_WITHIN_WORLD,
        keep_going=False,
    )
    _, error = run_chunk(orders, range(_WITHIN_WORLD))
    assert error is not None, f"not in {_WITHIN_WORLD} programs"
