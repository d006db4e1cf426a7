"""Templates that lost something in a crash of their server: the rows of their unlogged tables."""

from __future__ import annotations

import contextlib

from clonedb.names import unfinished_name
from clonedb.postgres import sql
from clonedb.postgres.server import Server
from clonedb.postgres.unlogged import emptied
from clonedb.templates.metadata import TemplateRecord
from clonedb.templates.seal import create

__all__ = ["what_is_lost"]


def what_is_lost(server: Server, template: TemplateRecord) -> str | None:
    """What a crash took from a template, for a person; None if it has all that it had.

    No session may connect to a template, so that a copy is looked at; one without unlogged
    tables is not.
    """
    import psycopg

    if not template.metadata.unlogged:
        return None
    private = unfinished_name(
        server.config.prefix, template.metadata.fingerprint, server.owner, server.next_number()
    )
    try:
        create(server, server.config, private, below=template)
        with contextlib.closing(server.connect(private)) as connection:
            lost = emptied(connection, template.metadata.unlogged)
    except psycopg.errors.InvalidCatalogName:  # it was dropped, which the next clone will meet
        return None
    finally:
        with contextlib.suppress(
            Exception
        ):  # an error before is the one to see, and gc drops what is left
            server.run(sql.drop_database, private)

    return None if lost is None else f"the rows of its unlogged relation {lost!r}"
