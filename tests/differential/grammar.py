"""Random programs: statements on several sessions, and what becomes of the sessions; the same for the same random numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from random import Random
from types import MappingProxyType
from typing import Literal

from tests.differential.statements import GROUPS, Statement
from tests.differential.world import PARTS

__all__ = ["MIXED", "MIXES", "Ending", "Program", "Step", "draw_program", "draw_step", "filled"]

Ending = Literal["commit", "close", "leave", "keep"]
"""What becomes of a session: it commits and closes, closes as it is, is left as it is, or is kept beyond the undoing."""

PROFILES: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "reads": {"read": 10, "transactions": 1},
        "ordinary": {
            "read": 10,
            "dml": 60,
            "bulk": 2,
            "sequences": 8,
            "transactions": 14,
            "errors": 6,
            "session": 8,
            "harmless": 2,
        },
        "everything": {
            "read": 5,
            "dml": 50,
            "rare": 5,
            "bulk": 4,
            "sequences": 8,
            "transactions": 10,
            "errors": 4,
            "session": 10,
            "harmless": 3,
            "maintenance": 5,
            "other": 6,
            "ddl": 8,
        },
        "chain": {
            "read": 12,
            "dml": 60,
            "sequences": 12,
            "transactions": 20,
            "errors": 6,
            "session": 12,
            "harmless": 6,
            "autovacuum": 20,
            "waiting": 1,
            **dict.fromkeys(PARTS, 40),
        },
        "inserts": {"read": 5, "inserts": 20, "sequences": 2, "session": 2},
        "plans": {"dml": 4, "transactions": 2, "session": 2, "plans": 40},
        "calm": {
            "read": 6,
            "dml": 10,
            "sequences": 4,
            "transactions": 8,
            **dict.fromkeys(PARTS, 30),
        },
        "needless": {
            "read": 2,
            "dml": 20,
            "sequences": 3,
            "transactions": 6,
            "temporary": 4,
            "undone_ddl": 4,
            "refreshing": 2,
            "statistics": 4,
            "large_objects": 4,
            **dict.fromkeys(PARTS, 8),
        },
    }
)
"""How often each group is drawn from; groups of parts that the template lacks are left out.

With every group at hand most programs end in a new clone; a chain has nothing in it that does, and `calm` no autovacuum either; `inserts` is
what is undone early on a distant server; `needless` is what a
rewinding can undo and may find too difficult.
"""

MIXES: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "mixed": {"reads": 1, "ordinary": 9, "everything": 2},
        "ordinary": {"reads": 1, "ordinary": 9},
        "chain": {"reads": 1, "chain": 9},
        "calm": {"reads": 1, "calm": 9},
        "needless": {"reads": 1, "needless": 9},
        "plans": {"reads": 1, "plans": 9},
        "inserts": {"reads": 1, "inserts": 9, "ordinary": 1},
        "world": {"reads": 1, "ordinary": 3, "chain": 3, "needless": 3, "everything": 2},
    }
)
"""How often programs are of each profile."""

MIXED = MIXES["mixed"]

_TEXTS = (
    "x",
    "",
    "\\N",
    "\\.",
    "tab\tline\nback\\slash\r",
    'quote\'d "twice" %s {} $1 :x',
    "Ünïcödé 😀",
    "z" * 3000,
    "null",
)
_FLOATS = (
    "'NaN'",
    "'-0'::float8",
    "'Infinity'",
    "1e-300",
    "0.30000000000000004",
    "1.0/3",
    "null",
)
_DATES = ("2019-01-01", "2020-02-29", "2020-07-07", "2021-12-31", "2023-03-03")
_PLACEHOLDER = re.compile(r"<([nislatmdf])>")


@dataclass(frozen=True, slots=True)
class Step:
    """A statement on one of a program's sessions; `data` is what a COPY FROM STDIN is given, `group` where it is from."""

    session: int
    statement: str
    data: str | None
    group: str

    def __str__(self) -> str:
        data = "" if self.data is None else f"\n     with {self.data!r}"
        return f"  {self.session}: {self.statement}{data}"


@dataclass(frozen=True, slots=True)
class Program:
    """Steps, and how each session ends."""

    steps: tuple[Step, ...]
    endings: tuple[Ending, ...]

    def __str__(self) -> str:
        return "\n".join([*map(str, self.steps), f"  sessions: {', '.join(self.endings)}"])


def draw_program(
    random: Random, mix: Mapping[str, int] = MIXED, parts: Collection[str] = ()
) -> Program:
    """A program of one of the profiles in the mix, as often as it says, for a template with some parts."""
    (profile,) = random.choices(tuple(mix), tuple(mix.values()))
    steps = tuple(draw_step(random, profile, parts) for _ in range(random.randint(1, 12)))
    endings: list[Ending] = random.choices(
        ("commit", "close", "leave", "keep"), (6, 2, 3, 2), k=3
    )
    return Program(steps, tuple(endings))


def draw_step(random: Random, profile: str, parts: Collection[str] = ()) -> Step:
    """One step, whatever came before it: programs are shrunk by leaving some out."""
    weights = {
        group: weight
        for group, weight in PROFILES[profile].items()
        if group not in PARTS or group in parts
    }
    (group,) = random.choices(tuple(weights), tuple(weights.values()))
    (session,) = random.choices((0, 1, 2), (6, 2, 1))
    return Step(session, *filled(random.choice(GROUPS[group]), random), group)


def filled(statement: Statement, random: Random) -> tuple[str, str | None]:
    """A statement with values in the places for them, and the data of a COPY FROM STDIN."""
    text, data = (statement, None) if isinstance(statement, str) else statement
    filled_text = _PLACEHOLDER.sub(lambda match: _VALUES[match[1]](random), text)
    return filled_text, None if data is None else _PLACEHOLDER.sub(
        lambda match: _VALUES[match[1]](random), data
    )


_VALUES: Mapping[str, Callable[[Random], str]] = MappingProxyType(
    {
        "n": lambda random: str(random.randint(100_000, 900_000_000)),
        "s": lambda random: str(random.randint(1, 5)),
        "a": lambda random: str(random.randint(6, 20)),
        "i": lambda random: str(random.randint(1, 30)),
        "l": lambda random: str(random.randint(1, 3000)),
        "t": lambda random: "'" + random.choice(_TEXTS).replace("'", "''") + "'",
        "m": lambda random: random.choice(("'sad'", "'ok'", "'happy'", "null")),
        "d": lambda random: f"date '{random.choice(_DATES)}'",
        "f": lambda random: random.choice(_FLOATS),
    }
)
"""A number that is nowhere yet, one of a few, of an account, a small, a large table's rows, a text, mood, day, float."""
