"""Many programs, in several processes that share one server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from random import Random

from tests.differential import template
from tests.differential.chaos import Chaos, late_stranger
from tests.differential.faults import far_away, seeded
from tests.differential.grammar import draw_program
from tests.differential.laboratory import NOTHING, DifferenceError, Laboratory, Tally
from tests.differential.shrinking import shrink

__all__ = ["Orders", "in_processes", "run_chunk"]

_CRASHES = 0.05  # after how many undoings the server crashes, where it does


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What every process is told: `chunk` is after how many programs it reports, and begins with a new clone."""

    url: str
    directory: Path
    seed: int
    every: int
    pg_dump: Path | None
    parts: tuple[str, ...]
    mix: Mapping[str, int]
    fault: str | None
    patience: float
    chaos: Chaos
    chunk: int
    keep_going: bool
    far: bool = False


def in_processes(
    orders: Orders, programs: int, jobs: int, report: Callable[[Tally], None]
) -> tuple[Tally, str | None]:
    """All programs, by chunks; the first difference, which is returned as text, ends it if it is not to go on."""
    tally, first = Tally(), None
    size = orders.chunk
    chunks: Iterator[range] = iter(
        [range(n, min(n + size, programs)) for n in range(0, programs, size)]
    )
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running: set[Future[tuple[Tally, str | None]]] = {
            pool.submit(run_chunk, orders, chunk) for chunk in islice(chunks, jobs)
        }
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                part, error = future.result()
                tally.add(part)
                report(tally)
                first = first or error
                if error is not None and not orders.keep_going:
                    pool.shutdown(cancel_futures=True)
                    return tally, error
                if (chunk := next(chunks, None)) is not None:
                    running.add(pool.submit(run_chunk, orders, chunk))
    return tally, first


def run_chunk(orders: Orders, numbers: Sequence[int]) -> tuple[Tally, str | None]:
    """Some of the programs, in a process of their own: what became of them, and the first difference."""
    first = None
    with (
        template.opened(orders.url, orders.directory, orders.parts) as opened,
        seeded(orders.fault),
        far_away() if orders.far else nullcontext(),
        Laboratory(opened, pg_dump=orders.pg_dump, every=orders.every) as laboratory,
    ):
        for number in numbers:
            try:
                _run(laboratory, orders, number)
                if number == numbers[-1]:
                    laboratory.finish()
            except DifferenceError as error:
                laboratory.tally.different += 1
                if orders.keep_going:
                    first = first or _told(orders, number, error)
                    continue
                tally = deepcopy(
                    laboratory.tally
                )  # what is run from here on is none of the programs
                if orders.chaos == "none" and orders.patience:
                    shrunk = shrink(error, laboratory.fails, seconds=orders.patience)
                    return (
                        tally,
                        f"{_told(orders, number, error, whole=False)} shrunk:\n{shrunk}",
                    )
                return tally, _told(orders, number, error)
        laboratory.retire()
        return laboratory.tally, first


def _run(laboratory: Laboratory, orders: Orders, number: int) -> None:
    """One of the programs, and what happens around it."""
    random = Random(f"{orders.seed} {number}")
    program = draw_program(random, orders.mix, orders.parts)
    if orders.chaos == "late":
        laboratory.run(program, compare=False, around=partial(late_stranger, random=random))
        laboratory.run(NOTHING)
        return
    if (
        laboratory.run(program) != "refused"
        and orders.chaos == "crash"
        and random.random() < _CRASHES
    ):
        laboratory.crash()


def _told(orders: Orders, number: int, error: DifferenceError, *, whole: bool = True) -> str:
    where = f"seed {orders.seed}, program {number}, number {len(error.life)} on its clone;"
    return f"{where}\n{error}" if whole else where
