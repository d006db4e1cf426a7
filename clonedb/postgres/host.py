"""`Host`: a server, as far as there is room on it for databases; what asks for room knows no more of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, LiteralString, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    from psycopg import Connection

    from clonedb.embedded.leases import Lease
    from clonedb.settings.config import Config

__all__ = ["Host"]

T = TypeVar("T")
P = ParamSpec("P")


class Host(Protocol):
    """The parts of `clonedb.postgres.server.Server` that decide about room: its attributes are the server's."""

    config: Config
    lease: Lease | None
    about: str
    say: Callable[[str], None]

    def run(
        self,
        function: Callable[Concatenate[Connection[Any], P], T],
        /,
        *arguments: P.args,
        **named: P.kwargs,
    ) -> T:
        """Call a function with the process's session with the maintenance database."""

    def rows(
        self, query: LiteralString, parameters: Sequence[object] = ()
    ) -> list[tuple[Any, ...]]:
        """The rows of one query on that session."""
