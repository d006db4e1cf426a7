"""`python -m tests.language`: figures of how the package reads, beside what style says is usual; a sign, not an aim."""

from __future__ import annotations

import ast
import io
import re
import statistics
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

__all__ = ["Figures", "measure"]

_LONG = 12  # lines of a function's body from which on paragraphs are expected in it
_RIDDLE = re.compile(
    r"\b(?:who(?:m|se)?ever|nobody|somebody|anybody|no one|someone|anyone|whatever)\b",
    re.IGNORECASE,
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(slots=True)
class Figures:
    """Counts over some files."""

    lines: int = 0
    comments: int = 0
    widths: list[int] = field(default_factory=list)
    long_bodies: int = 0
    without_paragraph: int = 0
    docstrings: int = 0
    riddles: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        width = statistics.quantiles(self.widths, n=10)[-1]
        rows = (
            ("comments per 100 lines", 100 * self.comments / self.lines, ">= 4"),
            (
                f"% of bodies of {_LONG} lines or more without a blank line",
                _share(self.without_paragraph, self.long_bodies),
                "<= 25",
            ),
            ("width of lines, 90th percentile", width, "<= 92"),
            (
                "% of docstrings that speak of whoever, nobody, somebody",
                _share(len(self.riddles), self.docstrings),
                "<= 1",
            ),
        )
        return "\n".join(f"{value:7.1f}  {usual:6}  {name}" for name, value, usual in rows)


def measure(directory: Path) -> Figures:
    """The figures of every Python file below a directory."""
    figures = Figures()

    for path in sorted(directory.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        written = [line for line in source.splitlines() if line.strip()]
        figures.lines += len(written)
        figures.widths += [len(line) for line in written]
        figures.comments += sum(_comments(source))
        _read(ast.parse(source), source.splitlines(), path, figures)

    return figures


def _comments(source: str) -> Iterator[bool]:
    """One for each comment, of however many lines, that is no instruction to a tool."""
    before = 0

    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not re.match(
            r"#\s*(?:noqa|type:|pyright:|pragma)", token.string
        ):
            yield token.start[0] != before + 1
            before = token.start[0]


def _read(tree: ast.Module, lines: list[str], path: Path, figures: Figures) -> None:
    for node in ast.walk(tree):
        if isinstance(node, Function):
            _count_body(node, lines, figures)
        if isinstance(node, ast.Module | ast.ClassDef | Function) and (
            text := ast.get_docstring(node)
        ):
            figures.docstrings += 1
            if _RIDDLE.search(text):
                figures.riddles.append(
                    f"{path}:{getattr(node, 'lineno', 1)}: {text.splitlines()[0]}"
                )


def _count_body(function: Function, lines: list[str], figures: Figures) -> None:
    """Without its docstring."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    if not body:
        return
    written = lines[body[0].lineno - 1 : function.end_lineno]
    if len(written) >= _LONG:
        figures.long_bodies += 1
        figures.without_paragraph += all(line.strip() for line in written)


def _share(part: int, whole: int) -> float:
    return 100 * part / max(1, whole)


if __name__ == "__main__":
    found = measure(Path(__file__).parents[1] / "clonedb")
    click.echo(found)
    if "-v" in sys.argv:
        click.echo("\n".join(found.riddles))
