"""Rows as lines: a name that was cut or broken to fit a terminal's width cannot be copied from it."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["lines"]


def lines(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equally many cells, a line each, every column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
