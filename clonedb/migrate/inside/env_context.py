"""What env.py finds when it runs: the options of the alembic command, and a connection."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from clonedb.migrate.inside.failure import RefusedError

if TYPE_CHECKING:
    import argparse

    from alembic.config import CommandLine

__all__ = [
    "Attributes",
    "command_options",
    "require_postgresql",
]


class Attributes(dict[str, Any]):
    """Alembic's `Config.attributes`: holds a connection for an env.py that insists on one.

    `attributes["connection"]` opens it. `attributes.get("connection")` finds nothing, so that
    an env.py that can do either makes its own engine, as under the alembic command: people put
    an Engine, an AsyncEngine or a Connection there, and no object is all three. One that cannot
    is run again, and then `get` finds one, too.
    """

    def __init__(self, url: str, *, given: bool) -> None:
        super().__init__()
        self._url = url
        self._opened: Any = None
        self.was_asked: bool = False
        if given:
            self["connection"] = self._connection()

    def get(self, key: str, default: Any = None) -> Any:
        """As a dict does, and remember that a connection was asked for."""
        self.was_asked = self.was_asked or key == "connection"
        return super().get(key, default)

    def __missing__(self, key: str) -> Any:
        if key != "connection":
            raise KeyError(key)
        self[key] = self._connection()
        return self[key]

    def _connection(self) -> Any:
        from sqlalchemy import create_engine, pool

        # NullPool: closing it ends the session
        connection: Any = create_engine(self._url, poolclass=pool.NullPool).connect()
        connection.connect = lambda: connection  # for an env.py that takes it for an engine
        self._opened = connection
        return connection

    def close(self) -> None:
        """Close the connection: one that idles in a transaction would block the next run of env.py."""
        if self._opened is not None:
            self._opened.close()


def command_options(setup: Mapping[str, Any], command: Sequence[str]) -> argparse.Namespace:
    """What the alembic command puts into `Config.cmd_opts` for a command and its arguments, as Alembic parses them."""
    given = ["--config", setup["ini"]] if setup["ini"] else []
    extra = [part for argument in setup["x"] for part in ("-x", argument)]
    return _command_line().parser.parse_args(
        [*given, "--name", setup["section"], *extra, *command]
    )


@cache
def _command_line() -> CommandLine:
    from alembic.config import CommandLine

    return CommandLine(prog="clonedb alembic")


def require_postgresql(context: Any, asked: Iterable[str]) -> None:
    """Refuse another database system's connection before Alembic makes its version table there."""
    name = context.dialect.name
    if name == "postgresql":
        return
    engine = getattr(context.connection, "engine", None)
    url = f" ({str(engine.url)!r})" if engine is not None else ""
    likely = [variable for variable in asked if _may_hold_url(variable)]
    variables = ", ".join(f'"{variable}"' for variable in likely[:3]) or '"DATABASE_URL"'
    whose = "" if likely else " with the name of the variable that it reads,"
    raise RefusedError(
        f"env.py connects to {name}{url} and not to PostgreSQL; nothing was migrated there. Add route = [{variables}]"
        f" to [tool.clonedb],{whose} or let env.py read sqlalchemy.url of its Config"
    )


def _may_hold_url(variable: str) -> bool:
    """Whether a variable that was asked for leads to a database, or might if it were set."""
    value = os.environ.get(variable)
    words = variable.upper().replace("-", "_").split("_")
    return (
        "://" in value
        if value
        else bool({"URL", "URI", "DSN", "DB", "DATABASE", "SQLALCHEMY"} & {*words})
    )
