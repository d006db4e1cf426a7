"""Programs run on a clone, one after the other, and after each the rewound clone compared with a fresh one."""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from clonedb.api import Template
from clonedb.clones.clone import Clone
from clonedb.isolation.template_reset import find_reset
from clonedb.postgres.server import Server
from clonedb.rewind.rewinder import Pristine, Rewinder, why_not
from tests.differential import chaos, state
from tests.differential.grammar import Program
from tests.differential.sessions import APPLICATION, Sessions

__all__ = ["NOTHING", "DifferenceError", "Laboratory", "Tally"]

NOTHING = Program((), ("commit",) * 3)
"""After which nothing is to be undone, but what strangers did."""

Around = Callable[[str], contextlib.AbstractContextManager[None]]

_SHOWN = 20  # programs of a life, the last ones
_OURS = "select count(*) from pg_stat_activity where datname = %s and application_name = %s and not pid = any(%s)"


def _alone(_: str) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


class DifferenceError(AssertionError):
    """A rewound clone is not what a fresh one is; `life` are the programs that ran on it, the last one included."""

    def __init__(self, life: Sequence[Program], kind: str, text: str) -> None:
        last = [f"program {number}:\n{program}" for number, program in enumerate(life, 1)][
            -_SHOWN:
        ]
        programs = "\n".join(last)
        before = f"{len(life) - _SHOWN} programs and " if len(life) > _SHOWN else ""
        super().__init__(
            f"after {before}{programs}\nthe clone was {kind}, but differs from a fresh one:\n{text}"
        )
        self.life = tuple(life)


@dataclass(slots=True)
class Tally:
    """What became of programs: how many clones were untouched, rewound, and refused for what reason.

    `refused_schema` counts those in which DDL that changes the schema succeeded, which a rewinding may well refuse;
    `lives` are how many programs each clone served, and `different` those among all after which a clone differed.
    """

    untouched: int = 0
    rewound: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    refused_schema: Counter[str] = field(default_factory=Counter)
    different: int = 0
    lives: list[int] = field(default_factory=list)
    statements: Counter[tuple[str, str]] = field(default_factory=Counter)
    complaints: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Program] = field(default_factory=dict)
    dumps: int = 0
    milliseconds: list[float] = field(default_factory=list)

    @property
    def programs(self) -> int:
        """How many ran."""
        return (
            self.untouched + self.rewound + self.refused.total() + self.refused_schema.total()
        )

    def add(self, other: Tally) -> None:
        """Count another one's programs too."""
        self.untouched += other.untouched
        self.rewound += other.rewound
        self.refused += other.refused
        self.refused_schema += other.refused_schema
        self.different += other.different
        self.lives += other.lives
        self.statements += other.statements
        self.complaints += other.complaints
        self.examples = {**other.examples, **self.examples}
        self.dumps += other.dumps
        self.milliseconds += other.milliseconds


