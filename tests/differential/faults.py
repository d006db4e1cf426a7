"""Undoings broken on purpose, which the differential test has to find, or it proves nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any
from unittest import mock

from clonedb.postgres import message
from clonedb.rewind import facts, own_session, rewinder, undo_statements, wal
from clonedb.rewind.row_places import MovedRows, block_of
from clonedb.rewind.undo import Undoing
from clonedb.rewind.wal import Written
from clonedb.rewind.witness import Mark, Witness
from tests.differential.chaos import Chaos

__all__ = ["FAULTS", "Fault", "far_away", "seeded"]


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


@contextlib.contextmanager
def _catalogs_unseen() -> Iterator[None]:
    """Whatever DDL left is taken for nothing."""

    def look(
        _self: Undoing, _written: Written, known: facts.Facts, _since: Mark
    ) -> facts.Facts:
        return known

    with mock.patch.object(Undoing, "look_at_catalogs", look):
        yield


@contextlib.contextmanager
def _any_index() -> Iterator[None]:
    """An index of whatever kind is taken for one that ignores dead entries."""
    with mock.patch("clonedb.rewind.facts._PROVEN", (*facts._PROVEN, "hnsw")):
        yield


@contextlib.contextmanager
def _stale_places() -> Iterator[None]:
    """A row that came home is still taken for one that moved when it has left again."""

    def move(self: MovedRows, moves: Iterable[tuple[str, str, str]]) -> None:
        for old, new, name in moves:
            if old != name:
                del self._names[block_of(old)][old]
            self._present[name] = new
            self._names.setdefault(block_of(new), {})[new] = name

    with mock.patch.object(MovedRows, "move", move):
        yield


@contextlib.contextmanager
def _unlogged_tail() -> Iterator[None]:
    """Of an unlogged table only the blocks are looked at that it has in the template."""
    really = Undoing.look_at_unlogged

    def look(self: Undoing, written: Written, *more: Any) -> None:
        really(self, written, *more)
        for table, blocks in written.lost.items():
            if table.unlogged:
                blocks.intersection_update(range(table.pages))

    with mock.patch.object(Undoing, "look_at_unlogged", look):
        yield


@contextlib.contextmanager
def _unproven() -> Iterator[None]:
    """Rows are put back whatever is computed of them, and not compared with those that were read."""
    really = facts._table
    inserting = {
        kind: undo_statements.STATEMENTS[kind].replace(
            "image operator(pg_catalog.*=) row({given})", "true"
        )
        for kind in ("insert", "restore")
    }
    with (
        mock.patch(
            "clonedb.rewind.facts._table", lambda *given: replace(really(*given), computed=None)
        ),
        mock.patch(
            "clonedb.rewind.undo_session.STATEMENTS",
            {**undo_statements.STATEMENTS, **inserting},
        ),
    ):
        yield


@contextlib.contextmanager
def _settings(more: str) -> Iterator[None]:
    """The sessions that read and write rows have other settings, too."""
    with mock.patch("clonedb.rewind.own_session._SETTINGS", f"{own_session._SETTINGS} {more}"):
        yield


@contextlib.contextmanager
def _computed_anew() -> Iterator[None]:
    """What is computed of a row is computed under clonedb's own settings."""
    with _unproven(), _settings("-c TimeZone=UTC"):
        yield


@contextlib.contextmanager
def _text_only() -> Iterator[None]:
    """A row is taken for what its text says, and that as an array is read by default."""
    with (
        _settings("-c array_nulls=off"),
        mock.patch("clonedb.rewind.reference._SURVIVING", "(c.*)::text"),
    ):
        yield


@contextlib.contextmanager
def _late_number() -> Iterator[None]:
    """The next transaction's number is taken when the WAL has been read, and sessions that came meanwhile do not count."""
    really, answered = Witness.look, message.answer
    now = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint, pg_stat_get_db_sessions(%s)"

    def answer(*given: Any) -> Any:
        *results, _ = answered(*given)
        return [*results, [results[0][0]]]

    def look(
        self: Witness, oid: int, *more: Any, **keywords: Any
    ) -> tuple[Written, Mark] | None:
        found = really(self, oid, *more, **keywords)
        if found is None:
            return None
        row = self._connection.execute(now, [oid]).fetchone()
        assert row is not None
        return found[0], replace(found[1], xid=row[0], sessions=row[1])

    with (
        mock.patch.object(Witness, "look", look),
        mock.patch("clonedb.rewind.witness.answer", answer),
    ):
        yield


@contextlib.contextmanager
def _crash_unseen() -> Iterator[None]:
    """A crash may lose an undoing, and nobody notices."""
    really = own_session.open_session

    def open_session(*given: Any) -> Any:
        connection = really(*given)
        connection.execute("set synchronous_commit = off")
        return connection

    with (
        mock.patch("clonedb.rewind.undo_session.open_session", open_session),
        mock.patch.object(Witness, "is_alive", new=True),
    ):
        yield


@contextlib.contextmanager
def _plans_kept() -> Iterator[None]:
    """A session keeps its plans, whatever settings they were made under."""
    with mock.patch("clonedb.sessions.reset._DISCARD_PLANS", "select 1"):
        yield


@contextlib.contextmanager
def _functions_unseen() -> Iterator[None]:
    """A function that came and went has changed no setting of the sessions that are kept."""
    really = rewinder.Outcome
    with mock.patch(
        "clonedb.rewind.rewinder.Outcome",
        lambda *given, **more: really(*given, **{**more, "reshaped": False}),
    ):
        yield


@dataclass(frozen=True, slots=True)
class Fault:
    """How the undoing is broken, and where that shows: what programs do, the template's parts, what else happens."""

    broken: Callable[[], contextlib.AbstractContextManager[None]]
    mix: str = "mixed"
    parts: tuple[str, ...] = ()
    server: str = "tuned"
    chaos: Chaos = "none"


FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        "drop-relation": Fault(lambda: _detector(_first_table)),
        "skip-table": Fault(lambda: _undoing(_last_table)),
        "drop-block": Fault(lambda: _detector(_last_block)),
        "skip-sequence": Fault(lambda: _undoing(_first_sequence)),
        "catalogs-unseen": Fault(_catalogs_unseen),
        "stale-places": Fault(_stale_places, "chain", ("moving",), "stock"),
        "unlogged-tail": Fault(_unlogged_tail, "chain", ("unlogged",), "stock"),
        "any-index": Fault(_any_index, "chain", ("vector",), "stock"),
        "computed-anew": Fault(_computed_anew, "chain", ("computed",), "stock"),
        "checks-write": Fault(_unproven, "chain", ("checks",), "stock"),
        "text-only": Fault(_text_only, "chain", ("xml", "nulls"), "stock"),
        "plans-kept": Fault(_plans_kept, "plans", ("plans",), "stock"),
        "functions-unseen": Fault(_functions_unseen, "plans", ("plans",), "stock"),
        "late-number": Fault(_late_number, server="slow", chaos="late"),
        "crash-unseen": Fault(_crash_unseen, server="stock", chaos="crash"),
    }
)
"""The last ten are what rewinding once did."""


@contextlib.contextmanager
def far_away() -> Iterator[None]:
    """Every server counts as distant in this context."""
    with mock.patch("clonedb.rewind.witness.FAR", -1.0):
        yield


@contextlib.contextmanager
def seeded(fault: str | None) -> Iterator[None]:
    """The undoing is broken in this context."""
    with contextlib.nullcontext() if fault is None else FAULTS[fault].broken():
        yield
