"""Whether the database is where the migrations should have brought it, as another session sees it.

env.py may have forgotten to commit, or may have migrated another place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clonedb.migrate.inside.failure import NotMigratedError

__all__ = ["Heads", "require_at", "require_expected"]

Heads = Mapping[tuple[str, str | None], Sequence[str]]
"""The revisions in each version table, which has its schema or None."""


def require_at(target: str, found: Heads, script: Any, done: Sequence[str]) -> None:
    """Demand that no revision up to a target is missing; `done` are those that were run. Raises NotMigratedError."""
    for (table, schema), heads in found.items():
        left = script._upgrade_revs(target, heads)  # noqa: SLF001 - as `alembic upgrade` does
        if left:
            names = ", ".join(step.revision.revision for step in left[:3]) + (
                ", ..." if len(left) > 3 else ""
            )
            planned = {step.revision.revision for step in left} | {*done}
            raise NotMigratedError(
                f"the migrations ended without an error, but the version table {_shown(table, schema)} holds"
                f" {', '.join(heads) or 'nothing'}: {len(left)} of {len(planned)} revisions up to"
                f" {target!r} are missing ({names}); does env.py commit what it did, and on this connection?"
            )


def require_expected(found: Heads, expected: Heads) -> None:
    """Demand what the migrations' own session saw at their end. Raises NotMigratedError."""
    for (table, schema), heads in found.items():
        wanted = expected.get((table, schema), ())
        if set(heads) != set(wanted):
            raise NotMigratedError(
                f"the migrations ended without an error, but the version table {_shown(table, schema)} holds"
                f" {', '.join(heads) or 'nothing'} and not {', '.join(wanted) or 'nothing'}; does env.py commit"
                " what it did, and on this connection?"
            )


def _shown(table: str, schema: str | None) -> str:
    return repr(f"{schema}.{table}" if schema else table)
