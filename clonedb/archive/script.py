"""A script that pg_dump wrote, taken apart: its settings, and an entry for each thing in the database."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Entry", "Key", "Script", "Span", "as_insert", "read_script"]

_ENTRY = re.compile(rb"-- (?:Data for )?Name: (.*?); Type: (.*?); Schema: (.*?)(?:; Owner: .*)?\n")
_FENCE = re.compile(rb"\\restrict (\w+)\s*")
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPED = bytes.maketrans(b"bfnrtv", b"\b\f\n\r\t\v")
_SETTINGS = re.compile(rb"(?:SET default_\w+ = [^\n]*;\n\s*)+\Z")
_SETTING = re.compile(rb"SET (default_\w+) = [^\n]*;\n")


class Key(NamedTuple):
    """What pg_dump calls a thing: `item_pkey` is `CONSTRAINT public "item item_pkey"`; the schema may be `-`."""

    kind: str
    schema: str
    name: str


class Span(NamedTuple):
    """A part of a file, in bytes."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing's statements; or a COPY statement, and where in the file its `rows` are.

    `settings` are the defaults for tables that pg_dump had set before it: they hold until they are set anew.
    """

    key: Key
    text: bytes
    settings: bytes
    rows: Span | None


@dataclass(frozen=True, slots=True)
class Script:
    """What a section begins with, which is for every session, and its entries, in order."""

    head: bytes
    entries: tuple[Entry, ...]


def read_script(file: io.BufferedRandom) -> Script:
    """Read a section of a dump in plain text; its rows stay where they are.

    A line that only looks like an entry's first, within a function's body, makes two entries of one: in their order
    they say what they said. Left out are psql's own lines, which fence the script in with a word that no other has.
    """
    file.seek(0)
    fence = _FENCE.search(file.read(4096))
    fences = {rb"\restrict " + fence[1], rb"\unrestrict " + fence[1]} if fence else set[bytes]()
    file.seek(0)
    parts, position, lines = [_Part(None)], 0, iter(file)
    for line in lines:
        position += len(line)
        if found := _ENTRY.fullmatch(line):
            parts.append(_Part(Key(*(found[part].decode(errors="surrogateescape") for part in (2, 3, 1)))))
        elif line.rstrip() not in fences and parts[-1].takes(line):
            length = 0
            for row in lines:
                position += len(row)
                if row == b"\\.\n":
                    break
                length += len(row)
            parts[-1].rows = Span(position - length - len(row), length)
    return _with_settings(parts)


@dataclass(slots=True)
class _Part:
    """An entry as far as it is read."""

    key: Key | None
    lines: list[bytes] = field(default_factory=list)
    rows: Span | None = None

    def takes(self, line: bytes) -> bool:
        """Take a line; whether rows come next. Of COPY nothing else is taken: it goes in a message of its own."""
        if self.key is None or self.key.kind != "TABLE DATA":
            self.lines.append(line)
            return False
        if (self.rows or not self.lines) and (line.isspace() or line.startswith(b"--")):
            return False
        self.lines.append(line)
        return line.endswith(b" FROM stdin;\n")  # there may be line breaks in a column's name


def _with_settings(parts: Iterable[_Part]) -> Script:
    """Take the defaults for tables from the end of the entry before to the entries that they are for."""
    head, entries, settings = b"", [], dict[bytes, bytes]()
    for part in parts:
        text, before = b"".join(part.lines).removesuffix(b"--\n"), b"".join(settings.values())
        if found := _SETTINGS.search(text):
            text = text[: found.start()]
            settings |= {each[1]: each[0] for each in _SETTING.finditer(found[0])}
        if part.key is None:
            head = text
        else:
            entries.append(Entry(part.key, text, before, part.rows))
    return Script(head, tuple(entries))


def as_insert(target: bytes, rows: bytes) -> Iterator[bytes]:
    """COPY's rows, in its text format, as one INSERT: `target` is a table and its columns."""
    yield b"INSERT INTO " + target + b" OVERRIDING SYSTEM VALUE VALUES"
    for number, row in enumerate(rows.removesuffix(b"\n").split(b"\n")):
        yield (b",\n(" if number else b"\n(") + b", ".join(map(_literal, row.split(b"\t"))) + b")"
    yield b";\n"


def _literal(value: bytes) -> bytes:
    if value == rb"\N":
        return b"NULL"
    if b"\\" in value:
        value = _ESCAPE.sub(lambda found: found[1].translate(_ESCAPED), value)
    return b"'" + value.replace(b"'", b"''") + b"'"
