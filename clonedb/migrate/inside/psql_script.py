"""SQL as psql reads it from a file: statements, the rows of COPY, variables, and commands that begin with a backslash.

The rules are psql's (its manual, "Meta-Commands" and "SQL Interpolation", and
src/fe_utils/psqlscan.l). A file is read line by line and may have any encoding in which ASCII
means ASCII.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["Command", "Script", "ScriptError", "Statement"]

# What has a meaning of its own, by the first that fits; the rest is copied. A cast (::) stands
# before a variable, so that `::text` is none.
_TOKEN = re.compile(
    rb"""
    (?P<comment>--[^\n]*)
  | (?P<block>/\*)
  | (?P<escapes>(?<![\w$])[eE]')
  | (?P<string>')
  | (?P<identifier>")
  | (?P<dollar>\$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*)?\$)
  | (?P<end>;)
  | (?P<opening>\()
  | (?P<closing>\))
  | (?P<command>\\)
  | ::
  | (?P<variable>:(?:(?P<as_literal>'\w+')|(?P<as_identifier>"\w+")|(?P<as_is>[A-Za-z_\x80-\xff][\w\x80-\xff]*)))
  | (?P<word>[A-Za-z_\x80-\xff][\w$\x80-\xff]*)
    """,
    re.VERBOSE,
)
_QUOTES = ("string", "identifier", "escapes", "block", "dollar")
_CLOSING: Mapping[bytes, re.Pattern[bytes]] = MappingProxyType(
    {  # of each kind of text in quotes; a doubled quote ends it, and begins it again
        b"'": re.compile(rb"'"),
        b'"': re.compile(rb'"'),
        b"e'": re.compile(rb"\\.|(?P<end>')", re.DOTALL),
        b"/*": re.compile(rb"(?P<opening>/\*)|(?P<end>\*/)"),
    }
)
# in single quotes with C's escapes, in double quotes, or plain; two backslashes end a command
_ARGUMENT = re.compile(rb"""'(?:[^'\\]|''|\\.)*'|"[^"]*"|[^\s'"\\]+|\\(?!\\)""", re.DOTALL)
_COPY = re.compile(
    rb"(?:\s|--[^\n]*\n|/\*.*?\*/)*copy\b.*\bfrom\s+(?:stdin|pstdin)\b",
    re.IGNORECASE | re.DOTALL,
)
# the only statements that may have BEGIN ATOMIC ... END, in which semicolons end nothing
_ROUTINE = re.compile(rb"create(?: or replace)? (?:function|procedure)", re.IGNORECASE)
_END_OF_ROWS = (b"\\.\n", b"\\.\r\n", b"\\.")
_CHUNK = 1 << 16  # bytes of rows that are sent at once


class ScriptError(Exception):
    """A script that cannot be run, and why."""


class Statement(NamedTuple):
    """A statement, and the line that it begins on; `rows` are for COPY FROM STDIN, to be read to their end."""

    text: bytes
    line: int
    rows: Iterator[bytes] | None = None


class Command(NamedTuple):
    """A command of psql's, without the backslash, its arguments, and all that follows it on its line."""

    name: str
    arguments: tuple[bytes, ...]
    rest: bytes
    line: int
    rows: Iterator[bytes]


