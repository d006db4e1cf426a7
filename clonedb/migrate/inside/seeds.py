"""Seeds: SQL files and functions that fill a migrated database, run in the interpreter that migrated it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["fill", "run_seed"]


def run_seed(
    seed: Mapping[str, str], setup: Mapping[str, Any], say: Callable[[str], None]
) -> set[str]:
    """Run one seed, and commit: what was left out of it, and why. Raises what it raises.

    `say` is told how far a long one is.
    """
    if "path" in seed:
        return _run_file(seed, setup, say)
    _call(seed["module"], seed["function"], setup["own_url"])
    return set()


def _call(module: str, names: str, url: str) -> None:
    from sqlalchemy import create_engine, pool

    function: Any = importlib.import_module(module)
    for name in names.split("."):
        function = getattr(function, name)
    with create_engine(url, poolclass=pool.NullPool).connect() as connection:
        fill(function, connection)
        connection.commit()


def fill(function: Callable[[Any], Any], connection: Any) -> None:
    """Call a seed; raises TypeError for a function whose call runs nothing of it."""
    result = function(connection)
    if hasattr(result, "__await__"):
        # or Python warns that it was never awaited
        result.close()
        raise TypeError(
            "this seed is a coroutine function, but it gets a synchronous connection; use def"
        )
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise TypeError(
            "this seed is a generator function, of which a call runs nothing; write it without yield"
        )


def _run_file(
    seed: Mapping[str, str], setup: Mapping[str, Any], say: Callable[[str], None]
) -> set[str]:
    import psycopg

    from clonedb.migrate.inside.sql_files import SeedFile
    from clonedb.url import DatabaseURL

    keywords: dict[str, Any] = DatabaseURL.parse(setup["url"]).conninfo()
    with psycopg.connect("", autocommit=True, **keywords) as connection:
        file = SeedFile(connection, Path(setup["rootdir"]), say)
        file.run(Path(seed["path"]), seed.get("pg_restore"))
        return file.left_out