class Laboratory:
    """One clone after another of a template, each used until it is refused.

    Tables, sequences and settings are compared after every undoing; the catalogs and what pg_dump writes too after
    each `every`-th one, and by `finish`. As a context manager it drops what it made.
    """

    def __init__(self, template: Template, *, pg_dump: Path | None, every: int = 10) -> None:
        self.tally = Tally()
        self._template = template
        self._pg_dump = pg_dump
        self._every = every
        self._stack = contextlib.ExitStack()
        server: Server = template.server
        reason = why_not(server)
        assert reason is None, reason
        fresh = self._stack.enter_context(template.clone())
        self._fresh_dsn = fresh.dsn
        self._fresh = self._stack.enter_context(contextlib.closing(state.connect(fresh.dsn)))
        self._looker = state.Looker(self._fresh, fresh.dsn)
        self._expected_dump = state.dump(pg_dump, fresh.dsn) if pg_dump else []
        reset = find_reset(self._fresh)
        assert reset is not None, "functions of the template keep sessions from being reset"
        self._reset = reset
        self._pristine = Pristine(server, template.record)
        self._stack.callback(self._pristine.close)
        self._life: list[Program] = []
        self._clone: Clone | None = None
        self._rewinder: Rewinder | None = None
        self._sessions: Sessions | None = None

    @property
    def dumps_nothing(self) -> bool:
        """Whether no pg_dump was found."""
        return self._pg_dump is None

    @property
    def dsn(self) -> str:
        """The clone at hand, for sessions that are no program's."""
        return self._ready()[0].dsn

    def run(self, program: Program, *, compare: bool = True, around: Around = _alone) -> str:
        """Run a program and undo it, `around` being done meanwhile to the clone's DSN: what became of the clone.

        Raises DifferenceError when the clone is handed on and differs.
        """
        clone, rewinder, sessions = self._ready()
        self._life.append(program)
        altered = sessions.outcomes["ddl", "succeeded"]
        renewal = sessions.run(program)
        start = time.perf_counter()
        with around(clone.dsn):
            outcome = rewinder.rewind(
                keep=renewal.pids, meanwhile=renewal.end, busy=renewal.busy
            )
            renewal.end()
        if around is _alone:
            self.tally.milliseconds.append((time.perf_counter() - start) * 1e3)
        if outcome.kind == "refused":
            reason = _reason(outcome.why)
            if sessions.outcomes["ddl", "succeeded"] > altered:
                self.tally.refused_schema[reason] += 1
            else:
                self.tally.refused[reason] += 1
                self.tally.examples.setdefault(reason, program)
            self.retire()
            return "refused"
        if outcome.reshaped:  # as the isolation does
            sessions.close()
        wrong = sessions.settle(renewal.pids)
        if outcome.kind == "untouched":
            self.tally.untouched += 1
        else:
            self.tally.rewound += 1
        if not compare:
            return str(outcome.kind)
        left = self._template.server.run(
            lambda connection: connection.execute(
                _OURS, [clone.name, APPLICATION, renewal.pids]
            ).fetchone()
        )
        if left and left[0]:
            wrong.append(f"{left[0]} sessions are still connected")
        whole = (self.tally.untouched + self.tally.rewound) % self._every == 0
        self._compare(outcome.kind, wrong, whole=whole)
        return str(outcome.kind)

    def crash(self) -> None:
        """Crash the server after an undoing; then the clone is given up, or it must still be as that left it.

        Raises DifferenceError when it is not.
        """
        if self._clone is None or self._rewinder is None:
            return
        chaos.crash(self._template.server)
        self._fresh.close()
        self._fresh = self._stack.enter_context(
            contextlib.closing(state.connect(self._fresh_dsn))
        )
        if self._rewinder.is_intact:
            self._compare("rewound before a crash of the server", [], whole=False)
        else:
            self.retire()

    def fails(self, life: Sequence[Program]) -> DifferenceError | None:
        """Run programs on a clone of their own: the difference that they end in, if they still do."""
        self.retire()
        try:
            for number, program in enumerate(life, 1):
                if self.run(program) == "refused" and number < len(life):
                    return None
            self.finish()
        except DifferenceError as error:
            return error
        finally:
            self.retire()
        return None

    def retire(self) -> None:
        """Give up the clone, so that the next program gets a new one."""
        if self._sessions is not None:
            self._sessions.close()
            self.tally.statements += self._sessions.outcomes
            self.tally.complaints += self._sessions.complaints
        if self._rewinder is not None:
            self._rewinder.close()
        if self._clone is not None:
            _drop(self._template.server, self._clone)
        if self._life:
            self.tally.lives.append(len(self._life))
        self._sessions = self._rewinder = self._clone = None
        self._life = []

    def finish(self) -> None:
        """Compare the clone at hand in full, if the last program left one."""
        if self._life:
            self._compare("rewound", [], whole=True)

    def _ready(self) -> tuple[Clone, Rewinder, Sessions]:
        if self._clone is None or self._rewinder is None or self._sessions is None:
            self._clone = self._template.clone()
            self._rewinder = Rewinder(self._clone, self._pristine)
            self._sessions = Sessions(self._clone.dsn, self._clone.name, self._reset)
        return self._clone, self._rewinder, self._sessions

    def _compare(self, kind: str, wrong: list[str], *, whole: bool) -> None:
        assert self._clone is not None
        with contextlib.closing(state.connect(self._clone.dsn)) as connection:
            found = self._looker.look(connection, self._clone.dsn, whole=whole)
            names = self._looker.changed(found, whole=whole)
            wrong += [
                self._looker.difference(name, found, self._fresh, connection) for name in names
            ]
        if whole and self._pg_dump is not None:
            self.tally.dumps += 1
            dumped = state.dump(self._pg_dump, self._clone.dsn)
            if dumped != self._expected_dump:
                wrong.append("pg_dump:\n" + _unequal(self._expected_dump, dumped))
        if wrong:
            life = list(self._life)
            self.retire()
            raise DifferenceError(life, kind, "\n".join(wrong))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.retire()
        self._stack.close()


def _drop(server: Server, clone: Clone) -> None:
    """Drop a clone; prepared transactions, which would stop that, are rolled back first."""
    query = "select gid from pg_prepared_xacts where database = %s"
    left = server.run(lambda connection: connection.execute(query, [clone.name]).fetchall())
    if left:
        with contextlib.closing(server.connect(clone.name)) as connection:
            for (gid,) in left:
                connection.execute(f"rollback prepared '{gid}'".encode())
    clone.drop()


def _reason(why: str) -> str:
    """A reason without the names and numbers in it, so that the same ones count together."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|(?<!SQLSTATE )\b\d+(\.\d+)?", "…", why)


def _unequal(expected: list[str], found: list[str]) -> str:
    counts = Counter(expected), Counter(found)
    only: list[tuple[str, Any]] = [("-", counts[0] - counts[1]), ("+", counts[1] - counts[0])]
    lines = [f"    {sign} {line[:200]}" for sign, more in only for line in more.elements()]
    return "\n".join(lines[:20]) or "    the order of the lines"
