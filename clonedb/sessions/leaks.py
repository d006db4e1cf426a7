"""What a test should not have left: the warnings that say so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clonedb.postgres.client_sessions import ClientSession
    from clonedb.sessions.loans import Loan, Loans

__all__ = [
    "LeakedConnectionWarning",
    "ReadonlyWarning",
    "ServerChangedWarning",
    "held",
    "leaked_connection_warnings",
]


class LeakedConnectionWarning(UserWarning):
    """A test ended with connections to its database open, or something that it started connected after its end.

    The connections were ended, and the database was taken back. `filterwarnings =
    ["error::clonedb.LeakedConnectionWarning"]` makes an error of it.
    """


class ReadonlyWarning(UserWarning):
    """A test wrote to a database that is only to be read, which the server did not refuse."""


class ServerChangedWarning(UserWarning):
    """A test changed what belongs to the whole server, and it stays: roles, their settings, privileges, tablespaces.

    Sessions with the test's own database did so, not others. On a server that clonedb runs it
    is undone where possible.
    """


def leaked_connection_warnings(
    test: str, own: Loan | None, sessions: Sequence[ClientSession], loans: Loans
) -> Iterator[LeakedConnectionWarning]:
    """The warnings of what was open when a test, whose loan is `own`, had ended.

    What has the token of an earlier loan is not this test's, but another one's, which is named.
    """
    left: list[ClientSession] = []
    late: dict[Loan, list[ClientSession]] = {}
    # application_name is one of the parameters that may hold a token
    for session in sessions:
        loan = loans.find(session.application)
        if loan is not None:
            session = session._replace(application="")  # a token is no name that a user gave  # noqa: PLW2901
        if loan is None or loan is own:
            left.append(session)
        else:
            late.setdefault(loan, []).append(session)

    if left:
        yield LeakedConnectionWarning(
            f"{test} ended with {_count(left)} to its database ({_listed(left)}), which clonedb ended; close it in the"
            " test, or dispose of its engine"
        )

    for loan, some in late.items():
        yield LeakedConnectionWarning(
            f"{loan.holder} had ended when {_count(some)} by its URL came to the database of {test}"
            f" ({_listed(some)}), which may have met what was written; clonedb ended it; have the first of the two wait"
            " for the threads and processes that it starts"
        )


def _count(sessions: Sequence[ClientSession]) -> str:
    return "an open connection" if len(sessions) == 1 else f"{len(sessions)} open connections"


def _listed(sessions: Sequence[ClientSession]) -> str:
    """What the connections call themselves, and their last statements without a password."""
    from clonedb.url import redact

    return "; ".join(
        f"{session.application or 'no application_name'!r}, {session.state or 'state unknown'},"
        f" last statement {redact(' '.join(session.statement.split())[:200])!r}"
        for session in sessions[:3]
    )


def held(test: str, what: str = "clonedb_connection") -> LeakedConnectionWarning:
    """What a test left open on the connection of a fixture."""
    return LeakedConnectionWarning(
        f"{test} ended in the middle of a COPY, `stream()`, `notifies()` or pipeline on {what}, which"
        " clonedb closed; end it in the test, or use a `with` block"
    )
