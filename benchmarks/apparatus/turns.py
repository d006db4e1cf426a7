"""What is compared, measured in turns: by one process, or by several at once that go through the same turns in step."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import TYPE_CHECKING, Protocol

from benchmarks.apparatus.handing import Way, milliseconds
from benchmarks.apparatus.work import write

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

__all__ = ["Candidate", "Found", "Plan", "in_turns", "together"]

_BUDGET = 0.3  # seconds that a candidate's turn may take, if it does not have to be longer for one test
_UNCOUNTED = 2  # tests that a way which was just opened needs to open its connections, and to read what it keeps
_SHARING = 6  # tests at least that share what a pool leaves, of which a few would have more than their share
_PATIENCE = 300.0  # seconds after which another process is given up


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way, and the test whose database it is.

    `open` is told for how many tests. A `lasting` way stays open from turn to turn; another is opened and closed in
    each, because what it does in the background, or has to read of what others did, is nothing to compare. When it
    `leaves` things to do, as a pool does, its tests share what closing takes. One that is `ready` when it was opened
    leaves nothing to open to the first test. Tests take `pause` seconds of their own.
    """

    label: str
    series: str
    open: Callable[[contextlib.ExitStack, int], Way]
    test: Callable[[Session], None] = write
    lasting: bool = True
    leaves: bool = False
    ready: bool = False
    pause: float = 0.0


@dataclass(slots=True)
class Found:
    """The milliseconds that tests of a candidate paid, by rounds; `failure` says why there are none (any more)."""

    series: str
    rounds: list[list[float]] = field(default_factory=list)
    failure: str = ""

    @property
    def samples(self) -> list[float]:
        """Those of all rounds."""
        return [sample for samples in self.rounds for sample in samples]


class Plan(Protocol):
    """What each process does; it is sent to the others."""

    def carry_out(self, step: Callable[[], None], *, first: bool) -> Mapping[str, Found]:
        """Measure; `step` returns when all processes have called it."""


class _Turns:
    """The turns of one candidate, each in three phases: opening, tests, closing."""

    def __init__(
        self, candidate: Candidate, lasting: contextlib.ExitStack, dear: int, most: int
    ) -> None:
        self._candidate = candidate
        self._lasting = lasting
        self._dear = dear
        self._most = most
        self._way: Way | None = None
        self._stack = contextlib.ExitStack()
        self._tests = 0  # in a turn; 0 until the first has shown what one takes
        self._expected = 0
        self.found = Found(candidate.series)

    def phases(self) -> Sequence[Callable[[], None]]:
        """The phases of the next turn; after a failure, or when it has been measured often enough, they do nothing."""
        return [
            lambda: self._safely(self._begin),
            lambda: self._safely(self._measure),
            lambda: self._safely(self._end),
        ]

    def _safely(self, phase: Callable[[], None]) -> None:
        if self.found.failure:
            return
        try:
            phase()
        except Exception as error:  # noqa: BLE001 - it is said in the table, and the others are measured
            self.found.failure = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            with contextlib.suppress(Exception):
                self._stack.close()

    @property
    def _done(self) -> bool:
        return self._tests == 1 and len(self.found.rounds) >= self._dear

    def _begin(self) -> None:
        if self._way is None and not self._done:
            stack = self._lasting if self._candidate.lasting else self._stack
            self._expected = self._uncounted + (self._tests or 1)
            self._way = self._candidate.open(stack, self._expected)

    @property
    def _uncounted(self) -> int:
        """Tests before those that count: in the first one's window is the WAL of others."""
        if not self._candidate.lasting:
            return _UNCOUNTED
        return 1 if self._tests > 1 else 0  # to the dear ones it does not matter

    def _measure(self) -> None:
        if self._tests == 0:
            self._warm_up()
        elif not self._done:
            samples = [self._one() for _ in range(self._uncounted + self._tests)]
            self.found.rounds.append(samples[self._uncounted :])

    def _warm_up(self) -> None:
        """See how many tests fit in a turn. One that alone is too long for it does not need warming up, and counts."""
        if not self._candidate.ready:
            self._one()
        begin, samples = time.perf_counter(), list[float]()
        while not samples or (
            len(samples) < _UNCOUNTED and time.perf_counter() - begin < _BUDGET
        ):
            samples.append(self._one())
        fit = _BUDGET / (
            (time.perf_counter() - begin) / len(samples) - self._candidate.pause
        )  # tests
        self._tests = min(max(_SHARING if self._candidate.leaves else 1, int(fit)), self._most)
        if len(samples) == 1 and self._tests == 1:
            self.found.rounds.append(samples)

    def _one(self) -> float:
        assert self._way is not None
        return milliseconds(self._way, self._test)

    def _test(self, session: Session) -> None:
        self._candidate.test(session)
        session.commit()
        time.sleep(self._candidate.pause)

    def _end(self) -> None:
        if self._candidate.lasting or self._way is None:
            return
        self._way = None
        time.sleep(self._candidate.pause)  # the time of the test that would come next
        start = time.perf_counter()
        self._stack.close()
        share = (time.perf_counter() - start) * 1e3 / self._expected
        if self._candidate.leaves and self.found.rounds:
            self.found.rounds[-1] = [sample + share for sample in self.found.rounds[-1]]


