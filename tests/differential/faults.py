"""Undoings broken on purpose, which the differential test has to find, or it proves nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from unittest import mock

from clonedb.rewind import wal
from clonedb.rewind.undo import Undoing
from clonedb.rewind.wal import Written

__all__ = ["FAULTS", "Fault", "seeded"]


def _first_table(written: Written) -> None:
    """Forget the first of the tables, by name."""
    tables = {*written.gained, *written.lost}
    for table in sorted(tables, key=lambda one: (one.schema, one.name))[:1]:
        written.gained.pop(table, None)
        written.lost.pop(table, None)


def _last_table(written: Written) -> None:
    """Forget the last of the tables that lost rows, by name; if only that one did, it is not forgotten."""
    for table in sorted(written.lost, key=lambda one: (one.schema, one.name))[1:][-1:]:
        written.gained.pop(table, None)
        written.lost.pop(table)


def _first_sequence(written: Written) -> None:
    """Forget the first of the sequences, by name."""
    for sequence in sorted(written.sequences, key=lambda one: (one.schema, one.name))[:1]:
        written.sequences.remove(sequence)


def _last_block(written: Written) -> None:
    """Forget one block of each table that lost rows in several."""
    for blocks in written.lost.values():
        if len(blocks) > 1:
            blocks.remove(max(blocks))


@contextlib.contextmanager
def _detector(forget: Callable[[Written], None]) -> Iterator[None]:
    """What was written is told without something."""
    really = wal.sort_out

    def sort_out(*arguments: Any) -> Written:
        written = really(*arguments)
        forget(written)
        return written

    with mock.patch("clonedb.rewind.witness.sort_out", sort_out):
        yield


@contextlib.contextmanager
def _undoing(forget: Callable[[Written], None]) -> Iterator[None]:
    """What was written is known, and something of it is not undone."""
    really = Undoing.undo

    def undone(self: Undoing, written: Written, *more: Any) -> Any:
        forget(written)
        return really(self, written, *more)

    with mock.patch.object(Undoing, "undo", undone):
        yield


@dataclass(frozen=True, slots=True)
class Fault:
    """How the undoing is broken, and where that shows: what programs do, the template's parts, the kind of server."""

    broken: Callable[[], contextlib.AbstractContextManager[None]]
    mix: str = "mixed"
    parts: tuple[str, ...] = ()
    server: str = "tuned"


FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        "drop-relation": Fault(lambda: _detector(_first_table)),
        "skip-table": Fault(lambda: _undoing(_last_table)),
        "drop-block": Fault(lambda: _detector(_last_block)),
        "skip-sequence": Fault(lambda: _undoing(_first_sequence)),
    }
)


@contextlib.contextmanager
def seeded(fault: str | None) -> Iterator[None]:
    """The undoing is broken in this context."""
    with contextlib.nullcontext() if fault is None else FAULTS[fault].broken():
        yield
