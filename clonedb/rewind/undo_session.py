"""The session in one clone that undoes: what is prepared in it, what is sent, and what is undone early."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from clonedb.postgres.message import Results, answer, ask, number, send, text
from clonedb.rewind.facts import Sequence, Table
from clonedb.rewind.own_session import open_session
from clonedb.rewind.prediction import Early, Prediction
from clonedb.rewind.undo_statements import BEGIN, FINISH, STATEMENTS, pids_literal
from clonedb.rewind.witness import Mark

if TYPE_CHECKING:
    from psycopg.sql import Composable

    from clonedb.postgres.server import Server

__all__ = ["UndoSession"]


class UndoSession:
    """One session of clonedb's own in a clone, and the statements that were prepared in it."""

    def __init__(self, server: Server, database: str, oid: int) -> None:
        self._oid = oid
        # their names: a kind of STATEMENTS and a relation's oid
        self._prepared: set[str] = set()
        self._connection = open_session(server, database)
        try:
            # several statements in one message, which the simple protocol takes: there are no
            # parameters
            self._connection.execute(FINISH.encode())
        except BaseException:
            self._connection.close()
            raise
        self.pid: int = self._connection.info.backend_pid

    def send(self, parts: Iterable[str]) -> Results:
        """The rows of those statements that have any: one message to the server and back."""
        return ask(self._connection.pgconn, parts)

    def prepare(self, kind: str, relations: Iterable[Table | Sequence]) -> list[str]:
        """What prepares the statements for relations that are met for the first time, to be sent before those."""
        from psycopg import sql

        statements: list[str] = []
        for relation in relations:
            # one statement of a kind for each relation, named by its oid: `delete_16390`
            statement = f"{kind}_{relation.oid}"
            if statement in self._prepared:
                continue
            self._prepared.add(statement)
            name = sql.Identifier(relation.schema, relation.name)
            columns, stored = (
                (relation.columns, relation.stored) if isinstance(relation, Table) else ((), ())
            )
            parts: dict[str, Composable] = {
                "statement": sql.Identifier(statement),
                "relation": name,
                "name": sql.Literal(name.as_string(self._connection)),
                "columns": sql.SQL(", ").join(map(sql.Identifier, columns)),
                "values": sql.SQL(", ").join(
                    sql.SQL("(r).{}").format(sql.Identifier(column)) for column in columns
                ),
                "given": sql.SQL(", ").join(
                    sql.SQL("(r).{}").format(sql.Identifier(column)) for column in stored
                ),
                "stored": sql.SQL(", ").join(sql.Identifier("t", column) for column in stored),
            }
            if isinstance(relation, Sequence):
                parts["last_value"] = sql.Literal(relation.last_value)
                parts["is_called"] = sql.Literal(relation.is_called)

            composed = sql.SQL(STATEMENTS[kind]).format(**parts)
            statements.append(composed.as_string(self._connection))

        return statements

    def begin_early(
        self, prediction: Prediction, since: Mark, keep: Collection[int], busy: Collection[int]
    ) -> None:
        """Send what undoes a prediction, before it is known whether that was written; `end_early` waits for it.

        It deletes only rows of tests, and changes only sequences that are not as in the
        template, so that nothing is lost if the prediction was wrong. It fails if a session is
        there that is not to be kept; those of `busy` need not be idle.
        """
        pids = f"{self._oid}, {pids_literal(keep)}, {pids_literal(busy)}"
        parts = [BEGIN, f"execute alone({pids})"]
        parts += self.prepare("delete", prediction.tables)
        parts += self.prepare("used", prediction.sequences)
        parts += [
            f"execute delete_{table.oid}('({first},0)', '({end},0)', {since.rows})"
            for table, (first, end) in prediction.tables.items()
        ]
        parts += [f"execute used_{sequence.oid}" for sequence in prediction.sequences]
        parts += ["execute own", "commit", "execute place", f"execute finish({pids})"]
        send(self._connection.pgconn, parts)

    def end_early(self) -> Early | None:
        """Wait for that: what became of it, or None if it failed and changed nothing.

        Raises psycopg's errors when it cannot be known.
        """
        import psycopg

        try:
            results = answer(self._connection.pgconn)
        except psycopg.Error:
            # a transaction that did not come to its end: a table was dropped, a session is there
            if self._connection.info.transaction_status != psycopg.pq.TransactionStatus.INERROR:
                raise
            (names,) = self.send(
                ["rollback", "select name from pg_catalog.pg_prepared_statements"]
            )
            self._prepared = {text(name) for (name,) in names}
            return None

        ((before, _, began),), *_, ((own,),), ((place,),), ((ceiling, others, after),) = results
        steady = others == b"0" and before == after
        return Early(
            None if own is None else number(own),
            number(began),
            number(after) if steady else None,
            text(place),
            number(ceiling),
        )

    def close(self) -> None:
        """End the session."""
        self._connection.close()
