"""Seeds that are files: SQL as psql runs it, CSV (each may be compressed), and whatever pg_dump writes."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from clonedb.migrate.inside.compressed import opened, plain_name
from clonedb.migrate.inside.dump_archives import restored
from clonedb.migrate.inside.failure import RefusedError
from clonedb.migrate.inside.psql_script import Command, Script, ScriptError, Statement

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["SeedFile"]

_DISPLAY = frozenset({"a", "echo", "f", "H", "pset", "qecho", "t", "timing", "warn", "x"})
_FENCES = frozenset(
    {"restrict", "unrestrict"}
)  # with which pg_dump keeps psql from running what is in the data
_HEAD, _FOOT = b"-- PostgreSQL database dump\n", b"-- PostgreSQL database dump complete"
# spaces and comments before the first word
_BEFORE = rb"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
# what may name a role or a parameter that this server does not have, and pg_dump writes
_MAY_BE_SKIPPED = re.compile(
    _BEFORE + rb"(?:alter\b[^;]*\bowner\s+to\b|grant\b|revoke\b|alter\s+default\s+privileges\b"
    rb"|set\s+(?!local)\w+\s*(?:=|to\b))",
    re.IGNORECASE | re.DOTALL,
)
# What PostgreSQL refuses in a transaction; a value that ALTER TYPE adds can be used only after
# the transaction.
_OUTSIDE = re.compile(
    _BEFORE + rb"(?:vacuum\b|alter\s+system\b|alter\s+type\b.*\badd\s+value\b"
    rb"|(?:create|drop|alter)\s+(?:tablespace|subscription)\b"
    rb"|reindex\b.*\b(?:concurrently|database|system)\b|(?:create(?:\s+unique)?|drop)\s+index\s+concurrently\b)",
    re.IGNORECASE | re.DOTALL,
)
_DATABASES = re.compile(_BEFORE + rb"(create|drop)\s+database\b", re.IGNORECASE | re.DOTALL)
_OF_A_DATABASE = re.compile(
    _BEFORE + rb"(alter|comment\s+on)\s+database\s+(?P<name>\"(?:[^\"]|\"\")+\"|[^\s;]+)",
    re.IGNORECASE | re.DOTALL,
)
# psql's \copy: TABLE FROM 'FILE' WITH (...)
_COPY_FROM = re.compile(
    rb"(?P<what>.*?)\bfrom\s+(?P<file>'(?:[^']|'')*'|\S+)(?P<how>.*)", re.IGNORECASE | re.DOTALL
)
_CHUNK = 1 << 16  # bytes that are sent to COPY at once
_DEPTH = 20  # of files that include each other


class SeedFile:
    """Runs the files of one seed, as `psql --single-transaction` would; `left_out` is what was skipped, and why.

    A statement that names a role which is not there (the owner of a table in a dump, a
    privilege) is skipped, and so is a parameter that this server does not know yet. What cannot
    be in a transaction (VACUUM) ends it, and another begins after it. Raises what PostgreSQL
    says of any other statement, and RefusedError for a command of psql's that reaches beyond
    the database, or that is not understood.
    """

    def __init__(
        self, connection: Connection[Any], directory: Path, say: Callable[[str], None]
    ) -> None:
        """The connection is one in autocommit; paths in scripts begin at the directory."""
        self.left_out: set[str] = set()
        self._connection = connection
        self._directory = directory
        self._say = say
        self._database = connection.info.dbname
        # one of those that psql sets itself
        self._variables: dict[bytes, bytes] = {b"DBNAME": self._database.encode()}
        self._waiting: list[Statement] = []
        self._size = 0

    def run(self, path: Path, pg_restore: str | None = None) -> None:
        """Run one file, by what its name says that it is, and commit; a dump that is no SQL by way of `pg_restore`."""
        self._begin()
        if pg_restore is not None:
            with restored(path, pg_restore) as lines:
                self._run_lines(_Counted(lines, path, self._say), path, 0)
        elif plain_name(path).suffix.lower() == ".csv":
            with opened(path) as file:
                self._fill_table(file, path)
        else:
            self._run_script(path, 0)
        self._commit()

    def _run_script(self, path: Path, depth: int) -> None:
        if depth > _DEPTH:
            raise RefusedError(f"{str(path)!r} is included by itself, {_DEPTH} times over")
        with opened(path) as file:
            self._run_lines(_Counted(file, path, self._say), path, depth)

    def _run_lines(self, lines: _Counted, path: Path, depth: int) -> None:
        try:
            for item in Script(lines, self._variables):
                if isinstance(item, Statement):
                    self._take(item, path)
                else:
                    # what waits is run before a command, which may depend on it
                    self._flush(path)
                    self._obey(item, path, depth)

            self._flush(path)
        except ScriptError as error:
            raise RefusedError(f"{str(path)!r}: {error}") from None

        if lines.is_dump and not lines.is_complete:
            raise RefusedError(
                f"{str(path)!r} begins as a dump of pg_dump's, and no line {_FOOT.decode()!r} ends it: it was cut"
                " off"
            )

    def _take(self, statement: Statement, path: Path) -> None:
        """Run a statement, perhaps together with those that follow: a round trip each would be most of the time."""
        self._require_own_database(statement, path)
        special = _OUTSIDE.match(statement.text), _MAY_BE_SKIPPED.match(statement.text)
        if statement.rows is None and not any(special):
            self._waiting.append(statement)
            self._size += len(statement.text)
            if self._size >= _CHUNK:
                self._flush(path)
            return

        self._flush(path)
        if statement.rows is not None:
            self._copy_in(statement, statement.rows, path)
        elif special[0]:
            self._commit()
            self._send([statement], path)
            self._begin()
        else:
            self._try(statement, path)

    def _require_own_database(self, statement: Statement, path: Path) -> None:
        """A server may hold others of the same project: `ALTER DATABASE shop SET` would change the application's."""
        where = f"{str(path)!r}, line {statement.line}"
        if found := _DATABASES.match(statement.text):
            raise RefusedError(
                f"{where}: {found[1].decode().upper()} DATABASE; a seed fills the database that it is given:"
                " take this away, or make the dump without --create"
            )
        if found := _OF_A_DATABASE.match(statement.text):
            written = found["name"].decode(errors="replace")
            name = (
                written[1:-1].replace('""', '"') if written.startswith('"') else written.lower()
            )
            if name != self._database:
                what = " ".join(found[1].decode().upper().split())
                raise RefusedError(
                    f"{where}: {what} DATABASE {written} changes another database than the one that a seed is given:"
                    ' write :"DBNAME" in place of the name, or take this away'
                )

    def _begin(self) -> None:
        self._connection.execute("begin")

    def _commit(self) -> None:
        self._connection.execute("commit")

    def _flush(self, path: Path) -> None:
        waiting, self._waiting, self._size = self._waiting, [], 0
        if waiting:
            self._send(waiting, path)

    def _send(self, statements: Sequence[Statement], path: Path) -> None:
        """Run statements in one message; raises the error of one, and says which it was."""
        from psycopg import errors, pq

        texts = [statement.text for statement in statements]
        connection = self._connection.pgconn
        connection.send_query(b"\n;\n".join(texts))  # a statement may end with a comment
        failed, done = None, 0
        while result := connection.get_result():
            if result.status == pq.ExecStatus.FATAL_ERROR:
                failed = failed or result
            # a result for each that worked, so that the failed one is known by its place
            done += failed is None

        if failed is not None:
            error = errors.error_from_result(failed, self._connection.info.encoding)
            raise _placed(error, statements[min(done, len(statements) - 1)], path)

    def _copy_in(self, statement: Statement, rows: Iterator[bytes], path: Path) -> None:
        import psycopg

        try:
            with self._connection.cursor() as cursor, cursor.copy(statement.text) as copy:
                for piece in rows:
                    copy.write(piece)
        except psycopg.Error as error:
            raise _placed(error, statement, path) from None

    def _try(self, statement: Statement, path: Path) -> None:
        """Run a statement that matters only where its role or its parameter is known."""
        from psycopg import errors, pq

        if self._connection.info.transaction_status == pq.TransactionStatus.IDLE:
            self._begin()  # the script has a COMMIT of its own
        # an error would end the whole transaction
        self._connection.execute("savepoint clonedb")
        try:
            self._send([statement], path)
        except errors.UndefinedObject as error:
            first = str(error).partition("\n")[0].strip()
            if not first.startswith(("role ", "unrecognized configuration parameter")):
                raise
            self._connection.execute("rollback to clonedb")
            self.left_out.add(first)

        self._connection.execute("release clonedb")

    def _obey(self, command: Command, path: Path, depth: int) -> None:
        name, arguments = command.name, command.arguments
        if name in _FENCES or name in _DISPLAY:
            return
        where = f"{str(path)!r}, line {command.line}: \\{name}"
        if name in ("i", "include", "ir", "include_relative"):
            if len(arguments) != 1:
                raise RefusedError(f"{where} takes one file")
            beside = name in ("ir", "include_relative")
            included = self._path(arguments[0], path.parent if beside else self._directory)
            _require_file(included, where)
            self._run_script(included, depth + 1)
        elif name in ("set", "unset"):
            self._set(command, where)
        elif name == "encoding" and arguments:
            self._connection.execute(
                b"set client_encoding = '" + arguments[0].replace(b"'", b"''") + b"'"
            )
        elif name == "copy":
            self._copy(command, path)
        elif name in ("c", "connect"):
            database = self._connection.info.dbname.encode()
            if not arguments or arguments not in ((database,), (b"-",)):
                raise RefusedError(
                    f"{where} leads to another database; a seed fills the one that it is given: take this away, or make"
                    " the dump without --create"
                )
        else:
            raise RefusedError(
                f"{where} is a command of psql's that a seed cannot have; write it in SQL"
            )

    def _set(self, command: Command, where: str) -> None:
        """Set or unset a variable. Without one, psql only prints those that there are."""
        if command.arguments:
            variable, *values = command.arguments
            if command.name == "set":
                self._variables[variable] = b"".join(values)
            else:
                self._variables.pop(variable, None)
        elif command.name == "unset":
            raise RefusedError(f"{where} takes a variable")

    def _copy(self, command: Command, path: Path) -> None:
        """COPY from a file of this machine, or from the script's own lines for STDIN."""
        found = _COPY_FROM.fullmatch(command.rest.rstrip().rstrip(b";"))
        if found is None:
            raise RefusedError(
                f"{str(path)!r}, line {command.line}: \\copy takes TABLE FROM 'FILE' in a seed"
            )

        statement = b"copy " + found["what"] + b"from stdin" + found["how"]
        name = found["file"]
        if name.lower() in (b"stdin", b"pstdin"):
            self._copy_in(Statement(statement, command.line), command.rows, path)
            return

        name = name[1:-1].replace(b"''", b"'") if name.startswith(b"'") else name
        source = self._path(name, self._directory)
        # psql takes it from where it runs; beside the script is allowed here, too
        if not source.exists():
            source = self._path(name, path.parent)
        _require_file(source, f"{str(path)!r}, line {command.line}: \\copy")
        with opened(source) as file:
            self._copy_in(Statement(statement, command.line), _pieces(file), path)

    def _path(self, name: bytes, directory: Path) -> Path:
        return Path(os.path.abspath(directory / os.fsdecode(name)))  # noqa: PTH100 - resolve() would follow links

    def _fill_table(self, file: BinaryIO, path: Path) -> None:
        """The file's name is the table's, and its first line names the columns."""
        from psycopg.sql import SQL, Identifier

        # with or without an editor's mark of UTF-8
        head = file.readline().decode("utf-8-sig")
        columns = next(csv.reader([head]), [])
        if not columns or not all(name.strip() for name in columns):
            raise RefusedError(
                f"{str(path)!r}: the first line of a CSV file names the columns, and this is {head.strip()!r}"
            )

        # `shop.orders.csv` is table orders of schema shop
        table = Identifier(*plain_name(path).stem.split("."))
        names = SQL(", ").join(Identifier(name.strip()) for name in columns)
        statement = SQL("copy {} ({}) from stdin (format csv)").format(table, names)
        self._copy_in(Statement(statement.as_bytes(self._connection), 1), _pieces(file), path)


