"""Models: their tables are created in the database that is being built."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from clonedb.migrate.inside.failure import RefusedError

__all__ = ["create_all", "project_modules"]


def create_all(names: Iterable[str], url: str) -> None:
    """Create the schemas and tables of all metadata, in the order in which they depend on each other.

    Raises RefusedError for a name that is no MetaData, for metadata without a table, and for a
    table that is in two of them; and what importing the modules and creating the tables raises.
    """
    from sqlalchemy import create_engine, pool
    from sqlalchemy.schema import CreateSchema

    found = [(name, metadata) for name in names for metadata in _metadata(name)]
    _require_tables(found)
    with create_engine(url, poolclass=pool.NullPool).begin() as connection:
        # create_all() makes no schema
        for schema in sorted(
            {schema for _, metadata in found for schema in _schemas(metadata)}
        ):
            connection.execute(CreateSchema(schema, if_not_exists=True))

        for _, metadata in found:
            metadata.create_all(connection)


def project_modules(rootdir: str) -> set[str]:
    """The files of the project's modules that are loaded: tables may come from one that no import statement names."""
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    prefix = os.path.join(rootdir, "")  # noqa: PTH118 - it is text
    return {
        file
        for file in files
        if file and file.startswith(prefix) and "site-packages" not in file
    }


def _metadata(name: str) -> Iterator[Any]:
    """What `module:attribute` stands for: a MetaData, a class of models, or a function that returns some."""
    from sqlalchemy import MetaData

    module, _, attributes = name.partition(":")
    found: Any = importlib.import_module(module)
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise RefusedError(f"metadata {name!r}: {module!r} has no {attributes!r}")
        found = getattr(found, attribute)

    if not isinstance(found, MetaData) and isinstance(
        getattr(found, "metadata", None), MetaData
    ):
        found = found.metadata  # `shop.models:Base`
    elif not isinstance(found, MetaData) and callable(found):
        found = found()

    several = (
        [found]
        if isinstance(found, MetaData) or not isinstance(found, Iterable)
        else list(found)
    )
    for each in several:
        if not isinstance(each, MetaData):
            raise RefusedError(
                f"metadata {name!r} is {type(each).__name__!r}, which is no MetaData; name one as"
                " 'package.module:Base.metadata', or a function that returns some"
            )

        yield each


def _require_tables(found: list[tuple[str, Any]]) -> None:
    owners: dict[str, tuple[str, Any]] = {}
    for name, metadata in found:
        if not metadata.tables:
            raise RefusedError(
                f"metadata {name!r} has no table; name a module that imports those which define the models"
            )

        for table in metadata.tables:
            other, owner = owners.setdefault(table, (name, metadata))
            # one MetaData may be named twice, as by its Base and by itself
            if owner is not metadata:
                raise RefusedError(
                    f"table {table!r} is in two metadata, of {other!r} and of {name!r}"
                )


def _schemas(metadata: Any) -> set[str]:
    """Those that tables, sequences and types are in, but for PostgreSQL's own."""
    columns = (column for table in metadata.tables.values() for column in table.columns)
    schemas = {metadata.schema, *(table.schema for table in metadata.tables.values())}
    schemas |= {getattr(column.type, "schema", None) for column in columns}
    return {schema for schema in schemas if schema}
