"""Many programs, in several processes that share one server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from random import Random

from tests.differential import template
from tests.differential.faults import seeded
from tests.differential.grammar import draw_program
from tests.differential.laboratory import DifferenceError, Laboratory, Tally
from tests.differential.shrinking import shrink

__all__ = ["Orders", "in_processes", "run_chunk"]

_CHUNK = 100  # programs that one process runs before it reports


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What every process is told."""

    url: str
    directory: Path
    seed: int
    every: int
    pg_dump: Path | None
    unlogged: bool
    mix: Mapping[str, int]
    fault: str | None
    patience: float


def in_processes(orders: Orders, programs: int, jobs: int, report: Callable[[Tally], None]) -> tuple[Tally, str | None]:
    """All programs, by chunks; the first difference ends it."""
    tally = Tally()
    chunks: Iterator[range] = iter([range(n, min(n + _CHUNK, programs)) for n in range(0, programs, _CHUNK)])
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
                if error is not None:
                    pool.shutdown(cancel_futures=True)
                    return tally, error
                if (chunk := next(chunks, None)) is not None:
                    running.add(pool.submit(run_chunk, orders, chunk))
    return tally, None


def run_chunk(orders: Orders, numbers: Sequence[int]) -> tuple[Tally, str | None]:
    """Some of the programs, in a process of their own: what became of them, and the first difference."""
    with (
        template.opened(orders.url, orders.directory, unlogged=orders.unlogged) as opened,
        seeded(orders.fault),
        Laboratory(opened, pg_dump=orders.pg_dump, every=orders.every) as laboratory,
    ):
        number = 0
        try:
            for number in numbers:
                laboratory.run(draw_program(Random(f"{orders.seed} {number}"), orders.mix))
            laboratory.finish()
        except DifferenceError as error:
            least = shrink(error, laboratory.fails, seconds=orders.patience)
            text = f"seed {orders.seed}, program {number}, number {len(error.life)} on its clone; shrunk:\n{least}"
            return laboratory.tally, text
        laboratory.retire()
        return laboratory.tally, None