class Script:
    """Takes a script apart. `variables` are psql's; those that are set when the script is read on have their effect."""

    def __init__(self, lines: Iterable[bytes], variables: Mapping[bytes, bytes]) -> None:
        self._lines = iter(lines)
        self._variables = variables
        self._number = 0
        self._text: list[bytes] = []
        self._start = 0
        self._words: list[bytes] = []
        self._parentheses = 0
        self._blocks = 0  # of BEGIN ATOMIC, and of CASE in it

    def __iter__(self) -> Iterator[Statement | Command]:
        """Each statement and each command, in order. Raises ScriptError for a file that ends in the middle of one."""
        for line in self._lines:
            self._number += 1
            yield from self._read(line)

        # psql, too, runs what has no semicolon at the end of a file
        if self._start:
            yield self._ended()

    def _read(self, line: bytes) -> Iterator[Statement | Command]:
        """What ends on a line, or on the line that something in quotes leads to."""
        position = 0
        while found := _TOKEN.search(line, position):
            self._add(line[position : found.start()])
            kind, token, position = found.lastgroup, found.group(), found.end()

            if kind in _QUOTES:
                self._add(token, begins=kind != "block")
                line, position = self._quoted(token, line, position)
            elif kind == "command":
                command, position = self._command(line, position)
                yield from self._obeyed(command)
            elif kind == "end" and not self._parentheses and not self._blocks:
                statement = self._ended()
                if _COPY.match(statement.text):
                    yield statement._replace(rows=self._rows())
                    return  # psql, too, leaves out what follows on the line

                yield statement
            else:
                self._add(self._plain(found), begins=kind != "comment")

        self._add(line[position:])

    def _add(self, text: bytes, *, begins: bool = True) -> None:
        """Add to the statement, which begins with the first text in it that is neither space nor comment."""
        self._text.append(text)
        if begins and not self._start and text.strip():
            self._start = self._number

    def _obeyed(self, command: Command) -> Iterator[Statement | Command]:
        # psql sends this semicolon together with what follows it
        if command.name == ";":
            self._text.append(b";")
        elif command.name == "g" and not command.arguments:
            yield self._ended()
        elif self._start:
            raise ScriptError(
                f"line {self._number}: \\{command.name} in the middle of a statement"
            )
        else:
            yield command

    def _plain(self, found: re.Match[bytes]) -> bytes:
        """A token outside of quotes: a variable's value, or what it is."""
        kind, token = found.lastgroup, found.group()
        if kind in ("as_literal", "as_identifier", "as_is", "variable"):
            return self._value(found)

        self._parentheses += (kind == "opening") - (kind == "closing" and self._parentheses > 0)
        if kind == "word":
            word = token.lower()
            # enough for CREATE OR REPLACE FUNCTION
            if len(self._words) < 4:
                self._words.append(word)
            if _ROUTINE.match(b" ".join(self._words)):
                opens = word == b"begin" or (word == b"case" and self._blocks > 0)
                self._blocks += opens - (word == b"end" and self._blocks > 0)

        return token

    def _value(self, found: re.Match[bytes]) -> bytes:
        name = found["variable"].strip(b":'\"")
        value = self._variables.get(name)
        # psql leaves a variable that is not set as it stands
        if value is None:
            return found.group()
        if found["as_literal"]:
            quoted = b"'" + value.replace(b"'", b"''") + b"'"
            # as PQescapeLiteral: the space keeps the E from ending a word before it
            return b" E" + quoted.replace(b"\\", b"\\\\") if b"\\" in value else quoted
        if found["as_identifier"]:
            return b'"' + value.replace(b'"', b'""') + b'"'
        return value

    def _quoted(self, opening: bytes, line: bytes, position: int) -> tuple[bytes, int]:
        """Take what stands in quotes or in a comment, on however many lines: the line it ends on, and where."""
        # a dollar quote ends as it began
        pattern = _CLOSING.get(opening.lower()) or re.compile(re.escape(opening))
        begun, depth = self._number, 1
        while True:
            found = pattern.search(line, position)
            if found is None:
                self._text.append(line[position:])
                line, position = next(self._lines, b""), 0
                self._number += 1
                if not line:
                    raise ScriptError(
                        f"it ends within what {opening.decode(errors='replace')} begins on line {begun};"
                        " was it cut off?"
                    )

                continue

            self._text.append(line[position : found.end()])
            position = found.end()
            if pattern.groups and found["end"] is None:
                # comments nest in PostgreSQL
                depth += found.groupdict().get("opening") is not None
                continue

            depth -= 1
            if depth == 0:
                return line, position

    def _ended(self) -> Statement:
        statement = Statement(b"".join(self._text).strip(), self._start or self._number)
        self._text, self._words, self._start, self._parentheses, self._blocks = [], [], 0, 0, 0
        return statement

    def _command(self, line: bytes, position: int) -> tuple[Command, int]:
        """A command and its arguments, and where it ends: at two backslashes, or with its line."""
        if line[position : position + 1] == b";":
            return Command(";", (), b"", self._number, self._rows()), position + 1
        found = re.compile(rb"\S[^\s\\]*").match(line, position)
        name = found.group() if found else b""
        position += len(name)
        begin, arguments = position, list[bytes]()
        while position < len(line) and not line.startswith(b"\\\\", position):
            argument = _ARGUMENT.match(line, position)
            if argument is not None:
                arguments.append(self._argument(argument.group()))
            position = argument.end() if argument else position + 1

        rest = line[begin:position].strip()
        command = Command(
            name.decode(errors="replace"), tuple(arguments), rest, self._number, self._rows()
        )
        return command, position + 2

    def _argument(self, text: bytes) -> bytes:
        if text.startswith(b"'"):
            escapes = {b"n": b"\n", b"t": b"\t", b"b": b"\b", b"r": b"\r", b"f": b"\f"}
            plain = text[1:-1].replace(b"''", b"'")
            return re.sub(
                rb"\\(.)", lambda found: escapes.get(found[1], found[1]), plain, flags=re.DOTALL
            )
        if text.startswith(b'"'):
            return text[1:-1]
        if found := re.fullmatch(rb""":(?:(\w+)|'(\w+)'|"(\w+)")""", text):
            return self._variables.get(found[1] or found[2] or found[3], text)
        return text

    def _rows(self) -> Iterator[bytes]:
        """The rows that follow, in pieces, up to the line of a backslash and a dot that ends them."""
        begun, piece, size = self._number, list[bytes](), 0
        for line in self._lines:
            self._number += 1
            if line in _END_OF_ROWS:
                yield b"".join(piece)
                return

            piece.append(line)
            size += len(line)
            if size >= _CHUNK:
                yield b"".join(piece)
                piece, size = [], 0

        raise ScriptError(
            f"it ends within the rows of the COPY on line {begun}; was it cut off?"
        )