class _Counted:
    """The lines of a file; says how much was read of a long one, and whether it is a whole dump."""

    _EACH = 256 << 20

    def __init__(self, lines: Iterable[bytes], path: Path, say: Callable[[str], None]) -> None:
        self.is_dump = self.is_complete = False
        self._lines, self._path, self._say = lines, path, say

    def __iter__(self) -> Iterator[bytes]:
        read, told = 0, self._EACH
        for number, line in enumerate(self._lines, 1):
            if number == 1 and line.startswith(b"PGDMP"):
                raise RefusedError(
                    f"{str(self._path)!r} is a dump of pg_dump's that was compressed once more; decompress it"
                )
            if number == 1 and line.startswith(b"\xef\xbb\xbf"):
                line = line[3:]  # noqa: PLW2901 - an editor's mark of UTF-8
            # pg_dump's second line, between two of `--`
            if number <= 3 and line == _HEAD:
                self.is_dump = True
            self.is_complete = self.is_complete or line.startswith(_FOOT)
            read += len(line)
            if read >= told:
                self._say(f"{self._path.name}: {read >> 20} MB")
                told += self._EACH

            yield line


def _placed(error: Exception, statement: Statement, path: Path) -> Exception:
    """An error with the statement that raised it, and where that stands."""
    vars(error).update(
        statement=statement.text.decode(errors="replace"), place=(str(path), statement.line)
    )
    return error


def _require_file(path: Path, where: str) -> None:
    if not path.exists():
        raise RefusedError(f"{where}: there is no file {str(path)!r}")
    if path.is_dir():
        raise RefusedError(f"{where}: {str(path)!r} is a directory")


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: file.read(_CHUNK), b"")
