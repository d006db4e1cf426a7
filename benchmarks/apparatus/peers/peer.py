"""What a peer is: a conftest that gives tests a `database`, and what it takes to run it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Literal

__all__ = ["Peer", "Speaks"]

Speaks = Literal["psycopg", "sqlalchemy"]


@dataclass(frozen=True, slots=True, eq=False)
class Peer:
    """A way to give each test its database: the text of a conftest with a fixture `database`.

    What the fixture gives has `execute` and `commit`: a psycopg connection or a SQLAlchemy session, whichever its
    documentation shows. `plugins` are pytest's, by the names of their entry points: no others are loaded.
    """

    name: str
    series: Literal["clonedb", "peers", "rollback"]
    conftest: str
    speaks: Speaks
    plugins: tuple[str, ...] = ()
    options_in_parallel: tuple[str, ...] = ()
    distributions: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    own_server: bool = False
    """It runs a server of its own, and takes no other's."""
    needs_address: bool = False
    """It reaches its server by TCP only."""
    rows: int = 20
    """How many rows a test finds in each of the template's tables, which have 20."""
    slow: str = ""
    """Why it runs a few tests only, in one process, and not with `--quick`; empty if it runs as the others do."""

    @property
    def compared(self) -> bool:
        """Whether each test gets a database of its own, in the template's state, on the server that all are given."""
        return self.series == "peers" and not self.own_server and self.rows > 0

    def versions(self) -> str:
        """The peer's name with the versions of what it is made of."""
        return " with ".join(f"{name} {metadata.version(name)}" for name in self.distributions)

    def absent(self) -> str | None:
        """Which of its distributions is not installed; None when it can be tried."""
        for name in self.distributions:
            try:
                metadata.version(name)
            except metadata.PackageNotFoundError:
                return (
                    "not installed"
                    if name == self.distributions[0]
                    else f"{name} is not installed"
                )
        return None
