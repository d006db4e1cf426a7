"""What is measured while something grows: actions in turns, and the points and ratios that a table shows of them."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks.apparatus.tables import Measurement, Unit, ratio
from clonedb.embedded.memory import memory_at

__all__ = ["Turns", "in_turns", "lines", "room", "times"]

K = TypeVar("K")

Turns = Sequence[Sequence[float]]
"""What an action took, in milliseconds: the samples of each of its turns."""


def in_turns(
    actions: Mapping[K, Callable[[], float]],
    *,
    rounds: int,
    most: int = 20,
    seconds: float = 0.3,
) -> dict[K, Turns]:
    """Each action's turns: in every round all of them, so that a machine that slows down slows all of them.

    In a turn an action is done up to `most` times, and not again after so many seconds. Its first time does not count:
    what the others did has left its own behind in caches, and their WAL is read in it. Before the first round each is
    done twice, which does not count either.
    """
    for action in actions.values():
        action()
        action()
    found: dict[K, list[list[float]]] = {key: [] for key in actions}
    for _ in range(rounds):
        for key, action in actions.items():
            end = time.perf_counter() + seconds
            action()
            turn = [action()]
            while len(turn) < most and time.perf_counter() < end:
                turn.append(action())
            found[key].append(turn)
    return {key: found[key] for key in actions}


def lines(
    found: Mapping[tuple[str, int], Turns], label: Callable[[str, int], str], unit: Unit = "ms"
) -> Iterator[Measurement]:
    """A point for each series and number that it stands at, a series after the other."""
    for series in dict.fromkeys(name for name, _ in found):
        for (name, at), turns in found.items():
            if name == series:
                samples = [sample for turn in turns for sample in turn]
                yield Measurement(label(series, at), samples, unit, series=series, at=at)


def times(label: str, these: Turns, those: Turns, target: float | None = None) -> Measurement:
    """So many times these to those, turn by turn."""
    return ratio(
        label, list(map(statistics.median, these)), list(map(statistics.median, those)), target
    )


def room(directory: Path) -> float:
    """How many bytes of databases there may be: what clonedb leaves of the memory, or half of what a disk has free."""
    memory = memory_at(directory)
    return shutil.disk_usage(directory).free / 2 if memory is None else memory.left