def in_turns(
    candidates: Sequence[Candidate],
    *,
    rounds: int,
    dear: int,
    most: int,
    settle: Callable[[], None],
    step: Callable[[], None],
) -> Mapping[str, Found]:
    """So many rounds, in each of which every candidate has a turn, of at most so many tests; one before them warms up.

    A candidate of which one test takes longer than a turn may is measured `dear` times in all. `settle` is called
    before each turn.
    """
    with contextlib.ExitStack() as stack:
        turns = {
            candidate.label: _Turns(candidate, stack, dear, most) for candidate in candidates
        }
        for _ in range(rounds + 1):
            for turn in turns.values():
                for phase in (settle, *turn.phases()):
                    step()
                    phase()
    return {label: turn.found for label, turn in turns.items()}


def together(plan: Plan, processes: int) -> Mapping[str, Found]:
    """Carry a plan out in so many processes, of which this one is the first: what all of them found, round by round.

    Raises RuntimeError when another one fails.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes, timeout=_PATIENCE)
    pipes = [context.Pipe(duplex=False) for _ in range(processes - 1)]
    others = [
        context.Process(target=_other, args=(plan, barrier, sending), daemon=True)
        for _, sending in pipes
    ]
    for other, (_, sending) in zip(others, pipes, strict=True):
        other.start()
        sending.close()
    try:
        found = [plan.carry_out(_stepping(barrier), first=True)]
        found += [_received(receiving) for receiving, _ in pipes]
    except threading.BrokenBarrierError:
        for receiving, _ in pipes:
            if receiving.poll(1.0):
                _received(receiving)
        raise
    finally:
        barrier.abort()
        for other in others:
            other.join(10.0)
            other.kill()
    return {label: _merged([each[label] for each in found]) for label in found[0]}


def _other(plan: Plan, barrier: Barrier, sending: Connection) -> None:
    try:
        sending.send((plan.carry_out(_stepping(barrier), first=False), ""))
    except BaseException:
        sending.send(({}, traceback.format_exc()))
        barrier.abort()
        raise


def _stepping(barrier: Barrier) -> Callable[[], None]:
    return lambda: (barrier.wait(), None)[1]


def _received(receiving: Connection) -> Mapping[str, Found]:
    found, failure = receiving.recv()
    if failure:
        raise RuntimeError(f"another process failed:\n{failure}")
    return dict(found)


def _merged(found: Sequence[Found]) -> Found:
    """One candidate's, of all processes."""
    rounds = [
        [sample for samples in each for sample in samples]
        for each in zip(*(one.rounds for one in found), strict=False)
    ]
    return Found(
        found[0].series, rounds, next((one.failure for one in found if one.failure), "")
    )
