"""Connections that a test left open: the warning that says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clonedb.postgres.sql import Session

__all__ = ["LeakedConnectionWarning", "leak"]


class LeakedConnectionWarning(UserWarning):
    """A test ended with connections to its database open; they were ended, and the database was taken back.

    `filterwarnings = ["error::clonedb.LeakedConnectionWarning"]` makes an error of it.
    """


def leak(test: str, sessions: Sequence[Session]) -> LeakedConnectionWarning:
    """What a test left open: what the connections call themselves, and their last statements without a password."""
    from clonedb.url import redact

    listed = "; ".join(
        f"{session.application or 'no application_name'!r}, {session.state or 'state unknown'},"
        f" last statement {redact(' '.join(session.statement.split())[:200])!r}"
        for session in sessions[:3]
    )
    count = "an open connection" if len(sessions) == 1 else f"{len(sessions)} open connections"
    return LeakedConnectionWarning(
        f"{test} ended with {count} to its database ({listed}), which clonedb ended; close it in the test, or"
        " dispose of its engine"
    )
