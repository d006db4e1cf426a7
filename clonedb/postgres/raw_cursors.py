"""Statements that are sent by a driver's own cursors, of which SQLAlchemy's events do not tell."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["driver_of", "hear", "hear_any", "package_of"]


def driver_of(connection: Any) -> Any:
    """The driver's own connection: the same one, or what SQLAlchemy's adapter of an asynchronous driver holds."""
    return getattr(connection, "driver_connection", connection)


def package_of(connection: Any) -> str:
    """The driver's package."""
    return type(driver_of(connection)).__module__.partition(".")[0]


def hear(connection: Any, listener: Callable[[str], None]) -> bool:
    """Have a listener told of every statement that is about to be sent, by cursors of any kind: False if it cannot be.

    Every cursor of psycopg's, synchronous or not, and its COPY and `stream()` send what a
    generator yields that they hand to the connection's `wait`.
    """
    driver = driver_of(connection)
    if package_of(connection) != "psycopg":
        return False
    wait = type(driver).wait
    # weak: the wrapper is an attribute of the connection, which would hold itself
    itself = weakref.ref(driver)

    def heard(generator: Any, *arguments: Any, **options: Any) -> Any:
        if inspect.isgenerator(generator):
            # it has not begun, so that these are its arguments
            said = inspect.getgeneratorlocals(generator)
            for name in ("query", "statement"):
                if (statement := said.get(name)) is not None:
                    listener(_text(statement, itself()))

        return wait(itself(), generator, *arguments, **options)

    driver.wait = heard
    return True


def hear_any(connection: Any, listener: Callable[[str], None]) -> None:
    """Have a listener told of every statement that psycopg, psycopg2 or asyncpg sends on a connection.

    The last two's connection objects are changed for that, so that they are not as new any
    more.
    """
    driver, package = driver_of(connection), package_of(connection)
    if package == "psycopg2":
        driver.cursor_factory = _heard(driver.cursor_factory, listener)
    elif package == "asyncpg" and hasattr(driver, "add_query_logger"):  # from 0.29 on
        driver.add_query_logger(lambda logged: listener(logged.query))
    else:
        hear(connection, listener)


def _heard(factory: Any, listener: Callable[[str], None]) -> type:
    """A class of psycopg2's cursors whose statements are heard."""
    from psycopg2.extensions import cursor

    class Heard(factory or cursor):  # type: ignore[misc]
        def execute(self, query: Any, *arguments: Any, **keywords: Any) -> Any:
            """Send a statement."""
            listener(_text(query, self))
            return super().execute(query, *arguments, **keywords)

        def executemany(self, query: Any, *arguments: Any, **keywords: Any) -> Any:
            """Send a statement several times."""
            listener(_text(query, self))
            return super().executemany(query, *arguments, **keywords)

    return Heard


def _text(statement: Any, driver: Any) -> str:
    if isinstance(statement, bytes):
        return statement.decode(errors="replace")
    return str(statement.as_string(driver) if hasattr(statement, "as_string") else statement)
