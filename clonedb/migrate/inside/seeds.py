"""Seeds: SQL files and functions that fill a migrated database, run in the interpreter that migrated it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["fill", "run_seed"]


def run_seed(seed: Mapping[str, str], setup: Mapping[str, Any]) -> None:
    """Run one seed, and commit; raises whatever it raises."""
    if "path" in seed:
        _run_sql(Path(seed["path"]).read_text(encoding="utf-8-sig"), setup["url"])
    else:
        _call(seed["module"], seed["function"], setup["own_url"])


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
        result.close()
        raise TypeError("this seed is a coroutine function, but it gets a synchronous connection; use def")
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise TypeError("this seed is a generator function, of which a call runs nothing; write it without yield")


def _run_sql(text: str, url: str) -> None:
    import psycopg

    from clonedb.url import DatabaseURL

    keywords: dict[str, Any] = DatabaseURL.parse(url).conninfo()
    with psycopg.connect("", **keywords) as connection:
        connection.execute(text.encode())
