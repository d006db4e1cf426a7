"""The driver in the URLs that are handed out: one that SQLAlchemy knows, and that is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from types import MappingProxyType

from clonedb.errors import ConfigError
from clonedb.settings.config import Config
from clonedb.settings.key import nearest

__all__ = ["require_driver"]

_PACKAGES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "asyncpg": ("asyncpg", "asyncpg"),
        "pg8000": ("pg8000", "pg8000"),
        "psycopg": ("psycopg", "'psycopg[binary]'"),
        "psycopg2": ("psycopg2", "psycopg2-binary"),
        "psycopg2cffi": ("psycopg2cffi", "psycopg2cffi"),
        "psycopg_async": ("psycopg", "'psycopg[binary]'"),
    }
)
"""SQLAlchemy's names of the drivers that it has a dialect for: the module of each, and what to install."""


def require_driver(config: Config, driver: str | None) -> None:
    """Raises ConfigError for a driver, of the setting `driver` or else of the URL, that no engine could load here."""
    source = "driver" if config.driver else "url"
    if driver is None or driver == "psycopg":  # which clonedb itself needs
        return
    place = f"{config.source(source)}: the driver{'' if source == 'driver' else ' in url'} is {driver!r}"
    if driver not in _PACKAGES:
        from importlib.metadata import entry_points

        # a dialect that another package brings
        if not entry_points(group="sqlalchemy.dialects", name=f"postgresql.{driver}"):
            known = ", ".join(_PACKAGES)
            raise ConfigError(
                f"{place}, which SQLAlchemy does not know{nearest(driver, _PACKAGES)}; it knows {known}"
            )

        return

    module, package = _PACKAGES[driver]
    if importlib.util.find_spec(module) is None:
        raise ConfigError(
            f"{place}, which is not installed here; pip install {package}, or set driver to one that is"
        )
