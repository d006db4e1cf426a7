"""What one file's contents say: their digest, the modules they import, the extensions they create."""

from __future__ import annotations

import ast
import hashlib
import re
import warnings
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from clonedb.project.dump_archives import MAGIC

__all__ = ["ICU", "LARGE", "Contents", "extensions_in_sql", "read_contents", "read_large"]

ICU = "ICU"
"""What stands among the extensions for collations of ICU's."""

LARGE = 16 << 20
"""Bytes from which on a file is read in pieces: a dump that fills the template may have more than there is memory."""

_PIECE, _OVERLAP = (
    1 << 20,
    1 << 12,
)  # bytes; no CREATE EXTENSION is longer than what two pieces share

# psql's commands that read another file, where they stand at the beginning of a line with a name as it is:
# `\i file`, `\ir 'a file'`, `\copy t from 'file'`; after COPY's FROM a word without quotes may
# be STDIN
_INCLUDE = re.compile(
    rb"""(?mi)^[ \t]*\\(?:(?:i|ir|include|include_relative)[ \t]+|copy\b[^\n]*?\bfrom[ \t]+(?='))"""
    rb"""(?:'(?P<quoted>[^'\n]+)'|(?P<plain>[^\s':]+))"""
)

# not in any SQL: it stands for the part of an f-string that only running the code would tell
_UNKNOWN = "\0"

# A comment is matched first, so that what it holds is passed over. A name that goes on with an
# unknown part, or that a template's placeholder makes up, is not a name.
# `*+` gives nothing back: the name is matched in full before what follows it is looked at
_STATEMENT = r"""(?isx)
    --[^\n]* | /\*.*?\*/
    | \b CREATE \s+ EXTENSION \s+ (?: IF \s+ NOT \s+ EXISTS \s+ )?
      (?: "(?P<quoted>[^"{}%\x00\\]+)" | (?P<plain>[a-z_][\w$]*+) (?![\x00{%-]) )
    """
_ICU = r"""(?isx)
    --[^\n]* | /\*.*?\*/
    | (?P<icu> \b provider \s* = \s* '?icu\b | -x-icu\b )
    """
# what follows `create extension` in prose
_WORDS = frozenset(
    {
        "and",
        "for",
        "from",
        "if",
        "in",
        "is",
        "on",
        "or",
        "statement",
        "statements",
        "to",
        "with",
    }
)


class Contents(NamedTuple):
    """One file, read.

    `imports` are dotted names as written, relative ones with their dots: `from a.b import c`
    gives `a.b` and `a.b.c`, because only the file system knows whether `c` is a module. Those of
    SQL are the files that psql's commands in it name.
    `extensions` are names in CREATE EXTENSION statements, and ICU where a collation is ICU's:
    like an extension it is not in every server.
    """

    digest: str
    imports: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()


def read_contents(name: str, data: bytes) -> Contents:
    """Digest a file, and read it as Python or SQL if its name says that it is.

    The bytes are taken as they are, line endings included: PostgreSQL stores them in function
    bodies. Python that does not parse has a digest only; the migrations will tell what is wrong
    with it.
    """
    digest = hashlib.sha256(data).hexdigest()
    if name.endswith(".py"):
        tree = _parse(data)
        if tree is None:
            return Contents(digest)
        # in Python only strings are searched
        texts = _texts(tree) if _may_name_extensions(data) else ()
        extensions = {extension for text in texts for extension in extensions_in_sql(text)}
        return Contents(digest, tuple(sorted(set(_imports(tree)))), tuple(sorted(extensions)))

    if not _holds_sql(name, data):
        return Contents(digest)
    named = (
        extensions_in_sql(data.decode(errors="replace")) if _may_name_extensions(data) else ()
    )
    return Contents(digest, tuple(sorted(_included(data))), tuple(sorted(named)))


def read_large(name: str, file: BinaryIO) -> Contents:
    """Digest a file that is too large to be held, and look for extensions in it if its name says that it is SQL."""
    digest, before = hashlib.sha256(), b""
    extensions, included = set[str](), set[str]()
    is_sql = None
    while piece := file.read(_PIECE):
        is_sql = _holds_sql(name, piece) if is_sql is None else is_sql
        digest.update(piece)
        both = before + piece
        # a statement may lie across two pieces; one in both is found twice, and a set does not
        # mind
        if is_sql:
            included |= _included(both)
            if _may_name_extensions(both):
                extensions |= extensions_in_sql(both.decode(errors="replace"))
        before = piece[-_OVERLAP:]

    return Contents(digest.hexdigest(), tuple(sorted(included)), tuple(sorted(extensions)))


def _holds_sql(name: str, data: bytes) -> bool:
    """Whether extensions are to be looked for: in SQL, and in what pg_restore makes SQL of."""
    return name.lower().endswith(".sql") or data.startswith(MAGIC)


def _included(data: bytes) -> set[str]:
    """The names of files that an SQL script reads by psql's commands."""
    if b"\\" not in data:
        return set()
    found = (match["quoted"] or match["plain"] for match in _INCLUDE.finditer(data))
    return {name.decode(errors="surrogateescape") for name in found}


def extensions_in_sql(text: str) -> set[str]:
    """The names in a text's CREATE EXTENSION statements, comments left out, folded to lower case unless quoted; ICU."""
    names = {ICU for match in re.finditer(_ICU, text) if match["icu"]}
    for match in re.finditer(_STATEMENT, text):
        if match["quoted"]:
            names.add(match["quoted"])
        elif match["plain"] and (name := match["plain"].lower()) not in _WORDS:
            names.add(name)
    return names


def _may_name_extensions(data: bytes) -> bool:
    # searching costs less than parsing, and most files have neither word
    lower = data.lower()
    return b"extension" in lower or b"icu" in lower


def _parse(data: bytes) -> ast.Module | None:
    with warnings.catch_warnings():
        # an invalid escape in a revision is not this run's warning, which pytest may have made
        # an error
        warnings.simplefilter("ignore")
        try:
            return ast.parse(data)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node but what stands under `if TYPE_CHECKING:`, which never runs."""
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            pending.extend(node.orelse)
        else:
            pending.extend(ast.iter_child_nodes(node))


def _is_type_checking(test: ast.expr) -> bool:
    name = (
        test.attr
        if isinstance(test, ast.Attribute)
        else test.id
        if isinstance(test, ast.Name)
        else ""
    )
    return name == "TYPE_CHECKING"


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in _nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield module
            # `from . import a` gives `.a`, not `..a`
            separator = "" if module.endswith(".") else "."
            for alias in node.names:
                if alias.name != "*":
                    yield module + separator + alias.name
        elif isinstance(node, ast.Call) and (name := _literal_import(node)):
            yield name


def _literal_import(call: ast.Call) -> str | None:
    """The module that `import_module("a.b")` or `__import__("a.b")` names."""
    function = call.func
    name = (
        function.attr
        if isinstance(function, ast.Attribute)
        else function.id
        if isinstance(function, ast.Name)
        else ""
    )
    if name not in ("import_module", "__import__"):
        return None
    argument = (
        call.args[0]
        if call.args
        else next((word.value for word in call.keywords if word.arg == "name"), None)
    )
    return (
        argument.value
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
        else None
    )


def _texts(tree: ast.AST) -> Iterator[str]:
    """String constants and f-strings, but no docstrings: those are comments."""
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else _UNKNOWN
                for part in node.values
            )
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            # not of a docstring, or another text that stands by itself
            pending.extend(ast.iter_child_nodes(node))
