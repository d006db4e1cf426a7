"""A script that pg_dump wrote, taken apart: its settings, and an entry for each thing in the database."""

from __future__ import annotations

import io
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Entry", "Script", "Span", "as_insert", "read_script"]

# `-- Name: users; Type: TABLE; Schema: public; Owner: alice`, `-- Data for Name: ...`
_ENTRY = re.compile(
    rb"-- (?:Data for )?Name: (.*?); Type: (.*?); Schema: (.*?)(?:; Owner: .*)?\n"
)
# pg_dump since August 2025 (17.6) fences a script in with `\restrict WORD`, so that psql takes
# no line of the data for a command of its own
_FENCE = re.compile(rb"\\restrict (\w+)\s*")
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
# of COPY's text format; any other character stands for itself
_ESCAPED = bytes.maketrans(b"bfnrtv", b"\b\f\n\r\t\v")


class Span(NamedTuple):
    """A part of a file, in bytes."""

    start: int
    length: int


@dataclass(slots=True)
class Entry:
    """One thing's statements; or a COPY statement, and where in the file its `rows` are."""

    text: bytes = b""
    rows: Span | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """What a dump begins with, its settings, and its entries, in order."""

    head: bytes
    entries: tuple[Entry, ...]


def read_script(file: io.BufferedRandom) -> Script:
    """Read a dump in plain text; its rows stay where they are.

    A line that only looks like an entry's first, within a function's body, makes two entries of
    one: in their order they say what they said. Left out are psql's own lines, which fence the
    script in with a word that no other has.
    """
    file.seek(0)
    fence = _FENCE.search(file.read(4096))
    fences = {rb"\restrict " + fence[1], rb"\unrestrict " + fence[1]} if fence else set[bytes]()
    file.seek(0)
    head, *entries = _entries(file, fences)
    return Script(head.text, tuple(entries))


def _entries(file: io.BufferedRandom, fences: Container[bytes]) -> Iterator[Entry]:
    """What is in front of the first entry, then the entries."""
    position, lines = 0, iter(file)
    entry, text, holds_rows = Entry(), list[bytes](), False
    for line in lines:
        position += len(line)
        if found := _ENTRY.fullmatch(line):
            yield _ended(entry, text)
            entry, text, holds_rows = Entry(), [], found[2] == b"TABLE DATA"
        elif line.rstrip() in fences or (
            holds_rows and not text and (line.isspace() or line.startswith(b"--"))
        ):
            continue  # of COPY nothing else is taken: it goes in a message of its own
        else:
            text.append(line)
            if holds_rows and line.endswith(
                b" FROM stdin;\n"
            ):  # there may be line breaks in a column's name
                # rows stay in the file: only their place is noted
                length = 0
                for row in lines:
                    position += len(row)
                    # the line that ends COPY's data
                    if row == b"\\.\n":
                        break
                    length += len(row)

                entry.rows = Span(position - length - len(row), length)
                yield _ended(entry, text)
                entry, text, holds_rows = (
                    Entry(),
                    [],
                    False,
                )  # pg_dump's settings for what comes next may follow

    yield _ended(entry, text)


def _ended(entry: Entry, text: list[bytes]) -> Entry:
    # the dashes that begin the next entry's heading
    entry.text = b"".join(text).removesuffix(b"--\n")
    return entry


def as_insert(target: bytes, rows: bytes) -> Iterator[bytes]:
    """COPY's rows, in its text format, as one INSERT: `target` is a table and its columns."""
    # an identity column that is GENERATED ALWAYS takes values only so
    yield b"INSERT INTO " + target + b" OVERRIDING SYSTEM VALUE VALUES"
    for number, row in enumerate(rows.removesuffix(b"\n").split(b"\n")):
        yield (
            (b",\n(" if number else b"\n(") + b", ".join(map(_literal, row.split(b"\t"))) + b")"
        )
    yield b";\n"


def _literal(value: bytes) -> bytes:
    # COPY's null; the text `\N` is written with two backslashes
    if value == rb"\N":
        return b"NULL"
    if b"\\" in value:
        value = _ESCAPE.sub(lambda found: found[1].translate(_ESCAPED), value)
    # pg_dump's settings have standard_conforming_strings on: a backslash is a backslash
    return b"'" + value.replace(b"'", b"''") + b"'"
