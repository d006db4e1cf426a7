"""From a life of a clone that ended in a difference to the least of it that still does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from tests.differential.grammar import Ending, Program, Step
from tests.differential.laboratory import DifferenceError

__all__ = ["shrink"]

Life = tuple[Program, ...]


def shrink(
    error: DifferenceError, fails: Callable[[Life], DifferenceError | None], *, seconds: float
) -> DifferenceError:
    """The shortest life found in so many seconds; `fails` runs one on a clone of its own.

    Whole programs are left out first, then statements, then sessions end in the plainest way.
    """
    deadline = time.monotonic() + seconds
    shortest, again = error, True
    while again and time.monotonic() < deadline:
        again = False
        for life in _shorter(shortest.life):
            if time.monotonic() > deadline:
                break
            if found := fails(life):
                shortest, again = found, True
                break
    return shortest


def _shorter(life: Life) -> Iterator[Life]:
    """Each is less than the life that it is made from, so that there is an end to it."""
    size = 1
    while size < len(life):
        yield life[-size:]
        size *= 2
    for part in (2, 4):
        size = max(1, len(life) // part)
        yield from (
            life[:start] + life[start + size :] for start in range(0, len(life) - 1, size)
        )
    yield from (_without(life, index) for index in range(len(life) - 1))
    for index, program in enumerate(life):
        yield from (
            (*life[:index], replace(program, steps=steps), *life[index + 1 :])
            for steps in _fewer(program.steps)
        )
        yield from (
            (*life[:index], replace(program, endings=ends), *life[index + 1 :])
            for ends in _plainer(program)
        )


def _without(items: Sequence[Program], index: int) -> Life:
    return (*items[:index], *items[index + 1 :])


def _fewer(steps: tuple[Step, ...]) -> Iterator[tuple[Step, ...]]:
    half = len(steps) // 2
    if half > 1:
        yield steps[half:]
        yield steps[:half]
    yield from (steps[:index] + steps[index + 1 :] for index in range(len(steps)))


def _plainer(program: Program) -> Iterator[tuple[Ending, ...]]:
    for index, ending in enumerate(program.endings):
        if ending != "commit":
            yield (*program.endings[:index], "commit", *program.endings[index + 1 :])
