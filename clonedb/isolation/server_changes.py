"""What a test changed of the whole server, after it: undone, or told of."""

from __future__ import annotations

import contextlib

from clonedb.clones.clone import Clone
from clonedb.isolation.mode import CloneSource
from clonedb.rewind.server_changes import Left, ServerChanges

__all__ = ["CHANGED", "settle"]

CHANGED = "a role, or what else belongs to the whole server, was changed"


def settle(supply: CloneSource, clone: Clone, found: ServerChanges) -> None:
    """Drop the clone, whose sessions may have what was changed and whose objects may be a new role's, and undo it."""
    with contextlib.suppress(Exception):  # it is tried again behind the test, which tells of it
        clone.drop()
    left = found.undo(clone.server)
    supply.changed(_told(clone, left) if left else None)


def _told(clone: Clone, left: list[Left]) -> str:
    """`made role 'x' on server '...', which all later tests meet; ...`."""
    listed = _listed([one.what for one in left])
    statements = "; ".join(one.statement for one in left)
    if clone.server.embedded:
        why = (
            "; ".join(dict.fromkeys(one.why for one in left if one.why))
            or "only a person can tell what it is for"
        )
        remedy = f"clonedb could not undo that ({why}): undo it in the test, or by hand"
    else:
        remedy = "undo it in the test, or by hand, as clonedb does so on embedded servers only"
    return f"{listed} on {clone.server.about}, which all later tests, runs and projects meet; {remedy}: {statements}"


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
