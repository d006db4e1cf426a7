"""Engines on databases, and where their connections arrive."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from clonedb.url import DatabaseURL

WHERE = sa.text("select current_database()")


def engine_on(url: DatabaseURL, driver: str = "psycopg", **keywords: object) -> Engine:
    """A synchronous engine."""
    return sa.create_engine(url.replace(driver=driver).render(), **keywords)


def reached(engine: Engine) -> object:
    """The name of the database that a connection of the engine is on."""
    with engine.connect() as connection:
        return connection.scalar(WHERE)
